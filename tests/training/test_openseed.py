"""Runs with the parts of OpenSeeD."""

from pathlib import Path
from typing import Any

import pytest

from segkit.runs.run_manifest import read_run_manifest
from segkit.shards.reader import ShardSet
from segkit.stopping import StoppedError
from segkit.training.train import train
from tests.training.test_train import steps_of, stop_after


def test_assisting_masks_start_at_their_step_and_resume(
    tiny: Path, toy_set: ShardSet, box_set: ShardSet, tmp_path: Path
) -> None:
    data = [(str(toy_set.path), 1.0), (str(box_set.path), 2.0)]

    def run(name: str, *overrides: str, **options: Any) -> Path:
        settings = {"device": "cpu", "steps": 7, "overrides": ["training.seed=2", *overrides]}
        return train(tiny, data, tmp_path / name, **settings, **options)

    assist = ("loss.box_assist=pseudo", "loss.box_assist_start=3")
    off, uninterrupted = run("off"), run("on", *assist)
    assert read_run_manifest(run("explicit", "loss.box_assist=off")).digest == (
        read_run_manifest(off).digest
    )
    assert steps_of(uninterrupted)[:3] == steps_of(off)[:3]
    for row in steps_of(uninterrupted)[3:]:
        assert ("pseudo_dice" in row["losses"]) == (row["dataset"] == "boxes"), row
    with pytest.raises(StoppedError):
        run("resumed", *assist, callbacks=stop_after(5))
    resumed = run("resumed", *assist, resume=True)
    assert steps_of(resumed) == steps_of(uninterrupted) != steps_of(off)
    assert read_run_manifest(resumed).digest == read_run_manifest(uninterrupted).digest


def test_openseed_trains_with_all_its_parts(
    tiny: Path, toy_set: ShardSet, box_set: ShardSet, tmp_path: Path
) -> None:
    data = [(str(toy_set.path), 1.0), (str(box_set.path), 1.0)]
    parts = ["model.foreground=3", "loss.classes=sigmoid", "loss.denoising=1", "data.mixing=all"]
    parts += ["loss.box_assist=pseudo", "loss.box_assist_start=0"]
    run = train(tiny, data, tmp_path / "run", device="cpu", steps=2, overrides=parts)
    for row in steps_of(run):
        assert {"box_l1", "box_giou", "pseudo_dice", "projection", "focal"} <= row["losses"].keys()


def test_sigmoid_classes_start_unlikely(tiny: Path, toy_set: ShardSet, tmp_path: Path) -> None:
    """Otherwise the first loss drowns all others, or MERGE leaves next to no proposals."""
    data, first = [(str(toy_set.path), 1.0)], {}
    for classes in ("softmax", "sigmoid"):
        overrides = [f"loss.classes={classes}", "loss.box_prompts=0"]
        run = train(tiny, data, tmp_path / classes, device="cpu", steps=1, overrides=overrides)
        (row,) = steps_of(run)
        first[classes] = row["losses"]["class"]
    assert 0.5 < first["sigmoid"] / first["softmax"] < 2
