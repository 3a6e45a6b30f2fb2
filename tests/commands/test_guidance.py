"""What helps a newcomer: the first steps, the next command, recipes, doctor, completion."""

import contextlib
import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from segkit.commands import next_steps
from segkit.commands.app import app
from segkit.commands.shared_options import complete_recipe, complete_task, complete_vocabulary
from segkit.errors import InputError
from segkit.extras import EXTRAS
from segkit.recipes.load import known_recipes
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from tests.commands.slips import hollow_run
from tests.metrics.files import results_file, sets, shard_set
from tests.shards.conftest import TAXONOMY, toy_records
from tests.sources.builders import coco_instances


def _lines(*arguments: object) -> list[str]:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output.splitlines()


def _parse(line: str) -> None:
    """Parse a command line as the command does: unknown and missing options raise UsageError."""
    command, words = typer.main.get_command(app), shlex.split(line)
    assert words.pop(0) == "segkit", line
    while hasattr(command, "commands"):
        # SOURCE or FORMAT: all of them share these options
        command = command.commands.get(words.pop(0)) or next(iter(command.commands.values()))
    with contextlib.suppress(typer.Exit):  # of --help
        command.make_context(None, words)


def _next(*arguments: object) -> str:
    """The command line that a command names at its end."""
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert not isinstance(result.exception, InputError), result.exception
    assert result.output.splitlines()[-1].startswith("next: segkit "), result.output
    return result.output.splitlines()[-1].removeprefix("next: ")


def _run(line: str) -> None:
    """Run a command line, which must succeed."""
    result = CliRunner().invoke(app, shlex.split(line)[1:])
    assert result.exit_code == 0, (line, result.output, result.exception)


def test_segkit_alone_prints_the_path_from_data_to_results() -> None:
    lines = _lines()
    assert len(lines) <= 7
    for line in lines[:5]:
        _parse(re.split(r"\s{3,}", line)[0].replace("...", ""))


def test_each_command_names_the_next_one(tmp_path: Path) -> None:
    truth, _ = sets(tmp_path, images=2)
    out = tmp_path / "x.png"
    assert _lines("inspect", truth.path)[-1] == f"next: segkit show {truth.path}"
    assert _lines("validate", truth.path)[-1] == f"next: segkit inspect {truth.path}"
    assert _lines("show", truth.path, "--out", out)[-1] == f"next: segkit inspect {truth.path}"
    result = CliRunner().invoke(app, ["inspect", str(truth.path), "--json"])
    json.loads(result.stdout)
    assert "next:" not in result.output


def test_every_next_command_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each parses as it stands: no option is unknown, none that is required is missing."""
    monkeypatch.chdir(tmp_path)
    common = {
        "path": "work/x y",
        "violations": [],
        "run": "r",
        "masks": "m",
        "name": "n",
        "format": "yolo",
        "parts": {"train": {"path": "p"}},
        "data": {"path": "work/truth"},
        "sets": ["a b", "c"],
        "images_by": "embed",
        "set": "a b",
        "a": "work/one",
        "b": "work/an other",
        "images": {"changed_labels": ["-x y"], "evaluated": 3, "without_prediction": 0},
        "task": "instance",
        "ap": 50.0,
    }
    variants = [
        {"kind": kind, "type": type_, "ledger": {"kept": kept}, "pairs": pairs, **source}
        for kind, type_, kept, pairs, source in (
            ("boxes", "run", 3, [], {"predictions": {"path": "p", "version": 1}}),
            ("instance", "bank", 0, [{"a": "a b"}], {"predictions": {"path": "p.json"}}),
            ("panoptic", "set", 2, [], {"predictions": {"path": "p", "version": 2}, "by": "box"}),
        )
    ]
    for schema in next_steps._STEPS:
        for values in variants:
            step = next_steps.next_step(f"{schema}/1", common | values)
            assert step is not None
            _parse(step)


def test_the_next_command_after_an_export_reads_its_format() -> None:
    commands = typer.main.get_command(app).commands
    for name in commands["export"].commands:
        step = next_steps.next_step("segkit.export/1", {"format": name})
        assert step is not None
        source = shlex.split(step)[2]
        assert source in commands["convert"].commands and name.startswith(source[:3])
        _run(step)


def test_boxes_of_a_newcomer_are_labeled_by_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He has no run yet, and no network."""
    monkeypatch.chdir(tmp_path)
    images = tmp_path / "images"
    boxes = [{"bbox": [2, 3, 20, 15]}]
    for name, annotations in (("boxes", boxes), ("nothing", [])):
        file = coco_instances(tmp_path, annotations).rename(tmp_path / f"{name}.json")
        convert = ("convert", "coco", "--instances", file, "--images", images)
        _run(_next(*convert, "--out", tmp_path / name))
    masks = ShardSet.open(tmp_path / "work" / "masks")
    assert masks.manifest.statistics.segments == 1


