"""Names in a set write nothing outside of the destination, and read no file of the user."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.errors import InputError, SegkitError
from segkit.sample import ImageRef, Sample
from segkit.shards.header import Header
from segkit.shards.locations import IMAGES_ROOT
from segkit.shards.manifest_file import manifest_digest
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from tests.training.toy import write_recipe, write_toy_set

NAMES = (
    "../../escaped",
    "/{world}/escaped",
    "..",
    "a/../../../escaped",
    "C:\\escaped",
    "\\\\server\\escaped",
    "x" * 300,
    "a\0b",
    "a/./b",
    "a//b",
    "~/escaped",
    "$HOME/escaped",
    "file:///{world}/escaped",
    ".hidden/.",
    "line\nbreak",
    "plain",
    "folder/plain",
)
CPU = ("--device", "cpu")
Snapshot = dict[str, tuple[int, int]]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything that a command could reach: home, cache, working directory, destination."""
    for name in ("home", "cache", "here/below", "out"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(IMAGES_ROOT, raising=False)
    monkeypatch.chdir(tmp_path / "here" / "below")
    return tmp_path


def snapshot(world: Path) -> Snapshot:
    """Size and time of every file outside of the destination and the cache."""
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in world.rglob("*")
        if path.is_file() and path.relative_to(world).parts[0] not in ("out", "cache")
    }


def hostile_set(world: Path, *, name: str = "toy", ids: bool, files: bool) -> ShardSet:
    toy = write_toy_set(world / "plain")
    samples = [*toy.samples()]

    def record(number: int, text: str) -> tuple[Sample, bytes]:
        sample = samples[number % len(samples)]
        text = text.format(world=str(world).strip("/"))
        renamed = replace(
            sample,
            id=text if ids else f"{number}",
            file_name=f"{text}.png" if files else f"{number}.png",
        )
        return renamed, toy.image_bytes(sample)

    records = [record(number, text) for number, text in enumerate(NAMES)]
    header = Header(taxonomy=toy.taxonomy, kind="panoptic", name=name, split=name, command="test")
    return write_set(world / "set", records, header)


def invoke(*arguments: object) -> str:
    """The output; raises the command's error."""
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_overlays_of_any_id_are_written_inside_the_destination(world: Path, run: Path) -> None:
    shards = hostile_set(world, ids=True, files=False)
    before = snapshot(world)
    options = ("--data", shards.path, "--out", world / "out", "--task", "semantic", *CPU)
    invoke("predict", "--checkpoint", run, *options)
    assert snapshot(world) == before
    overlays = world / "out" / "overlays" / "v1"
    assert len([path for path in overlays.rglob("*") if path.is_file()]) == len(NAMES)
    for plain in ("plain.jpg", "folder/plain.jpg"):
        assert (overlays / plain).is_file()


def test_reports_and_pictures_of_any_name_stay_inside(world: Path, run: Path) -> None:
    shards = hostile_set(world, ids=True, files=True)
    before = snapshot(world)
    options = ("--data", shards.path, "--task", "panoptic", "--out", world / "out")
    invoke("eval", *options, "--predictions", shards.path)
    invoke("show", shards.path, "--out", world / "out" / "picture.png")
    assert snapshot(world) == before


@pytest.mark.parametrize("name", ["my/set", "../../escaped"])
def test_a_set_of_any_name_can_be_evaluated_while_training(world: Path, name: str) -> None:
    shards = hostile_set(world, name=name, ids=False, files=False)
    recipe = write_recipe(world / "tiny.toml")
    before = snapshot(world)
    data = ("--data", shards.path, "--eval-data", shards.path)
    invoke("train", "--recipe", recipe, *data, "--steps", 1, "--out", world / "out" / "run", *CPU)
    assert snapshot(world) == before
    pictures = list((world / "out" / "run" / "v1" / "pictures").iterdir())
    assert len(pictures) == 1 and pictures[0].name.startswith("step-00000001-")


@pytest.mark.parametrize(
    "form", ["coco-instances", "coco-panoptic", "semantic", "yolo", "voc", "cvat", "labelme"]
)
@pytest.mark.parametrize("name", ["toy", "..", "../../escaped", "a/b"])
def test_exports_write_inside_or_refuse(world: Path, form: str, name: str) -> None:
    shards = hostile_set(world, name=name, ids=True, files=True)
    before = snapshot(world)
    destination = world / "out" / "exported"
    try:
        invoke("export", form, "--data", shards.path, "--out", destination, "--images")
    except SegkitError as error:
        assert "\n" not in str(error).replace("line\nbreak", "")
        assert not destination.exists()
    assert snapshot(world) == before
    assert not [path for path in (world / "out").iterdir() if "escaped" in path.name]


