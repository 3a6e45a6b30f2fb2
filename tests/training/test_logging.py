import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segkit.extras import MissingExtraError, install_command
from segkit.recipes.load import load_recipe
from segkit.shards.reader import ShardSet
from segkit.training.logging import RunLog, StepRecord, evaluations
from segkit.training.train import train


def assert_complete(sent: dict[int, dict[str, float]], *, steps: int) -> None:
    """Every step has its loss, and the last one the figures of its evaluation."""
    assert list(sent) == list(range(1, steps + 1))
    assert all(
        figures["training/loss"] > 0 and "loss/class" in figures for figures in sent.values()
    )
    assert "toy/all/pq" in sent[steps] and "toy/all/pq" not in sent[1]


def run(tiny: Path, toy: ShardSet, out: Path, *overrides: str) -> Path:
    spec = str(toy.path)
    return train(
        tiny, [(spec, 1.0)], out, eval_data=[spec], device="cpu", steps=2, overrides=overrides
    )


def test_loggers_get_the_figures_of_tensorboard(
    tiny: Path, toy_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, dict[int, dict[str, float]]] = {"wandb": {}, "mlflow": {}}
    settings: dict[str, Any] = {}

    def log(name: str, figures: dict[str, float], step: int) -> None:
        sent[name].setdefault(step, {}).update(figures)

    @contextmanager
    def init(name: str, config: dict[str, Any], dir: str) -> Iterator[Any]:
        settings["wandb"] = (name, config)
        yield SimpleNamespace(log=lambda figures, step: log("wandb", figures, step))

    @contextmanager
    def start_run(run_name: str) -> Iterator[None]:
        yield

    wandb, mlflow = ModuleType("wandb"), ModuleType("mlflow")
    vars(wandb).update(init=init, __spec__=ModuleSpec("wandb", None))
    vars(mlflow).update(
        start_run=start_run,
        log_params=lambda values: settings.update(mlflow=values),
        log_metrics=lambda figures, step: log("mlflow", figures, step),
        __spec__=ModuleSpec("mlflow", None),
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    run(tiny, toy_set, tmp_path / "run", 'training.loggers=["wandb", "mlflow"]')
    assert_complete(sent["wandb"], steps=2)
    assert sent["mlflow"] == sent["wandb"]
    recipe = load_recipe(tiny)
    name, config = settings["wandb"]
    assert name == recipe.name and config["optimizer"]["lr"] == recipe.optimizer.lr
    assert settings["mlflow"]["optimizer.lr"] == recipe.optimizer.lr


def test_a_missing_logger_is_refused_before_anything_is_written(
    tiny: Path, toy_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segkit.extras._is_installed", lambda name: False)
    with pytest.raises(MissingExtraError, match=re.escape(install_command("wandb"))):
        run(tiny, toy_set, tmp_path / "run", 'training.loggers=["wandb"]')
    assert not (tmp_path / "run").exists()


def record(step: int) -> StepRecord:
    figures = (float("inf"), 0.1, 10.0, 100.0)
    return StepRecord(step, "toy", 1.5, {"class": 1.5}, {"toy": 1.5}, *figures)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_resumed_log_drops_later_steps_and_half_a_line(tmp_path: Path) -> None:
    with closing(RunLog(tmp_path, 0)) as log:
        for step in (1, 2, 3):
            log.step(record(step))
        log.evaluation(3, "toy", {"miou": 50.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "dat')
    with closing(RunLog(tmp_path, 2)) as log:
        assert not log.has_evaluation(3, "toy")
        log.step(record(3))
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]
    assert rows(tmp_path)[0]["gradient_norm"] is None, "JSON has no infinity"


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_a_kill_while_a_resumed_log_is_opened_loses_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with closing(RunLog(tmp_path, 0)) as log:
        log.step(record(1))
        log.evaluation(1, "toy", {"miou": 50.0})
        log.step(record(2))
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def kill(path: Path, *arguments: Any) -> None:
        if step == "write_bytes":
            path.open("wb").close()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, step, kill)
        RunLog(tmp_path, 1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    with closing(RunLog(tmp_path, 1)) as log:
        assert log.has_evaluation(1, "toy")
    assert [row["step"] for row in rows(tmp_path)] == [1, 1]
    assert not list(tmp_path.glob("*.partial"))


def test_the_best_step_has_the_highest_mean_over_all_sets(tmp_path: Path) -> None:
    with closing(RunLog(tmp_path, 0)) as log:
        steps = {1, 2, 3, 4}
        assert log.best(["a", "b"], steps) is None
        for step, (a, b) in enumerate([(50.0, 30.0), (90.0, None), (45.0, 37.0), (42.0, 40.0)], 1):
            log.evaluation(step, "a", {"miou": a})
            log.evaluation(step, "b", {"all": {"pq": b}})
        assert log.best(["a", "b"], steps) == 3, "the first of equal means"
        assert log.best(["a"], steps) == 2 and log.best([], steps) is None
        assert log.best(["a"], {1, 3, 4}) == 1, "only steps with a checkpoint count"
    with closing(RunLog(tmp_path, 4)) as log:
        assert log.best(["a", "b"], steps) == 3
    assert evaluations(tmp_path, 4) == {"a": {"miou": 42.0}, "b": {"all": {"pq": 40.0}}}


def test_tensorboard_has_a_curve_and_pictures_of_each_set(
    tiny: Path, toy_set: ShardSet, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run(tiny, toy_set, tmp_path / "run")
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert "loss of toy" in tags["scalars"] and tags["images"] == ["toy/predictions"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    curve = {event.step: event.value for event in events.Scalars("loss of toy")}
    assert curve == pytest.approx(losses)  # all batches are of this set
    (picture,) = (folder / "pictures").glob("*.png")
    (event,) = events.Images("toy/predictions")
    expected = np.asarray(Image.open(picture))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(event.encoded_image_string))), expected)
