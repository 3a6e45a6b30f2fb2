import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.errors import InputError
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from tests.shards.conftest import TAXONOMY, toy_records

runner = CliRunner()


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    write_set(
        tmp_path / "toy",
        toy_records(4),
        Header(taxonomy=TAXONOMY, kind="panoptic", name="toy", command="t"),
    )
    return tmp_path


def ask(*arguments: str | Path) -> dict:
    result = runner.invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == 0 and result.stdout.count("\n") == 1
    told: dict = json.loads(result.stdout)
    return told


def test_split_then_merge_gives_the_set_back(toy):
    told = ask(
        "split", toy / "toy", "--part", "train=0.75", "--part", "val=0.25", "--out", toy / "parts"
    )
    assert {name: part["images"] for name, part in told["parts"].items()} == {"train": 3, "val": 1}
    merged = ask("merge", toy / "parts" / "train", toy / "parts" / "val", "--out", toy / "again")
    assert (merged["images"], merged["segments"]) == (4, 12)
    assert ask("diff", toy / "toy", toy / "again")["identical"]
    assert ask("validate", toy / "again")["valid"]


def test_relabel_writes_the_new_classes(toy):
    (toy / "map.csv").write_text("from,to\ncat,cat\nsky,sky-other-merged\n")
    told = ask(
        "relabel",
        toy / "toy",
        "--taxonomy",
        "coco-panoptic-133",
        "--map",
        toy / "map.csv",
        "--out",
        toy / "coco",
    )
    assert told["ledger"]["input"] == told["ledger"]["kept"] == 12
    assert ShardSet.open(toy / "coco").taxonomy.name == "coco-panoptic-133"
    assert ask("diff", toy / "toy", toy / "coco")["classes"]["cat"]["iou"] == 1


def test_tables_for_people(toy):
    shown = runner.invoke(app, ["diff", str(toy / "toy"), str(toy / "toy")], env={"COLUMNS": "200"})
    assert "identical" in shown.stdout and "1.00" in shown.stdout


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--part", "a=x"],
        ["--part", "a"],
        ["--part", "a=1", "--list", "b=f"],
        ["--part", "../a=1"],
    ],
)
def test_parts_that_are_none(toy, options):
    result = runner.invoke(app, ["split", str(toy / "toy"), "--out", str(toy / "p"), *options])
    assert isinstance(result.exception, InputError)


def test_leakage_stops_with_exit_code_1(toy):
    ask("split", toy / "toy", "--part", "a=0.5", "--part", "b=0.5", "--out", toy / "parts")
    apart = ask("leakage", toy / "parts" / "a", toy / "parts" / "b")
    assert (apart["exact"], apart["near"]) == (0, 0)
    found = runner.invoke(app, ["leakage", str(toy / "toy"), str(toy / "parts" / "a"), "--json"])
    assert found.exit_code == 1 and json.loads(found.stdout)["exact"] == 2