def test_a_set_of_any_name_is_exported(world: Path) -> None:
    """The name and split become parts of file names."""
    toy = write_toy_set(world / "plain")
    header = Header(taxonomy=toy.taxonomy, kind="panoptic", name="..", split="..", command="test")
    records = [(sample, toy.image_bytes(sample)) for sample in toy.samples()]
    shards = write_set(world / "set", records, header)
    before = snapshot(world)
    for form in ("coco-instances", "coco-panoptic", "semantic", "yolo", "voc"):
        out = world / "out" / form
        invoke("export", form, "--data", shards.path, "--out", out, "--images")
        assert len(list(out.rglob("*.png"))) >= len(toy)
    assert snapshot(world) == before


def test_extracted_files_stay_in_the_cache(world: Path) -> None:
    from segkit.browse.media import class_map_file, image_file, media_root

    shards = hostile_set(world, ids=True, files=True)
    before = snapshot(world)
    inside = [
        path.resolve().is_relative_to(media_root().resolve())
        for sample in shards.samples()
        for path in (
            image_file(shards, sample, media_root()),
            class_map_file(shards, sample, media_root()),
        )
    ]
    assert all(inside) and len(inside) == 2 * len(NAMES)
    assert snapshot(world) == before


def crafted_set(world: Path, target: Path) -> Path:
    """A set by reference, as it comes from elsewhere, whose row names a file of the user."""
    toy = write_toy_set(world / "plain")
    sample = replace(next(toy.samples()), image=ImageRef(path=str(target)))
    header = Header(taxonomy=toy.taxonomy, kind="panoptic", name="x", command="t", images_by="none")
    path = write_set(world / "crafted", [(sample, None)], header).path
    file = path / "manifest.json"
    content = {**json.loads(file.read_text()), "images_by": "reference"}
    content["manifest_digest"] = manifest_digest(content)
    file.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    "form",
    ["coco-instances", "coco-panoptic", "semantic", "yolo", "yolo-seg", "voc", "cvat", "labelme"],
)
def test_every_export_of_images_takes_images_root(world: Path, form: str) -> None:
    """The error that names the option must not name one that the command lacks."""
    toy = write_toy_set(world / "toy")
    target = world / "home" / "photos" / "a.png"
    target.parent.mkdir()
    target.write_bytes(toy.image_bytes(next(toy.samples())))
    command = ("export", form, "--data", crafted_set(world, target), "--images", "--out")
    with pytest.raises(InputError, match=f"--images-root {target.parent}"):
        invoke(*command, world / "out" / "refused")
    invoke(*command, world / "out" / "allowed", "--images-root", target.parent)
    assert len(list((world / "out" / "allowed").rglob("*.png"))) >= 1


@pytest.mark.parametrize("by_option", [True, False])
def test_images_outside_need_images_root(
    world: Path, by_option: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = write_toy_set(world / "toy")
    target = world / "home" / "photos" / "a.png"
    target.parent.mkdir()
    target.write_bytes(toy.image_bytes(next(toy.samples())))
    crafted = crafted_set(world, target)
    command: Callable[[str], tuple[object, ...]] = lambda out: (  # noqa: E731
        *("export", "coco-panoptic", "--data", crafted, "--images"),
        *("--out", world / "out" / out),
    )
    with pytest.raises(InputError, match=f"--images-root {target.parent}"):
        invoke(*command("refused"))
    assert not (world / "out" / "refused").exists()
    if by_option:
        invoke(*command("allowed"), "--images-root", world / "here", "--images-root", target.parent)
        assert not os.environ.get(IMAGES_ROOT)
    else:
        monkeypatch.setenv(IMAGES_ROOT, str(target.parent))
        invoke(*command("allowed"))
    (copy,) = (world / "out" / "allowed" / "images").iterdir()
    assert copy.read_bytes() == target.read_bytes()
    with pytest.raises(InputError, match="no such folder; check --images-root"):
        invoke(*command("typo"), "--images-root", world / "absent")
