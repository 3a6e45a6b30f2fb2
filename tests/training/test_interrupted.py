"""Runs that were interrupted: what resumes them, and what they leave."""

import json
import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from segkit import distributed
from segkit.errors import InputError
from segkit.recipes.load import load_recipe
from segkit.runs.open_run import load_run
from segkit.runs.run_manifest import read_run_manifest
from segkit.shards.reader import ShardSet
from segkit.shards.versions import versions
from segkit.stopping import StoppedError
from segkit.text.encoders import TextEncoder, Vectors
from segkit.training import checkpoint
from segkit.training.interrupted import check_resumable
from segkit.training.options import TrainOptions
from segkit.training.preflight import check_training
from segkit.training.train import open_stage, train
from segkit.training.trainer import Callbacks
from tests.training.test_train import steps_of, stop_after

CPU = TrainOptions(steps=1, device="cpu")
RECIPE = {
    "optimizer": {"lr": 0.2, "schedule": "poly"},
    "data": {"batch_size": 4},
    "name": "y",
}


def _letters(texts: Sequence[str]) -> Vectors:
    """Vectors that differ between texts."""
    return np.array([np.resize([ord(c) % 29 for c in text], 384) for text in texts], np.float32)


def test_resuming_with_another_recipe_or_data_is_refused_and_loses_nothing(
    tiny: Path, toy_set: ShardSet, box_set: ShardSet, tmp_path: Path
) -> None:
    out, toy = tmp_path / "run", [(str(toy_set.path), 1.0)]
    with pytest.raises(StoppedError):
        train(tiny, toy, out, device="cpu", callbacks=stop_after(2))
    left = out / ".v1.partial" / "recipe.toml"
    message = (
        rf"differ in their recipe \(optimizer.lr\); give the same, such as --recipe {left}, or"
    )
    with pytest.raises(InputError, match=message):
        train(tiny, toy, out, device="cpu", resume=True, overrides=["optimizer.lr=0.1"])
    with pytest.raises(InputError, match="differ in their data"):
        train(tiny, [(str(box_set.path), 1.0)], out, device="cpu", resume=True)
    newest = checkpoint.newest(out / ".v1.partial" / "checkpoints")
    assert newest is not None and checkpoint.load(newest, {})["step"] == 2
    check_training(str(left), toy, out, TrainOptions(device="cpu", resume=True))


@pytest.mark.parametrize("earlier", [False, True])
def test_resuming_keeps_the_order_of_the_data_sets(
    tiny: Path, toy_set: ShardSet, box_set: ShardSet, tmp_path: Path, earlier: bool
) -> None:
    """The schedule draws sets by their place; an earlier segkit did not record the order."""
    data = [(str(toy_set.path), 1.0), (str(box_set.path), 3.0)]
    expected = train(tiny, data, tmp_path / "through", device="cpu", steps=8)
    out = tmp_path / "run"
    with pytest.raises(StoppedError):
        train(tiny, data, out, device="cpu", steps=8, callbacks=stop_after(3))
    if earlier:
        file = out / ".v1.partial" / "fingerprint.json"
        fingerprint = json.loads(file.read_text())
        del fingerprint["order"]
        file.write_text(json.dumps(fingerprint, sort_keys=True))
    version = train(tiny, data[::-1], out, device="cpu", steps=8, resume=True)
    assert steps_of(version) == steps_of(expected)
    assert read_run_manifest(version).digest == read_run_manifest(expected).digest


def test_resuming_with_another_evaluation_set_changes_nothing(
    tiny: Path, toy_set: ShardSet, tmp_path: Path
) -> None:
    out, data = tmp_path / "run", [(str(toy_set.path), 1.0)]
    expected = train(tiny, data, tmp_path / "through", device="cpu", steps=4)
    with pytest.raises(StoppedError):
        train(tiny, data, out, device="cpu", steps=4, callbacks=stop_after(2))
    evaluated = [str(toy_set.path)]
    version = train(tiny, data, out, eval_data=evaluated, device="cpu", steps=4, resume=True)
    assert steps_of(version) == steps_of(expected)
    assert read_run_manifest(version).digest == read_run_manifest(expected).digest