@pytest.mark.parametrize("boxes_only", [True, False])
def test_a_set_of_labels_only_is_looked_at_not_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boxes_only: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    ring = {} if boxes_only else {"segmentation": [[2, 3, 22, 3, 22, 18]]}
    file = coco_instances(tmp_path, [{"bbox": [2, 3, 20, 15], **ring}])
    common = ("--instances", file, "--images", tmp_path / "images", "--images-by", "none")
    step = _next("convert", "coco", *common, "--out", "labels")
    assert step == f"segkit inspect {tmp_path / 'labels' / 'v1'}"
    _run(_next(*step.split()[1:]))
    assert (tmp_path / "labels-v1.png").is_file()

    header = Header(taxonomy=TAXONOMY, kind="panoptic", name="toy", command="t")
    write_set(tmp_path / "toy", toy_records(2), header)
    by_run = ("--checkpoint", hollow_run(tmp_path / "hollow"), "--data", "labels", "--out", "out")
    train = ("train", "--recipe", "dataseg-mini", "--out", "run")
    for words in (
        (*train, "--data", "labels"),
        (*train, "--data", "labels", "--plan"),
        (*train, "--data", "toy", "--eval-data", "labels"),
        ("predict", *by_run, "--task", "instance"),
        ("eval", *by_run, "--task", "instance"),
        ("pseudolabel", "--teacher", "grabcut", "--data", "labels", "--out", "masks"),
        ("calibrate", *by_run),
    ):
        before = sorted(tmp_path.rglob("*"))
        error = CliRunner().invoke(app, words).exception
        assert isinstance(error, InputError)
        # the others refuse the kind of the set first
        if words[0] not in (("calibrate", "eval") if boxes_only else ("pseudolabel",)):
            assert "labels only; convert it without --images-by none" in str(error)
        assert sorted(tmp_path.rglob("*")) == before


def test_the_next_command_after_an_evaluation_shows_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in ("panoptic", "instance"):
        truth, predictions = sets(tmp_path / kind, images=2, kind=kind)
        common = ("eval", "--data", truth.path, "--task", "instance", "--out", "out")
        step = _next(*common, "--predictions", predictions.path)
        assert step == f"segkit show {truth.path} --predictions {predictions.path} --worst"
        _run(step)
    samples = list(predictions.samples())
    instances = shard_set(tmp_path / "instances", samples, truth.taxonomy, "instance")
    panoptic = tmp_path / "panoptic" / "truth"
    common = ("eval", "--data", panoptic, "--task", "instance", "--out", "out")
    _run(_next(*common, "--predictions", instances.path))
    file = results_file(tmp_path / "results.json", samples)
    _run(_next(*common, "--predictions", file))
    bare = [
        replace(
            s, void=None, segments=tuple(replace(x, mask=None, mask_from=None) for x in s.segments)
        )
        for s in truth.samples()
    ]
    boxes = shard_set(tmp_path / "boxes", bare, truth.taxonomy, "boxes")
    common = ("eval", "--data", boxes.path, "--task", "instance", "--by", "box", "--out", "out")
    _run(_next(*common, "--predictions", instances.path))


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_the_next_command_after_an_evaluation_without_figures_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    monkeypatch.chdir(tmp_path)
    truth, predictions = sets(tmp_path, images=2, kind=task)
    samples = [
        replace(s, void=None, segments=tuple(replace(x, ignore=True) for x in s.segments))
        for s in truth.samples()
    ]
    nothing = shard_set(tmp_path / "nothing", samples, truth.taxonomy, task)
    empty = shard_set(tmp_path / "empty", [], truth.taxonomy, task)

    def evaluation(data: ShardSet, predicted: ShardSet) -> tuple[object, ...]:
        source = ("--predictions", predicted.path)
        return ("eval", "--data", data.path, "--task", task, *source, "--out", "out")

    step = _next(*evaluation(nothing, truth))
    assert step.startswith(f"segkit show {nothing.path} --predictions ") and "--worst" not in step
    _run(step)
    step = _next(*evaluation(truth, empty))
    assert step == f"segkit show {truth.path}"
    _run(step)
    assert not any(line.startswith("next: ") for line in _lines(*evaluation(empty, empty)))
    assert _next(*evaluation(truth, predictions)).endswith(" --worst")


