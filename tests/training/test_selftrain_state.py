"""A self-training resumes from its record: other rounds, another directory, earlier versions."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.errors import InputError
from segkit.inference.calibrate import ScoredBoxes
from segkit.recipes.load import load_recipe
from segkit.runs.open_run import load_run
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_layer
from segkit.training import selftrain as module
from segkit.training.selftrain import SelfTraining, selftrain
from segkit.training.selftrain_state import read_state
from tests.training.toy import write_recipe, write_toy_set

FAST = ["inference.pseudo_score=0", "loss.matching=false"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sets and a recipe in the working directory; each round scores better than that before."""
    write_toy_set(tmp_path / "masks")
    write_toy_set(tmp_path / "boxes", boxes_only=True, name="boxes", seeds=range(6, 12))
    write_recipe(tmp_path / "tiny.toml")
    monkeypatch.chdir(tmp_path)

    def score(run: Any, data: ShardSet, **_: object) -> ScoredBoxes:
        number = int(str(run.path).rpartition("round-")[2].partition("/")[0])
        return ScoredBoxes(np.zeros(1, np.int64), *(np.full(1, (number + 1) / 10),) * 3)

    monkeypatch.setattr(module, "score_boxes", score)
    return tmp_path


def rounds(
    home: Path, count: int, out: str | Path = "work", overrides: Sequence[str] = FAST
) -> SelfTraining:
    return selftrain(
        home / "tiny.toml",
        [(str(home / "masks"), 1.0)],
        (str(home / "boxes"), 1.0),
        out,
        rounds=count,
        share=0.34,
        steps=1,
        round_steps=1,
        device="cpu",
        overrides=overrides,
    )


def edit_state(home: Path, edit: Callable[[list[dict[str, Any]]], None]) -> None:
    file = home / "work/selftrain.json"
    state = json.loads(file.read_text())
    edit(state["rounds"])
    file.write_text(json.dumps(state))


def never(*_: object, **__: object) -> None:
    pytest.fail("did again what had been done")


@pytest.mark.parametrize("last_iou", [0.3, 0.0])
def test_fewer_rounds_after_a_kill_end_earlier(
    home: Path, monkeypatch: pytest.MonkeyPatch, last_iou: float
) -> None:
    """Round 2 has been scored, but not labeled: by a kill, or because it did not improve."""
    before = rounds(home, 2)

    def kill(entries: list[dict[str, Any]]) -> None:
        for key in ("masks", "boxes", "masked"):
            del entries[2][key]
        entries[2]["held_out_iou"] = last_iou

    edit_state(home, kill)
    for stage in ("train", "score_boxes", "pseudolabel"):
        monkeypatch.setattr(module, stage, never)
    options = "--recipe tiny.toml --data masks --boxes boxes --out work --device cpu --json"
    options += " --steps 1 --round-steps 1 --held-out-share 0.34 --rounds 1"
    settings = [word for key in FAST for word in ("--set", key)]
    result = CliRunner().invoke(app, ["selftrain", *options.split(), *settings])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["rounds"] == before.rounds[:2]
    assert (printed["best"], printed["stopped"]) == (1, False)
    assert printed["masks"] == before.rounds[1]["masks"]
    assert len(json.loads((home / "work/selftrain.json").read_text())["rounds"]) == 3


def test_frozen_batch_norms_that_a_backbone_lacks_do_not_hinder_a_resume(tmp_path: Path) -> None:
    """The shipped recipes of an earlier segkit had them."""
    recipe = load_recipe("dataseg-swin-t").model_dump(mode="json")
    plan: Any = SimpleNamespace(fingerprint={"recipe": recipe, "tta": False})
    before = json.loads(json.dumps(plan.fingerprint))
    before["recipe"]["model"]["freeze_norm"] = True
    file = tmp_path / "selftrain.json"
    file.write_text(json.dumps({"inputs": before, "rounds": []}))
    assert read_state(tmp_path, plan) == []
    before["recipe"]["model"]["backbone"] = "resnet18"
    file.write_text(json.dumps({"inputs": before, "rounds": []}))
    with pytest.raises(
        InputError,
        match=r"another recipe; give the same, such as by --set .*resnet18.*, or another --out",
    ):
        read_state(tmp_path, plan)


