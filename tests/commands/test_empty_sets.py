"""A set without images, given to every command that takes a set: it works, or is one clear line."""

import json
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.errors import InputError
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from tests.training.toy import TAXONOMY, write_recipe

REFUSED = {
    "browse {empty} --no-app": "the set has no images; give another set",
    "show {empty}": "the set has no images; give another set",
    "show {toy} --predictions {empty}": "has none of the images",
    "calibrate --checkpoint {run} --data {empty}": "no segment has a mask",
    "pseudolabel --teacher box --data {empty} --out {out}": "no segment lacks a mask",
    "pseudolabel --teacher box --data {boxes} --truth {empty} --out {out}": "no segment has a mask",
    "eval --data {empty} --task panoptic --compare {toy} {toy} --out {out}": "has no images",
    "train --recipe {recipe} --data {toy} --data {empty} --out {out}": "it has no images",
    "selftrain --recipe {recipe} --data {empty} --boxes {boxes} --out {out}": "it has no images",
    "selftrain --recipe {recipe} --data {toy} --boxes {empty} --out {out}": "it has no images",
    "selftrain --recipe {recipe} --data {toy} --boxes {boxes} --held-out {empty} --out {out}": "",
    "split {empty} --part a=0.5 --part b=0.5 --out {out}": "part a; give a set with images",
    "split {empty} --zero-shot {classes} --out {out}": "the seen part; give another set",
    "zeroshot bank --checkpoint {run} --data {empty} --out {out}": "is not the seen part",
    "benchmark open-vocabulary --data {empty} --predictions {empty} --out {out}": "",
}
"""Command -> what its error says; nothing where that is about another thing than the images."""
ACCEPTED = (
    *("inspect {empty}", "validate {empty}", "prune {empty}/..", "vocabulary show {empty}"),
    *("diff {empty} {empty}", "leakage {empty} {toy}"),
    "predict --checkpoint {run} --data {empty} --device cpu --native --preview --out {out}",
    "eval --data {empty} --task panoptic --predictions {empty} --out {out}",
    "eval --data {toy} --task instance --predictions {empty} --out {out}",
    "eval --data {empty} --task semantic --checkpoint {run} --device cpu --out {out}",
    "train --recipe {recipe} --data {toy} --eval-data {empty} --steps 1 --device cpu --out {out}",
    "eval --data {toy} --task panoptic --compare {empty} {empty} --out {out}",
    "benchmark ade-panoptic --data {empty} --predictions {empty} --out {out}",
    "benchmark ade-semantic --data {empty} --predictions {empty} --out {out}",
    "benchmark coco-panoptic --data {empty} --predictions {empty} --out {out}",
    "merge {empty} {toy} --rename --out {out}",
    "relabel {empty} --taxonomy {toy} --map {map} --out {out}",
    *("export coco-instances --data {empty} --out {out}", "export voc --data {empty} --out {out}"),
    *("export coco-panoptic --data {empty} --out {out}", "export cvat --data {empty} --out {out}"),
    *("export yolo --data {empty} --out {out}", "export yolo-seg --data {empty} --out {out}"),
    "export labelstudio --data {empty} --out {out}",
    *("export labelme --data {empty} --out {out}", "export semantic --data {empty} --out {out}"),
)
OF_NATIVE_FILES = {"benchmark objects365"}


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    header = Header(taxonomy=TAXONOMY, kind="panoptic", name="none", command="test")
    return write_set(tmp_path_factory.mktemp("empty") / "none", (), header)


@pytest.fixture
def places(
    empty: ShardSet, toy: ShardSet, boxes: ShardSet, run: Path, tmp_path: Path
) -> dict[str, Path]:
    files = {"map": tmp_path / "map.csv", "classes": tmp_path / "classes.txt"}
    files["map"].write_text("from,to\nsky,sky\ncat,cat\n")
    files["classes"].write_text("cat\n")
    files |= {"recipe": write_recipe(tmp_path / "tiny.toml"), "out": tmp_path / "out"}
    return {"empty": empty.path, "toy": toy.path, "boxes": boxes.path, "run": run, **files}


def call(line: str, places: dict[str, Path]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CliRunner().invoke(app, [word.format(**places) for word in line.split()])


@pytest.mark.parametrize("line", REFUSED)
def test_an_empty_set_is_refused_in_one_line(line: str, places: dict[str, Path]) -> None:
    if line.startswith("browse") and find_spec("fiftyone") is None:
        pytest.skip("needs FiftyOne")
    error = call(line, places).exception
    assert isinstance(error, InputError), error
    assert REFUSED[line] in str(error) and "\n" not in str(error)
    assert not places["out"].exists() or not list(places["out"].rglob("v1"))


@pytest.mark.parametrize("line", ACCEPTED)
def test_an_empty_set_is_accepted(line: str, places: dict[str, Path]) -> None:
    result = call(line, places)
    assert result.exit_code == 0, (result.output, result.exception)


def _leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The commands with a parameter that reads a set."""
    for name, child in getattr(command, "commands", {}).items():
        yield from _leaves(child, (*path, name))
    if any("SET" in str(p.metavar) and p.name != "out" for p in command.params):
        yield " ".join(path)


def test_the_table_has_every_command_that_takes_a_set() -> None:
    lines = (*REFUSED, *ACCEPTED)
    missing = [
        leaf
        for leaf in _leaves(typer.main.get_command(app))
        if not any(line.startswith(f"{leaf} ") for line in lines)
    ]
    assert set(missing) == OF_NATIVE_FILES


def test_predictions_of_an_empty_set_are_a_layer_of_it(
    empty: ShardSet, places: dict[str, Path]
) -> None:
    line = "predict --checkpoint {run} --data {empty} --device cpu --out {out} --json"
    predictions = ShardSet.open(json.loads(call(line, places).stdout)["path"])
    assert len(predictions) == 0 and predictions.manifest.name == "none"
    assert empty.manifest.digest in [parent.digest for parent in predictions.manifest.parents]
