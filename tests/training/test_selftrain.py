"""Self-training: what its rounds train on, when they end, and that no kill changes the result."""

import hashlib
import json
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from segkit.errors import InputError, Notice
from segkit.inference import calibration_set
from segkit.inference.calibrate import ScoredBoxes, fit_calibration
from segkit.progress import Advance
from segkit.recipes.load import load_recipe
from segkit.runs.calibrated_version import publish_calibrated
from segkit.runs.open_run import load_run
from segkit.runs.run import Run
from segkit.runs.run_manifest import read_run_manifest
from segkit.sample import Sample
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_layer
from segkit.training import selftrain as module
from segkit.training.options import SelfTrainOptions
from segkit.training.selftrain import SelfTraining, selftrain
from segkit.training.selftrain_plan import SelfTrainingPlan, plan_selftraining
from segkit.training.selftrain_state import read_state, write_state
from tests.commands.slips import assert_refused_before_torch
from tests.inference.test_calibrate import random_boxes
from tests.training.toy import RECIPE, write_recipe, write_toy_set

FAST = ["inference.pseudo_score=0", "training.checkpoint_every=2", "loss.matching=false"]
FILES = ("model.safetensors", "recipe.toml", "*.parquet", "selftrain.json")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with masks, boxes and a recipe; relative paths make all files comparable."""
    write_toy_set(tmp_path / "masks")
    write_toy_set(tmp_path / "boxes", boxes_only=True, name="boxes", seeds=range(6, 12))
    write_recipe(tmp_path / "tiny.toml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rounds(out: str, count: int = 1, boxes: str = "boxes", **options: Any) -> SelfTraining:
    defaults = {"share": 0.34, "steps": 3, "round_steps": 3, "device": "cpu", "overrides": FAST}
    return selftrain(
        "tiny.toml", [("masks", 1.0)], (boxes, 1.0), out, rounds=count, **(defaults | options)
    )


def score_as(monkeypatch: pytest.MonkeyPatch, *ious: float) -> None:
    """Let the runs of the rounds score these IoUs on the held-out images."""

    def score(run: Run, data: ShardSet, **_: object) -> ScoredBoxes:
        number = int(str(run.path).rpartition("round-")[2].partition("/")[0])
        return ScoredBoxes(np.zeros(1, np.int64), *(np.full(1, ious[number]),) * 3)

    monkeypatch.setattr(module, "score_boxes", score)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for pattern in FILES
        for file in sorted(folder.rglob(pattern))
    }


def test_a_round_trains_on_the_masks_that_the_run_before_made(home: Path) -> None:
    result = rounds("work")
    first = result.rounds[0]
    layer = ShardSet.open(first["masks"])
    assert (first["boxes"], first["masked"]) == (9, layer.manifest.statistics.masked)
    assert 0 < first["held_out_iou"] <= 1 and not first["calibrated"]
    held_out = ShardSet.open("work/held-out/0-masks/held-out")
    trained = ShardSet.open("work/held-out/0-masks/train")
    assert not set(held_out.image_ids()) & set(trained.image_ids())
    assert len(held_out) + len(trained) == 6

    run = load_run(result.rounds[1]["run"])
    assert run.recipe.loss.trust_scores and run.recipe.training.steps == 3
    assert run.recipe.model.init_from == str(Path(first["run"]).resolve())
    digests = {parent.digest for parent in run.manifest.parents}
    teacher = read_run_manifest(Path(first["run"])).digest
    assert digests == {layer.manifest.digest, trained.manifest.digest, teacher}
    assert not load_run(first["run"]).recipe.loss.trust_scores


def test_masks_assist_only_rounds_with_boxes_that_got_none(home: Path) -> None:
    assist = ["inference.pseudo_score=0", "loss.box_assist=match", "loss.box_assist_start=1"]
    result = rounds("work", steps=1, round_steps=1, overrides=assist)
    assert result.rounds[0]["masked"] == result.rounds[0]["boxes"]
    first, second = (load_run(entry["run"]).recipe.loss for entry in result.rounds)
    assert (first.box_assist, first.box_assist_start) == ("match", 1)
    assert (second.box_assist, second.box_assist_start) == ("off", 500)

    more = write_toy_set(home / "more", boxes_only=True, name="more", seeds=range(12, 14))
    data = [("masks", 1.0), (str(more.path), 1.0)]
    options: dict[str, Any] = {"share": 0.34, "steps": 1, "round_steps": 1, "device": "cpu"}
    mixed = selftrain(
        "tiny.toml", data, ("boxes", 1.0), "mixed", rounds=1, overrides=assist, **options
    )
    assert load_run(mixed.rounds[1]["run"]).recipe.loss.box_assist == "match"


def test_crowds_and_ignored_boxes_are_not_counted(home: Path) -> None:
    boxes = ShardSet.open("boxes")
    things = [s for sample in boxes.samples() for s in sample.segments]
    marks: list[dict[str, bool]] = [{"is_crowd": True}, {"ignore": True}]

    def marked() -> Iterator[Sample]:
        for sample, mark in zip(boxes.samples(), [*marks, *[{}] * len(boxes)], strict=False):
            first = replace(sample.segments[0], **mark)
            yield replace(sample, segments=(first, *sample.segments[1:]))

    write_layer("few", boxes, marked(), replace(Header.from_set(boxes, "test"), name="boxes"))
    first = rounds("work", boxes="few", steps=1, round_steps=1).rounds[0]
    assert first["boxes"] == len(things) - 2 >= first["masked"]


def test_rounds_end_when_the_held_out_score_does(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_as(monkeypatch, 0.5, 0.6, 0.6, 0.9)
    result = rounds("work", 3, steps=1, round_steps=1)
    assert result.stopped and result.best == 1
    assert ["masks" in entry for entry in result.rounds] == [True, True, False]
    # a further call with more rounds finds the same end
    assert rounds("work", 5, steps=1, round_steps=1) == result


def test_a_run_can_be_the_first_teacher(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = rounds("first", steps=1, round_steps=1).rounds[0]["run"]
    monkeypatch.setattr(module, "score_boxes", lambda *_, **__: ScoredBoxes(*(np.full(1, 0),) * 4))
    result = rounds("work", checkpoint=teacher, steps=None, round_steps=1, tta=True)
    assert ShardSet.open(result.rounds[0]["masks"]).manifest.arguments["tta"] is True
    assert result.rounds[0]["run"] == str(Path(teacher).resolve())
    schema = json.loads((resources.files("segkit.schemas") / "selftrain.schema.json").read_text())
    for folder in ("first", "work"):
        state = json.loads((home / folder / "selftrain.json").read_text())
        Draft202012Validator(schema).validate(state)
    assert not (home / "work" / "round-0" / "run").exists()
    assert ShardSet.open(result.rounds[0]["masks"]).manifest.parents


@pytest.mark.parametrize("tta", [False, True])
def test_a_teacher_that_was_calibrated_otherwise_is_calibrated_anew(
    home: Path, monkeypatch: pytest.MonkeyPatch, tta: bool
) -> None:
    first = rounds("first", steps=1, round_steps=1).rounds[0]["run"]
    data, scored = ShardSet.open("masks"), random_boxes(600, 30)
    calibration = fit_calibration(scored, data, tta=False)
    teacher = publish_calibrated(load_run(first), calibration, data, home / "teacher")
    monkeypatch.setattr(module, "score_boxes", lambda *_, **__: scored)
    options: dict[str, Any] = {"checkpoint": str(teacher), "steps": None, "round_steps": 1}
    entry = rounds("work", tta=tta, **options).rounds[0]
    expected = home / "work" / "round-0" / "run" / "v1" if tta else teacher
    assert entry["calibrated"] and Path(entry["run"]) == expected.resolve()
    used = load_run(entry["run"]).calibration
    assert used is not None and used.tta is tta
    labels = ShardSet.open(entry["masks"]).manifest.arguments
    assert labels["checkpoint"] == entry["run"]
    monkeypatch.setattr(calibration_set, "MIN_BOXES", 1000)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        few = rounds("few", tta=tta, **options).rounds[0]
    notes = [str(warning.message) for warning in caught if warning.category is Notice]
    assert few["calibrated"] is not tta and few["run"] == str(teacher.resolve())
    assert any("is calibrated without --tta, and too few boxes" in note for note in notes) is tta


class Killer:
    """Kills the process at the given number of stages and steps."""

    def __init__(self, at: int) -> None:
        self.left = at

    def event(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    @contextmanager
    def progress(self, label: str, total: int, unit: str = "images", /) -> Iterator[Advance]:
        self.event()
        yield self
        self.event()

    def __call__(self, number: int = 1, /) -> None:
        self.event()

    def count_boxes(self, number: int, /) -> None:
        assert number > 0

    def resume(self, number: int, /) -> None:
        for _ in range(number):
            self.event()


def killed_after(events: int) -> bool:
    """Run the rounds in a child that is killed; False where they were complete before."""
    child = os.fork()
    if not child:
        try:
            rounds("killed", progress=Killer(events).progress)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def test_no_kill_changes_a_byte(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score_as(monkeypatch, 0.5, 0.6)
    rounds("whole")
    # Stages that are complete have no events, so each child goes further than the one before.
    kills = [events for events in range(2, 40, 3) if killed_after(events)]
    assert len(kills) > 3
    whole, killed = digests(home / "whole"), digests(home / "killed")
    text = (home / "killed" / "selftrain.json").read_text().replace("killed/", "whole/")
    assert text == (home / "whole" / "selftrain.json").read_text()
    for file in set(whole) - {"selftrain.json"}:
        if not file.endswith("recipe.toml"):
            assert whole[file] == killed[file], file
    assert set(whole) == set(killed)


def plan_of(weight: float = 1.0, *overrides: str) -> SelfTrainingPlan:
    options = SelfTrainOptions(rounds=1, share=0.34, steps=3, overrides=(*FAST, *overrides))
    return plan_selftraining("tiny.toml", [("masks", weight)], ("boxes", 1.0), options)


def test_another_self_training_in_the_folder_is_refused(home: Path) -> None:
    plan = plan_of()
    assert plan.round_steps == 1
    write_state(home / "work", plan, [])
    assert read_state(home / "work", plan) == []
    with pytest.raises(InputError, match="another data"):
        read_state(home / "work", plan_of(2.0))


def test_the_first_training_has_no_scores_to_trust(home: Path) -> None:
    (home / "tiny.toml").write_text(f"{RECIPE}[loss]\ntrust_scores = true\n")
    plan = plan_of()
    assert not load_recipe("tiny.toml", plan.first_overrides).loss.trust_scores
    assert not plan.recipe.loss.trust_scores


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        '{"inputs": {}}',
        '{"inputs": [], "rounds": []}',
        '{"inputs": {}, "rounds": {}}',
        '{"inputs": {}, "rounds": [1]}',
        '{"inputs": {}, "rounds": [{"run": "r"}]}',
        '{"inputs": {}, "rounds": [{"run": "r", "held_out_iou": 0.5, "masks": 2}]}',
    ],
)
def test_a_damaged_record_is_refused(tmp_path: Path, home: Path, content: str) -> None:
    plan = plan_of()
    (tmp_path / "selftrain.json").write_text(content)
    message = r"selftrain\.json: is not the record of a self-training; give another --out"
    with pytest.raises(InputError, match=message):
        read_state(tmp_path, plan)


def test_several_processes_are_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="in one process"):
        rounds("work")


def test_slips_are_refused_before_torch(home: Path) -> None:
    base = ["--recipe", "tiny.toml", "--data", "masks", "--boxes", "boxes", "--out", "work"]
    replaced = {
        "--data": ("boxes", "masks=zero", "nowhere"),
        "--boxes": ("masks", "nowhere"),
        "--recipe": ("nothing",),
    }
    slips = [
        [*base[: base.index(option) + 1], value, *base[base.index(option) + 2 :]]
        for option, values in replaced.items()
        for value in values
    ]
    slips += [
        [*base, *extra]
        for extra in (
            ["--rounds", "0"],
            ["--held-out", "boxes"],
            ["--held-out", "masks"],
            ["--held-out-share", "1"],
            ["--checkpoint", "nowhere"],
            ["--checkpoint", "nowhere", "--steps", "3"],
            ["--set", "loss.box_prompts=0"],
            ["--device", "tpu"],
        )
    ]
    assert_refused_before_torch(["selftrain"], slips)
    assert not (home / "work").exists()


def test_masks_of_a_model_score_no_round(home: Path) -> None:
    toy = ShardSet.open("masks")
    labeled = (
        replace(s, segments=tuple(replace(segment, mask_from="pseudo") for segment in s.segments))
        for s in toy.samples()
    )
    write_layer("pseudo", toy, labeled, Header.from_set(toy, "test", {}))
    with pytest.raises(InputError, match="no set of --data can hold images back"):
        selftrain("tiny.toml", [("pseudo", 1.0)], ("boxes", 1.0), "work", rounds=1)
    assert not Path("work").exists()