@pytest.mark.parametrize("edited", ["templates", "encoder"])
def test_resuming_with_other_text_is_refused(
    tiny: Path,
    toy_set: ShardSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    edited: str,
) -> None:
    """Templates may be edited in their file, and weights in the encoder's folder."""
    monkeypatch.setenv("SEGKIT_CACHE", str(tmp_path / "cache"))
    digest = ["a" * 64]
    load = lambda name: TextEncoder(_letters, digest[0])  # noqa: E731
    monkeypatch.setattr("segkit.text.embeddings.load_encoder", load)
    out, toy, file = tmp_path / "run", [(str(toy_set.path), 1.0)], tmp_path / "templates.txt"
    file.write_text("a photo of a {}\n")
    arguments: dict[str, Any] = {
        "overrides": [f"text.templates={file}", "text.encoder=hf:/encoder"],
        "steps": 3,
        "device": "cpu",
    }
    with pytest.raises(StoppedError):
        train(tiny, toy, out, callbacks=stop_after(2), **arguments)
    record = out / ".v1.partial" / "fingerprint.json"
    recorded = json.loads(record.read_text())["text"]
    assert recorded == {"templates": ["a photo of a {}"], "encoder": "a" * 64}
    if edited == "templates":
        file.write_text("satellite image of {}\n")
    else:
        shutil.rmtree(tmp_path / "cache")
        digest[0] = "b" * 64
    message = rf"differ in their text \({edited}\); give the same"
    options = TrainOptions(**arguments, resume=True)
    if edited == "templates":  # the digest is known once the words are encoded
        with pytest.raises(InputError, match=message):
            check_training(tiny, toy, out, options)
    with pytest.raises(InputError, match=message):
        train(tiny, toy, out, resume=True, **arguments)
    fingerprint = json.loads(record.read_text())
    del fingerprint["text"]  # as if an earlier segkit had begun the run
    record.write_text(json.dumps(fingerprint, sort_keys=True))
    check_training(tiny, toy, out, options)
    train(tiny, toy, out, resume=True, **arguments)


def test_training_over_an_interrupted_run_is_refused_without_resume_or_restart(
    tiny: Path, toy_set: ShardSet, tmp_path: Path
) -> None:
    out, toy = tmp_path / "run", [(str(toy_set.path), 1.0)]
    with pytest.raises(StoppedError):
        train(tiny, toy, out, device="cpu", callbacks=stop_after(2))
    with pytest.raises(InputError, match=r"interrupted run; give --resume .*, or --restart"):
        train(tiny, toy, out, device="cpu", steps=3)
    assert checkpoint.newest(out / ".v1.partial" / "checkpoints") is not None
    started: list[int] = []
    callbacks = Callbacks(on_start=lambda step, steps: started.append(step))
    version = train(tiny, toy, out, device="cpu", steps=3, restart=True, callbacks=callbacks)
    assert started == [0] and read_run_manifest(version).steps == 3
    # a run that is published is no obstacle
    train(tiny, toy, out, device="cpu", steps=1)


@pytest.mark.parametrize("damage", ["fingerprint", "number"])
def test_a_run_that_cannot_be_resumed_is_deleted_only_by_restart(
    tiny: Path, toy_set: ShardSet, tmp_path: Path, damage: str
) -> None:
    """Its fingerprint is damaged, or the versions before it were deleted."""
    out, toy = tmp_path / "run", [(str(toy_set.path), 1.0)]
    with pytest.raises(StoppedError):
        train(tiny, toy, out, device="cpu", callbacks=stop_after(2))
    left = out / ".v1.partial"
    if damage == "fingerprint":
        (left / "fingerprint.json").write_text("")
    else:
        left = left.rename(out / ".v2.partial")
    message = "interrupted run, which cannot be resumed; give --restart to delete its checkpoints"
    for resume in (False, True):
        with pytest.raises(InputError, match=message):
            check_training(tiny, toy, out, replace(CPU, resume=resume))
        with pytest.raises(InputError, match=message):
            train(tiny, toy, out, device="cpu", resume=resume)
    assert checkpoint.newest(left / "checkpoints") is not None
    train(tiny, toy, out, device="cpu", steps=1, restart=True)
    assert not left.exists()


