"""Experiments: every row is a recipe, and results of other settings or inputs are not reused."""

import importlib
import json
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from segkit.errors import InputError
from segkit.recipes.load import load_recipe
from segkit.shards.reader import ShardSet
from tests.training.toy import write_toy_set

SCRIPTS = Path(__file__).parents[1] / "scripts"
Parse = Callable[..., Namespace]


@pytest.fixture
def experiments(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("experiments")


@pytest.fixture
def parse(experiments: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Parse:
    """Parse a command line of an experiment in `tmp_path`; pins --sets beside the default ones."""

    def parse(*words: str) -> Namespace:
        parser = experiments.options(None, out=str(tmp_path / "out"), seeds=[0])
        monkeypatch.setattr(sys, "argv", ["experiment", *words])
        arguments: Namespace = experiments.parse(parser)
        return arguments

    return parse


def test_rows_of_openseed_are_recipes_that_share_their_queries(experiments: ModuleType) -> None:
    experiment = importlib.import_module("experiment_openseed")
    arguments = Namespace(recipe="dataseg-mini", steps=100, set=["training.precision=bf16"])
    for name, row in experiment.ROWS.items():
        overrides = experiment.overrides_of(row, ("model.queries=20",), arguments)
        recipe = load_recipe("dataseg-mini", overrides)
        assert recipe.model.queries + recipe.model.foreground == 20, name
        assert (recipe.model.foreground == 12) == ("decoupled" in name), name
        learned = recipe.model.foreground_boxes == "learned"
        assert learned == ("decoupled" in name and "topk" not in name), name
        assert recipe.loss.box_assist == row.assist, name
        assert recipe.loss.box_assist_start == (25 if row.assist != "off" else 500), name


@pytest.mark.parametrize("folder", ["runs", "figures"])
def test_settings_are_pinned_by_the_first_result(parse: Parse, tmp_path: Path, folder: str) -> None:
    parse("--recipe", "a-typo")
    parse("--steps", "7")
    (tmp_path / "out" / folder / "row-seed0").mkdir(parents=True)
    written = (tmp_path / "out" / "settings.json").stat().st_mtime_ns
    parse("--steps", "7", "--seeds", "1", "2")
    assert (tmp_path / "out" / "settings.json").stat().st_mtime_ns == written
    with pytest.raises(InputError, match="--steps is 8, but the runs here were made with 7"):
        parse("--steps", "8")
    kept = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert kept == {"recipe": "dataseg-mini", "steps": 7, "set": []}


def test_a_run_of_changed_settings_is_refused(
    experiments: ModuleType, parse: Parse, tmp_path: Path
) -> None:
    slow = parse("--steps", "7")
    parse("--steps", "8")
    (tmp_path / "out" / "runs" / "row-seed0").mkdir(parents=True)
    with pytest.raises(InputError, match="--steps is 7"):
        experiments.train_once("row", 1, [], [], slow)


def test_inputs_are_pinned_by_their_content(
    experiments: ModuleType, parse: Parse, tmp_path: Path
) -> None:
    sets = tmp_path / "sets"
    write_toy_set(sets / "coco-train")
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"1")
    names = ("coco-train", "not-made-yet")

    def pin() -> None:
        experiments.pin_inputs(parse("--sets", str(sets)), names, weights)

    parse()  # the settings of an earlier version lack these keys
    (tmp_path / "out" / "runs" / "row-seed0").mkdir(parents=True)
    pin()
    pin()
    weights.write_bytes(b"2")
    with pytest.raises(InputError, match="the digest of the backbone weights is d4735e3"):
        pin()
    weights.write_bytes(b"1")
    write_toy_set(sets / "coco-train", seeds=range(2))
    (tmp_path / "out" / "runs" / "row-seed0").rmdir()
    with pytest.raises(InputError, match="the digest of coco-train is "):
        pin()


def test_a_small_set_follows_the_arguments(
    experiments: ModuleType, toy_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overfit = importlib.import_module("experiment_overfit")
    sizes = []

    def train(recipe: str, data: list[tuple[str, float]], *_: object, **__: object) -> None:
        sizes.append(len(ShardSet.open(data[0][0])))

    monkeypatch.setattr(overfit, "train", train)
    command = ["overfit", "--data", str(toy_set.path), "--out", str(tmp_path)]
    for images in ("3", "3", "2"):
        monkeypatch.setattr(sys, "argv", [*command, "--min-segments", "1", "--images", images])
        overfit.main()
    assert sizes == [3, 3, 2]
    assert sorted(path.name for path in (tmp_path / "sets" / "few").glob("v*")) == ["v1", "v2"]


@pytest.mark.parametrize("script", ["experiment_templates", "bench_checkpoint"])
def test_help_runs_nothing(
    experiments: ModuleType,
    script: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(script).main()
    assert "--help" in capsys.readouterr().out


@pytest.mark.parametrize("script", ["bench_checkpoint", "bench_targets", "bench_train"])
def test_a_missing_device_is_refused(
    experiments: ModuleType, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--device", "cuda:9"])
    with pytest.raises(InputError, match="no device 'cuda:9'"):
        importlib.import_module(script).main()


def test_both_parts_of_pading_share_a_folder(
    experiments: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pading = importlib.import_module("experiment_pading")
    (tmp_path / "runs" / "scenes-seed0").mkdir(parents=True)
    command = ["pading", "--out", str(tmp_path), "--sets", str(tmp_path / "missing")]

    def run(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", [*command, *words])
        pading.main()

    monkeypatch.setitem(pading.PARTS, "scenes", lambda arguments: sys.exit("scenes"))
    with pytest.raises(SystemExit, match="scenes"):
        run("--arm-set", "generator_steps=1")
    with pytest.raises(InputError, match="missing"):
        run("--part", "camvid", "--arm-set", "generator_steps=1")
    with pytest.raises(InputError, match="--arm-set is"):
        run("--arm-set", "generator_steps=2")
