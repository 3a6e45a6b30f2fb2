import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.errors import InputError, SegkitError
from segkit.shards.header import Header
from segkit.shards.manifest import Count, Ledger
from segkit.shards.publish import staging
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_layer, write_set
from tests.shards.conftest import TAXONOMY, toy_records
from tests.shards.manifests import change_manifest, unprotect

runner = CliRunner()


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    ledger = Ledger(
        annotations=Count(input=7, kept=6, dropped={"empty-mask": 1}), images=Count(input=2, kept=2)
    )
    parent = write_set(
        tmp_path / "toy",
        toy_records(2),
        Header(
            taxonomy=TAXONOMY,
            kind="panoptic",
            name="toy",
            split="val",
            command="convert coco",
            arguments={"images": "[pictures]"},
        ),
        ledger=ledger,
    )
    write_layer(
        tmp_path / "layer", parent, parent.samples(), Header.from_set(parent, "pseudolabel")
    )
    return tmp_path


def run_json(*arguments: str | Path) -> dict:
    result = runner.invoke(app, [*map(str, arguments), "--json"])
    assert result.stdout.count("\n") == 1
    return {"exit": result.exit_code, **json.loads(result.stdout)}


def test_inspect_shows_counts_and_lineage_to_the_source(toy):
    result = run_json("inspect", toy / "layer")
    assert result["schema"] == "segkit.inspect/1"
    assert (result["version"], result["kind"], result["images"], result["segments"]) == (
        1,
        "panoptic",
        2,
        6,
    )
    assert (result["masked"], result["boxes_only"]) == (4, 2)
    crowds = sum(
        s.is_crowd for sample in ShardSet.open(toy / "layer").samples() for s in sample.segments
    )
    assert result["crowds"] == crowds
    assert result["classes"]["sky"] == {"segments": 2, "images": 2, "pixels": 633 + 624}
    (parent,) = result["parents"]
    assert parent["path"] == str((toy / "toy" / "v1").resolve())
    assert parent["found"] and parent["command"] == "convert coco"
    assert run_json("inspect", toy / "toy")["ledger"]["annotations"]["dropped"] == {"empty-mask": 1}


