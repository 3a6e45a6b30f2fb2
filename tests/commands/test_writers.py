"""Every command that writes a version records what it reads, and spares an interrupted training.

What it reads is known from the parents in the manifest, which other code writes. A function that
stages a version and is called by no writer of the table fails a test.
"""

import ast
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

import segkit
from segkit.browse.review import Tags, write_back
from segkit.commands.app import app
from segkit.errors import InputError
from segkit.runs.calibrated_version import publish_calibrated
from segkit.runs.calibration import Calibration, CalibrationCheck, ScoreMap
from segkit.runs.import_checkpoint import import_checkpoint
from segkit.runs.open_run import load_run
from segkit.shards import publish
from segkit.shards.header import Header
from segkit.shards.manifest import Parent
from segkit.shards.publish import staging
from segkit.shards.reader import ShardSet
from segkit.shards.unfinished import write_writer
from segkit.shards.writer import write_layer, write_set
from segkit.shards.zero_shot_split import ZeroShotRecord
from segkit.taxonomy import Category, Taxonomy
from segkit.training.train import train
from segkit.zeroshot.bank import open_bank
from segkit.zeroshot.class_heads import write_head
from segkit.zeroshot.collect_bank import write_bank
from segkit.zeroshot.settings import ZeroShotSettings
from tests.training.toy import TAXONOMY, write_recipe


class World(NamedTuple):
    """What the writers read."""

    toy: ShardSet
    boxes: ShardSet
    run: Path
    bank: Path
    folder: Path


def invoke(*arguments: object) -> None:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output


def convert(world: World, out: Path) -> None:
    file = world.folder / "coco.json"
    image = {"id": 1, "file_name": "a.png", "width": 4, "height": 4}
    categories = [{"id": 1, "name": "cat"}]
    file.write_text(json.dumps({"images": [image], "annotations": [], "categories": categories}))
    options = ("--images", world.folder, "--images-by", "none", "--out", out)
    invoke("convert", "coco", "--instances", file, *options)


def merge(world: World, out: Path) -> None:
    other = write_layer(world.folder / "other", world.toy, (), Header.from_set(world.toy, "test"))
    invoke("merge", world.toy.path, other.path, "--out", out)


def relabel(world: World, out: Path) -> None:
    file = world.folder / "map.csv"
    file.write_text("from,to\nsky,sky\ncat,cat\n")
    (world.folder / "taxonomy.json").write_text(json.dumps(TAXONOMY.to_json()))
    options = ("--taxonomy", world.folder / "taxonomy.json", "--map", file, "--out", out)
    invoke("relabel", world.toy.path, *options)


def split(world: World, out: Path) -> None:
    parts = ("--part", f"{out.name}=0.5", "--part", "rest=0.5")
    invoke("split", world.toy.path, *parts, "--out", out.parent)


def split_zero_shot(world: World, out: Path) -> None:
    file = world.folder / "classes.txt"
    file.write_text("cat\n")
    options = ("--zero-shot", file, "--policy", "ignore-pixels", "--out", out.parent)
    invoke("split", world.toy.path, *options)


def review(world: World, out: Path) -> None:
    tags = Tags(images={"000": {"blurred"}})
    write_back(world.toy, out, tags, {"blurred": "drop"}, {})


def predict_set(world: World, out: Path) -> None:
    options = ("--data", world.toy.path, "--device", "cpu", "--out", out.parent)
    invoke("predict", "--checkpoint", world.run, *options)


def predict_folder(world: World, out: Path) -> None:
    photos = world.folder / "photos"
    photos.mkdir(exist_ok=True)
    (photos / "a.png").write_bytes(world.toy.image_bytes(world.toy.sample(0)))
    options = ("--images", photos, "--classes", "cat", "--device", "cpu", "--out", out.parent)
    invoke("predict", "--checkpoint", world.run, *options)


def pseudolabel(world: World, out: Path) -> None:
    options = ("--data", world.boxes.path, "--device", "cpu", "--out", out)
    invoke("pseudolabel", "--checkpoint", world.run, *options)


def calibrate(world: World, out: Path) -> None:
    check = CalibrationCheck(
        images=1, boxes=1, error=0, raw_error=0, box_error=0, spearman=0, raw_spearman=0, bins=()
    )
    maps = {"all": ScoreMap(scores=(0.5,), ious=(0.5,), boxes=1)}
    calibration = Calibration(seed=0, min_boxes=1, images=1, maps=maps, check=check)
    publish_calibrated(load_run(world.run), calibration, world.toy, out)


def import_run(world: World, out: Path) -> None:
    pytest.importorskip("transformers")
    from tests.model.checkpoints import mask2former, save

    model = mask2former("resnet18", ["cat", "sky"])
    import_checkpoint(f"hf:{save(model, world.folder / 'public')}", out)