def test_the_next_command_after_a_search_for_leaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, numbers in (("a", (0, 1, 2)), ("b", (2, 3)), ("c", (5,))):
        header = Header(taxonomy=TAXONOMY, kind="panoptic", name=name, command="t")
        records = [record for n, record in enumerate(toy_records(6)) if n in numbers]
        write_set(tmp_path / name, iter(records), header)
    ids = list(ShardSet.open(tmp_path / "a").image_ids())
    (tmp_path / "IDS.txt").write_text("\n".join(ids[:2]) + "\n")
    _run(_next("leakage", "a", "b"))
    assert list(ShardSet.open(tmp_path / "work" / "split" / "kept").image_ids()) == ids[:2]
    assert _next("leakage", "c", "a", "b").startswith("segkit split a --list")
    step = _next("leakage", "a", "c")
    assert "--data a --eval-data c" in step
    _parse(step)


def test_recipes_are_listed_with_their_purpose() -> None:
    text = "\n".join(_lines("recipes"))
    assert all(name in text for name in known_recipes())


def test_a_recipe_prints_its_keys() -> None:
    lines = _lines("recipes", "dataseg-mini", "--key", "optimizer.lr")
    assert lines[0] == "optimizer.lr = 0.0003 (default 0.0001)"
    whole = "\n".join(_lines("recipes", "box-labeler-mini"))
    assert "Command:" in whole and "loss.box_prompts = 1.0" in whole
    result = CliRunner().invoke(app, ["recipes", "dataseg-mini", "--json"])
    keys = json.loads(result.stdout)["keys"]
    assert keys["optimizer.lr"]["value"] == 3e-4 and keys["data.flip"]["type"] == "bool"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "unknown recipe 'nonsense'"),
        (["dataseg-mini", "--key", "nonsense"], "no key contains 'nonsense'"),
        (["--key", "lr"], "--key prints the keys of a recipe"),
    ],
)
def test_slips_are_refused(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["recipes", *arguments])
    assert isinstance(result.exception, InputError) and message in str(result.exception)


def test_doctor_lists_every_extra_and_how_to_install_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    result = CliRunner().invoke(app, ["doctor", "--folder", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.exception
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert {f"extra {extra}" for extra in EXTRAS} <= checks.keys()
    assert checks["extra train"]["ok"] is True and "torch 2" in checks["extra train"]["text"]
    assert checks["disk"]["text"].endswith(f"in {tmp_path}")
    missing = [check for check in checks.values() if check["ok"] is None]
    assert all(check["hint"] or check["name"] in ("CUDA", "shared memory") for check in missing)


def test_names_are_completed() -> None:
    assert complete_recipe("dataseg-m") == ["dataseg-mini"]
    assert complete_vocabulary("coco-p") == ["coco-panoptic-133"]
    assert complete_task("") == ["panoptic", "semantic", "instance"]