def test_inspect_prints_tables_for_people(toy):
    result = runner.invoke(app, ["inspect", str(toy / "layer")], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert (
        "kitty" not in result.stdout
        and "sky" in result.stdout
        and "images=[pictures]" in result.stdout
    )


def test_inspect_of_a_run_shows_its_manifest_and_parents(toy):
    digest = run_json("inspect", toy / "toy")["digest"]
    with staging(toy / "run", {}, inputs=(), resume=False) as stage:
        manifest = {
            "type": "run",
            "command": "train",
            "recipe": {"name": "mini"},
            "steps": 12,
            "digest": "d",
            "metrics": {"pq": 4.25},
            "parents": [{"path": "../../toy/v1", "version": 1, "digest": digest}],
        }
        (stage.path / "manifest.json").write_text(json.dumps(manifest))
        stage.publish()
    result = run_json("inspect", toy / "run")
    assert (result["steps"], result["metrics"]["pq"], result["parents"][0]["found"]) == (
        12,
        4.25,
        True,
    )
    text = runner.invoke(app, ["inspect", str(toy / "run")], env={"COLUMNS": "200"}).stdout
    assert "recipe.name" in text and "4.25" in text


def test_a_missing_parent_is_reported(toy):
    (toy / "toy").rename(toy / "elsewhere")
    assert not run_json("inspect", toy / "layer")["parents"][0]["found"]
    assert (
        "no longer there"
        in runner.invoke(app, ["inspect", str(toy / "layer")], env={"COLUMNS": "200"}).stdout
    )


def test_validate_exits_with_the_verdict(toy):
    result = run_json("validate", toy / "toy")
    assert (result["exit"], result["valid"], result["violations"]) == (0, True, [])
    tar = toy / "toy" / "v1" / "images-00000.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    result = run_json("validate", toy / "toy")
    assert (result["exit"], result["valid"], result["counts"]) == (
        1,
        False,
        {"checksum": 1, "image-checksum": 1},
    )
    tables = runner.invoke(app, ["validate", str(toy / "toy")])
    assert tables.exit_code == 1
    assert "image-checksum: labels-00000.parquet: image 000:" in tables.stdout


def test_validate_does_not_suggest_validate(toy):
    """The reader suggests `segkit validate` for a truncated tar; the command itself must not."""
    tar = toy / "toy" / "v1" / "images-00000.tar"
    tar.write_bytes(tar.read_bytes()[:600])
    shards = ShardSet.open(toy / "toy")
    with pytest.raises(
        SegkitError, match="too short to hold image 000; `segkit validate` lists the damage"
    ):
        shards.image_bytes(next(shards.samples()))
    (line,) = [
        v["detail"]
        for v in run_json("validate", toy / "toy")["violations"]
        if v["where"].endswith("image 000")
    ]
    assert line.endswith("images-00000.tar: too short to hold image 000")


@pytest.mark.parametrize(
    ("statistics", "title"),
    [
        (None, "v1: 1 violation\n"),
        ({"images": True}, "v1: 1 violation\n"),
        ({"images": 1}, "v1: 1 image, 5 violations\n"),
    ],
)
def test_the_title_agrees_with_its_counts(toy, statistics, title):
    file = toy / "toy" / "v1" / "manifest.json"
    manifest = json.loads(file.read_text())
    if statistics is None:
        del manifest["statistics"], manifest["digest"]
    else:
        manifest |= {"statistics": statistics, "digest": "0" * 64, "kind": "instance"}
    file.write_text(json.dumps(manifest))
    result = runner.invoke(app, ["validate", str(toy / "toy")])
    assert result.exit_code == 1 and title in result.stdout


def test_a_run_is_refused_as_a_set(toy):
    with staging(toy / "run", {}, inputs=(), resume=False) as stage:
        (stage.path / "manifest.json").write_text(json.dumps({"type": "run", "steps": 12}))
        stage.publish()
    command = ["export", "semantic", "--out", "x", "--data", str(toy / "run")]
    result = runner.invoke(app, command)
    assert isinstance(result.exception, InputError)
    assert str(result.exception).startswith(f"{toy / 'run' / 'v1'}: is a run, not a shard set; ")
    broken = run_json("validate", toy / "run")
    assert (broken["exit"], broken["type"], broken["counts"]) == (1, "run", {"manifest": 1})


@pytest.mark.parametrize("command", ["inspect", "export"])
def test_a_changed_manifest_is_refused(toy, command):
    change_manifest(toy / "toy" / "v1", reseal=False, split="train")
    options = ["semantic", "--out", str(toy / "x"), "--data"] if command == "export" else []
    result = runner.invoke(app, [command, *options, str(toy / "toy")])
    assert isinstance(result.exception, InputError)
    assert "toy/v1/manifest.json: the manifest is damaged" in str(result.exception)
    assert run_json("validate", toy / "toy")["counts"] == {"manifest-digest": 1}


def test_validate_says_that_an_older_manifest_is_unprotected(toy):
    assert run_json("validate", toy / "toy")["notes"] == []
    unprotect(toy / "toy" / "v1")
    result = run_json("validate", toy / "toy")
    assert (result["exit"], result["valid"]) == (0, True)
    assert result["notes"][0].startswith("the manifest is unprotected")
    text = runner.invoke(app, ["validate", str(toy / "toy")]).stdout
    assert "note: the manifest is unprotected" in text


@pytest.mark.parametrize("command", ["inspect", "validate"])
def test_a_missing_set_is_bad_input(tmp_path, command):
    result = runner.invoke(app, [command, str(tmp_path / "nothing")])
    assert isinstance(result.exception, InputError)


def test_export_writes_the_files_it_lists(toy):
    result = run_json(
        "export", "coco-panoptic", "--data", toy / "layer", "--out", toy / "native", "--images"
    )
    assert (result["schema"], result["images"], result["annotations"]) == ("segkit.export/1", 2, 4)
    assert result["dropped"] == {"box-only": 2}
    assert all((toy / "native" / name).exists() for name in result["files"])
    tables = runner.invoke(
        app, ["export", "semantic", "--data", str(toy / "toy"), "--out", str(toy / "maps")]
    )
    assert tables.exit_code == 0 and "box-only 2" in tables.stdout


@pytest.mark.parametrize("text", ["", "[]", '{"type": "sha', '{"type": "shards"}'])
def test_a_damaged_manifest_is_a_violation(toy, text):
    (toy / "toy" / "v1" / "manifest.json").write_text(text)
    result = CliRunner().invoke(app, ["validate", str(toy / "toy"), "--json"])
    assert result.exit_code == 1, result.output
    assert json.loads(result.stdout)["counts"] == {"manifest": 1}