@pytest.mark.parametrize("early", [False, True])
def test_it_resumes_from_another_directory(
    home: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    early: bool,
) -> None:
    """Early versions recorded runs relative to the working directory."""
    first = rounds(home, 1)
    for entry in first.rounds:
        assert Path(entry["run"]).is_absolute() and Path(entry["masks"]).is_absolute()
    if early:

        def relative(entries: list[dict[str, Any]]) -> None:
            for entry in entries:
                entry["run"] = f"work/{entry['run']}"

        edit_state(home, relative)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    result = rounds(home, 2, home / "work")
    assert result.rounds[:2] == first.rounds
    start = load_run(result.rounds[2]["run"]).recipe.model.init_from
    assert start == first.rounds[1]["run"]


@pytest.mark.parametrize("absolute", [False, True])
def test_it_can_be_moved(home: Path, absolute: bool) -> None:
    """Earlier records are absolute."""
    first = rounds(home, 1)
    if absolute:

        def name_first(entries: list[dict[str, Any]]) -> None:
            for entry, before in zip(entries, first.rounds, strict=True):
                entry |= {key: before[key] for key in ("run", "masks")}

        edit_state(home, name_first)
    (home / "work").rename(home / "moved")
    result = rounds(home, 2, home / "moved")
    assert len(result.rounds) == 3
    moved = [entry[key] for entry in result.rounds for key in ("run", "masks") if key in entry]
    assert all(path.startswith(str(home / "moved")) for path in moved)


def test_a_layer_that_an_early_version_named_is_trained_on(home: Path) -> None:
    """Early versions named a layer after its folder, and an interrupted round knows that name."""
    rounds(home, 1)
    layer = ShardSet.open("work/round-0/masks")
    header = replace(Header.from_set(layer, "pseudolabel"), name="masks")
    named = write_layer("work/round-0/masks", layer, layer.samples(), header)
    shutil.rmtree(home / "work/round-1")

    def keep_the_first(entries: list[dict[str, Any]]) -> None:
        del entries[1:]
        entries[0]["masks"] = str(named.path)

    edit_state(home, keep_the_first)
    result = rounds(home, 1)
    assert {*load_run(result.rounds[1]["run"]).taxonomies} == {"toy", "masks"}


@pytest.mark.parametrize("part", ["held-out/0-masks/train", "round-0/run", "round-2/masks"])
def test_parts_without_a_record_are_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    (home / "work" / part / "v1").mkdir(parents=True)
    monkeypatch.setattr(module, "train", never)
    with pytest.raises(InputError, match=r"selftrain\.json is missing.*; give another --out"):
        rounds(home, 1)
    assert not (home / "work/selftrain.json").exists()


def test_sets_beside_the_rounds_are_not_taken_for_parts(home: Path) -> None:
    write_toy_set(home / "work/held-out", seeds=range(20, 22))
    write_toy_set(home / "work/masks", seeds=range(20, 22))
    assert len(rounds(home, 1).rounds) == 2


def test_an_interrupted_one_keeps_the_keys_that_nothing_reads(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be of a version that did not refuse them, and cannot resume without them."""
    overrides = [*FAST, "inference.max_size=900"]
    with pytest.raises(InputError, match=r"inference\.max_size: it does nothing"):
        rounds(home, 1, overrides=overrides)
    assert not (home / "work").exists()
    with monkeypatch.context() as patch:
        patch.setattr("segkit.training.preflight.require_effects", lambda *_, **__: None)
        patch.setattr(module, "train", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            rounds(home, 1, overrides=overrides)
    assert len(rounds(home, 1, overrides=overrides).rounds) == 2