def test_only_the_first_process_reads_what_an_interrupted_run_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another could read a file that the first has begun to write."""
    setup: Any = SimpleNamespace(fingerprint=lambda: {"seed": 1})
    (tmp_path / ".v1.partial").mkdir()
    (tmp_path / ".v1.partial" / "fingerprint.json").write_text("")
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    broadcasts = iter(({"seed": 1}, "the first one's directory", {"seed": 2}))
    monkeypatch.setattr(distributed, "broadcast_object", lambda value: next(broadcasts))
    with open_stage(tmp_path, setup, resume=True, restart=False) as stage:
        assert stage == "the first one's directory"
    with (
        pytest.raises(InputError, match="differ in their seed"),
        open_stage(tmp_path, setup, resume=True, restart=False),
    ):
        pass


def test_a_run_killed_while_publishing_is_published_by_resume(
    tiny: Path, toy_set: ShardSet, tmp_path: Path
) -> None:
    out, toy = tmp_path / "run", [(str(toy_set.path), 1.0)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segkit.shards.publish.Staging.publish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(tiny, toy, out, device="cpu", steps=2)
    assert versions(out) == {}
    version = train(tiny, toy, out, device="cpu", steps=2, resume=True)
    assert len(steps_of(version)) == 2 and load_run(out).path == version.resolve()


def test_an_evaluation_that_was_cut_short_is_repeated(
    tiny: Path, toy_set: ShardSet, tmp_path: Path
) -> None:
    out, toy = tmp_path / "run", [(str(toy_set.path), 1.0)]

    def evaluations(version: Path) -> list[tuple[int, str]]:
        rows = [json.loads(line) for line in (version / "metrics.jsonl").read_text().splitlines()]
        return [(row["step"], row["evaluation"]) for row in rows if "evaluation" in row]

    with pytest.raises(StoppedError):
        train(
            tiny,
            toy,
            out,
            device="cpu",
            eval_data=[str(toy_set.path)],
            steps=4,
            callbacks=stop_after(4),
        )
    assert evaluations(out / ".v1.partial") == []
    version = train(
        tiny, toy, out, device="cpu", eval_data=[str(toy_set.path)], steps=4, resume=True
    )
    assert evaluations(version) == [(4, "toy")]


def test_a_signal_in_an_evaluation_ends_it_at_once(
    tiny: Path, toy_set: ShardSet, tmp_path: Path
) -> None:
    out, toy, eval_data = tmp_path / "run", [(str(toy_set.path), 1.0)], [str(toy_set.path)]

    def evaluate_set(*arguments: Any) -> dict[str, Any]:
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("the evaluation went on")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segkit.training.trainer.evaluate_set", evaluate_set)
        for _ in range(2):  # at its end, and where a resumed run repeats it
            with pytest.raises(StoppedError, match="SIGTERM after step 2"):
                train(tiny, toy, out, device="cpu", eval_data=eval_data, steps=2, resume=True)
    assert versions(out) == {}
    version = train(tiny, toy, out, device="cpu", eval_data=eval_data, steps=2, resume=True)
    assert read_run_manifest(version).steps == 2


def test_keys_without_influence_on_the_weights_and_new_keys_do_not_hinder_a_resume(
    tiny: Path, toy_set: ShardSet, tmp_path: Path
) -> None:
    out, toy = tmp_path / "run", [(str(toy_set.path), 1.0)]
    with pytest.raises(StoppedError):
        train(tiny, toy, out, device="cpu", steps=3, callbacks=stop_after(2))
    file = out / ".v1.partial" / "fingerprint.json"
    fingerprint = json.loads(file.read_text())
    del fingerprint["recipe"]["loss"]["outline"]  # as if an earlier segkit had begun the run
    file.write_text(json.dumps(fingerprint, sort_keys=True))
    overrides = ["training.keep_checkpoints=3", "data.workers=1", "training.evaluate_every=7"]
    version = train(tiny, toy, out, device="cpu", steps=3, overrides=overrides, resume=True)
    assert [row["step"] for row in steps_of(version)] == [1, 2, 3]


def test_a_run_to_start_from_that_has_a_newer_version_is_named(
    tiny: Path, toy_set: ShardSet, tmp_path: Path
) -> None:
    start, out, toy = tmp_path / "start", tmp_path / "run", [(str(toy_set.path), 1.0)]
    train(tiny, toy, start, device="cpu", steps=1)
    overrides = [f'model.init_from="{start}"']
    with pytest.raises(StoppedError):
        train(tiny, toy, out, device="cpu", overrides=overrides, callbacks=stop_after(2))
    shutil.copytree(start / "v1", start / "v2")
    with pytest.raises(InputError, match=r"init_from\); give --init-from \S+v1, or"):
        train(tiny, toy, out, device="cpu", overrides=overrides, resume=True)


def test_what_a_killed_calibration_left_is_not_an_interrupted_run(
    tiny: Path, toy_set: ShardSet, tmp_path: Path
) -> None:
    out, toy = tmp_path / "run", [(str(toy_set.path), 1.0)]
    left = out / ".v1.partial"
    left.mkdir(parents=True)
    (left / "fingerprint.json").write_text('{"command": "calibrate"}')
    (left / "manifest.json").write_text("{}")
    train(tiny, toy, out, device="cpu", steps=1)
    assert not left.exists()
    (out / "v1").rename(out / "v2")  # as a killed prune leaves the versions
    shutil.copytree(out / "v2", left)
    for resume in (False, True):
        check_training(tiny, toy, out, replace(CPU, resume=resume))


def test_processes_of_one_joint_batch_resume_each_other(tmp_path: Path) -> None:
    one = {"recipe": RECIPE | {"data": {"batch_size": 8}}, "data": {}, "processes": 1}
    two = {"recipe": RECIPE, "data": {}, "processes": 2}
    check_resumable(one, two, tmp_path)
    check_resumable(two, one, tmp_path)
    three = two | {"processes": 3}
    with pytest.raises(InputError, match=r"joint batch of 8; give the same, or --restart"):
        check_resumable(one, three, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"coco": ["abc", 2.0]}}, "differ in their data;"),
        ({"processes": 8}, r"joint batch of 32; set data.batch_size=32 for 1 processes"),
        (
            {"recipe": RECIPE | {"optimizer": {"lr": 0.1, "schedule": "poly"}, "name": "x"}},
            r"differ in their recipe \(name, optimizer.lr\); .*--restart",
        ),
    ],
)
def test_an_interrupted_run_that_differs_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    fingerprint: dict[str, Any] = {
        "recipe": RECIPE,
        "data": {"coco": ["abc", 1.0]},
        "processes": 1,
    }
    check_resumable(fingerprint, fingerprint, tmp_path)
    with pytest.raises(InputError, match=message):
        check_resumable(fingerprint | change, fingerprint, tmp_path)


def test_an_interrupted_run_may_have_frozen_batch_norms_that_it_lacks(tmp_path: Path) -> None:
    """The shipped recipes of an earlier segkit did."""
    name = "dataseg-swin-t"
    now, before = ({"recipe": load_recipe(name).model_dump(mode="json")} for _ in range(2))
    assert not now["recipe"]["model"]["freeze_norm"]
    before["recipe"]["model"]["freeze_norm"] = True
    check_resumable(before, now, tmp_path)
    for fingerprint in (now, before):
        fingerprint["recipe"]["model"]["backbone"] = "resnet18"
    with pytest.raises(InputError, match=r"recipe \(model\.freeze_norm\)"):
        check_resumable(before, now, tmp_path)
