"""What segkit published inside a folder of images is not read from there as input."""

import shutil
from pathlib import Path

import pytest

from segkit.errors import InputError, UnchangedWarning
from segkit.inference.input_files import image_files
from segkit.inference.outputs import write_overlays
from segkit.report.preview import write_preview
from segkit.shards.prune import plan_pruning, prune
from segkit.shards.reader import ShardSet
from segkit.sources.engine import ConvertOptions, convert
from segkit.sources.image_files import visible_files
from segkit.sources.yolo_labels import open_yolo

from .builders import picture, write_json
from .test_remote import copied

OWN = ("a.jpg", "overlays/v1/b.jpg", "trip/v1/c.jpg", "trip/v1.png", "v3/d.jpg", "v3.png")
"""Images of the user, some in folders with the names that segkit gives."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The images with labels in YOLO's format, and the manifest of another program."""
    for seed, name in enumerate(OWN):
        path = picture(tmp_path / "data" / name, seed=seed)
        path.with_suffix(".txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data" / "classes.txt").write_text("blob\n")
    write_json(tmp_path / "data" / "trip" / "v1" / "manifest.json", {"schema": "app/1"})
    write_json(tmp_path / "data" / "v3" / "manifest.json", ["segkit.shards/1"])
    return tmp_path / "data"


def images(folder: Path) -> list[str]:
    return sorted(name for name in visible_files(folder) if name.endswith((".jpg", ".png")))


def converted(folder: Path, out: Path) -> ShardSet:
    convert(open_yolo(folder), out, ConvertOptions(workers=1, name="set"))
    return ShardSet.open(out)


def test_versions_with_their_pictures_overlays_and_native_files_are_left_out(folder: Path) -> None:
    before = sorted(visible_files(folder))
    first = converted(folder, folder / "work" / "predictions")
    write_preview(first)
    first.path.with_suffix(".html").write_text("<img>")
    write_overlays(first, folder / "work" / "overlays" / "v1")
    picture(folder / "work" / "native" / "v1" / "masks" / "a.png")
    assert len(list(folder.rglob("*"))) > len(before) + 20
    assert sorted(visible_files(folder)) == before
    root, files, passed_over = image_files(folder)
    assert {file.relative_to(root).as_posix() for file in files} == {*OWN}
    assert not {".tar", ".parquet"} & {*passed_over}
    with pytest.warns(UnchangedWarning):
        again = converted(folder, folder / "work" / "predictions")
    assert again.manifest.digest == first.manifest.digest
    assert list(again.image_ids()) == sorted(name.rpartition(".")[0] for name in OWN)


def test_overlays_of_a_pruned_version_are_left_out_and_files_given_by_name_are_read(
    folder: Path,
) -> None:
    out = folder / "predictions"
    converted(folder, out)
    write_overlays(ShardSet.open(out), folder / "overlays" / "v1")  # replaces the user's
    expected = sorted({*OWN} - {"overlays/v1/b.jpg"})
    picture(folder / "e.jpg", seed=9)
    converted(folder, out)
    prune(out, plan_pruning(out, 1, out))
    assert not (out / "v1").exists() and images(folder) == sorted([*expected, "e.jpg"])
    assert images(folder / "overlays") and images(folder / "overlays" / "v1")
    with pytest.raises(InputError, match="no images found"):
        image_files(out)


def test_a_store_gives_the_same_files(folder: Path, store: Path) -> None:
    version = converted(folder, folder / "set").path
    shutil.copy(folder / "a.jpg", version.with_suffix(".png"))
    copied(folder, store)
    assert images(store) == images(folder) == sorted(OWN)