def write_embedded(world: World, out: Path) -> None:
    """Such as `scripts/compositional_scenes.py` and demos write; here made of another set."""
    parents = (world.toy.as_parent(out),)
    header = Header(taxonomy=TAXONOMY, kind="panoptic", name="x", command="x", parents=parents)
    records = ((sample, world.toy.image_bytes(sample)) for sample in world.toy.samples())
    write_set(out, records, header)


def collect_bank(world: World, out: Path) -> None:
    unseen = Taxonomy("unseen", (Category(9, "cow", "thing"),))
    record = ZeroShotRecord("cows", "drop-image", unseen.to_json())
    write_bank(load_run(world.run), world.toy, record, out, no_object=3)


def train_head(world: World, out: Path) -> None:
    folder, manifest, bank = open_bank(world.bank)
    settings = ZeroShotSettings(generator="mlp", generator_steps=1, head_steps=1)
    parent = Parent.from_version(folder, manifest.digest, out)
    write_head(load_run(world.run), bank, parent, settings, out, {})


def train_run(world: World, out: Path) -> None:
    recipe = write_recipe(world.folder / "tiny.toml")
    start = [f'model.init_from="{world.run}"']
    train(str(recipe), str(world.toy.path), out, steps=1, device="cpu", overrides=start)


WRITERS = {
    writer.__name__: writer
    for writer in (
        *(convert, merge, relabel, split, split_zero_shot, review, predict_set, predict_folder),
        *(pseudolabel, calibrate, import_run, write_embedded, collect_bank, train_head, train_run),
    )
}


class Published(NamedTuple):
    """What a writer staged and published."""

    callers: set[str]
    """File and name of the functions that called `staging`."""
    inputs: set[str]
    """As staging recorded them."""
    read: list[tuple[str, str]]
    """Digest and path of each parent in the manifest."""


@pytest.fixture(scope="module")
def world(
    toy: ShardSet, boxes: ShardSet, run: Path, tmp_path_factory: pytest.TempPathFactory
) -> World:
    folder = tmp_path_factory.mktemp("world")
    world = World(toy, boxes, run, folder / "bank" / "v1", folder)
    collect_bank(world, folder / "bank")
    return world


@pytest.fixture(scope="module")
def published(world: World) -> dict[str, Published]:
    """All writers, each into a directory of its own."""
    result, staged = {}, list[tuple[str, list[str]]]()

    def record(partial: Path, inputs: list[str], *, precious: bool) -> None:
        staged.append((_caller(), inputs))
        write_writer(partial, inputs, precious=precious)

    for name, write in WRITERS.items():
        out = _directory(world.folder / name, name)
        staged.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(publish, "write_writer", record)
            write(world, out)
        version = (out / "v1").resolve()
        manifest = json.loads((version / "manifest.json").read_text())
        parents = manifest["parents"]
        read = [(parent["digest"], str((version / parent["path"]).resolve())) for parent in parents]
        result[name] = Published({c for c, _ in staged}, {i for _, ii in staged for i in ii}, read)
    return result


def _directory(folder: Path, name: str) -> Path:
    """The directory of the versions; `predict` and a zero-shot split choose its name."""
    return folder / ("predictions" if name.startswith("predict") else "seen")


def _caller() -> str:
    """The function on the stack that called `staging`."""
    frame, callers = sys._getframe(), _callers()
    while frame.f_back is not None:
        frame = frame.f_back
        if (place := f"{frame.f_code.co_filename} {frame.f_code.co_name}") in callers:
            return place
    raise AssertionError("not called from staging")


@cache
def _callers() -> frozenset[str]:
    """File and name of every function of the library that calls `staging`."""
    return frozenset(
        f"{file} {function.name}"
        for file in Path(segkit.__file__).parent.rglob("*.py")
        for function in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(function, ast.FunctionDef)
        if "staging" in {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    )


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_records_all_that_it_reads(published: dict[str, Published], name: str) -> None:
    _, inputs, read = published[name]
    assert bool(read) == (name not in ("convert", "import_run"))
    assert [parent for parent in read if inputs.isdisjoint(parent)] == []


def test_the_table_has_all_writers(published: dict[str, Published]) -> None:
    assert set.union(*(staged.callers for staged in published.values())) == _callers()


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_spares_an_interrupted_training(world: World, tmp_path: Path, name: str) -> None:
    out = _directory(tmp_path, name)
    options: dict[str, Any] = {"resume": True, "content": "run", "precious": True}
    with staging(out, {"command": "train"}, inputs=(), **options) as stage:
        (stage.path / "checkpoints" / "step-00000002").mkdir(parents=True)
    before = sorted(out.rglob("*"))
    with pytest.raises(
        InputError, match=r"/(seen|predictions): holds an interrupted (training|run); \w"
    ) as error:
        WRITERS[name](world, out)
    assert "\n" not in str(error.value)
    assert sorted(out.rglob("*")) == before and not list(tmp_path.glob("*/v1"))
