"""What a run publishes: the best step or the last, once its files are on the disk."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from segkit.errors import Notice
from segkit.model.dataseg import DataSeg
from segkit.runs.open_run import load_run
from segkit.runs.run_manifest import read_run_manifest
from segkit.shards import publish as publishing
from segkit.shards.reader import ShardSet
from segkit.shards.versions import versions
from segkit.stopping import StoppedError
from segkit.training.train import train
from tests.training.test_train import stop_after
from tests.training.toy import write_toy_set


def train_to_the_best(
    recipe: Path, data: ShardSet, out: Path, steps: int, overrides: Sequence[str] = ()
) -> Path:
    """Train on a set and evaluate on it; the best step is published."""
    spec = str(data.path)
    settings = ["training.publish=best", *overrides]
    return train(
        recipe, [(spec, 1.0)], out, eval_data=[spec], device="cpu", overrides=settings, steps=steps
    )


def test_a_last_step_that_is_published_for_want_of_a_best_is_noted(
    tiny: Path, toy_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segkit.training.trainer.evaluate_set", lambda *_: {"miou": None})
    with pytest.warns(Notice, match="no evaluation has a figure .*: the last step is published"):
        version = train_to_the_best(tiny, toy_set, tmp_path / "run", 2)
    assert read_run_manifest(version).steps == 2


def test_the_best_evaluation_is_kept_and_published(
    tiny: Path, toy_set: ShardSet, box_set: ShardSet, tmp_path: Path
) -> None:
    figures = iter((30.0, None, 90.0, 70.0, 90.0))
    weights: list[dict[str, torch.Tensor]] = []
    kept: list[list[str]] = []
    checkpoints = tmp_path / "run" / ".v1.partial" / "checkpoints"

    def evaluate_set(model: DataSeg, *arguments: Any) -> dict[str, Any]:
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        kept.append(sorted(path.name for path in checkpoints.iterdir()))
        return {"miou": next(figures)}

    options = ["training.evaluate_every=1", "training.keep_checkpoints=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segkit.training.trainer.evaluate_set", evaluate_set)
        version = train_to_the_best(tiny, toy_set, tmp_path / "run", 5, options)
    assert kept == [
        [f"step-0000000{step}" for step in steps] for steps in ([1], [1, 2], [1, 3], [3, 4], [3, 5])
    ]
    run = load_run(version)
    assert run.manifest.steps == 3
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, weights[2][name]), name


def test_checkpoints_are_deleted_once_the_run_is_flushed_and_visible(
    tiny: Path, toy_set: ShardSet, tmp_path: Path
) -> None:
    out, events = tmp_path / "run", list[str]()
    real_sync, real_rmtree = publishing.sync, shutil.rmtree

    def sync(path: Path) -> None:
        events.append(path.name)
        real_sync(path)

    def rmtree(path: Path, **options: Any) -> None:
        if Path(path).name == "checkpoints":
            events.append("delete")
            assert list(versions(out)) == [1]
        real_rmtree(path, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publishing, "sync", sync)
        patch.setattr(shutil, "rmtree", rmtree)
        version = train(tiny, [(str(toy_set.path), 1.0)], out, device="cpu", steps=1)
    files = {path.name for path in version.rglob("*") if path.is_file()}
    assert files and files <= set(events[: events.index("delete")])
    assert events[-2:] == ["run", "delete"] and not (version / "checkpoints").exists()


def test_the_best_step_is_one_whose_checkpoint_is_left(
    tiny: Path, toy_set: ShardSet, box_set: ShardSet, tmp_path: Path
) -> None:
    """Which was kept was decided by two sets; the resumed run evaluates one of them."""
    figures = {"toy": iter((90.0, 30.0, 40.0)), "second": iter((10.0, 80.0))}
    second = write_toy_set(tmp_path / "second", name="second")

    def evaluate_set(model: DataSeg, embeddings: Any, data: ShardSet, *_: Any) -> dict[str, Any]:
        return {"miou": next(figures[data.manifest.name])}

    out, toy = tmp_path / "run", str(toy_set.path)
    options = ["training.publish=best", "training.evaluate_every=1", "training.keep_checkpoints=1"]
    arguments: dict[str, Any] = {"device": "cpu", "overrides": options, "steps": 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segkit.training.trainer.evaluate_set", evaluate_set)
        with pytest.raises(StoppedError):
            train(
                tiny,
                [(toy, 1.0)],
                out,
                eval_data=[toy, str(second.path)],
                callbacks=stop_after(3),
                **arguments,
            )
        version = train(tiny, [(toy, 1.0)], out, eval_data=[toy], resume=True, **arguments)
    assert read_run_manifest(version).steps == 3  # step 1 was better, and its checkpoint is gone
