"""Loggers that refuse figures, or fail: the training continues, and the user learns of it once."""

import json
import posixpath
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from segkit.errors import Notice
from segkit.shards.reader import ShardSet
from segkit.training import loggers
from segkit.training.loggers import MlflowNames
from segkit.training.logging import GuardedLogger
from segkit.training.train import train
from tests.training.toy import write_toy_set


def accepts(name: str) -> bool:
    """MLflow's rule for the names of metrics."""
    is_path = not name.startswith(("/", "..")) and posixpath.normpath(name) == name != "."
    return bool(re.fullmatch(r"[/\w.\- :]*", name)) and is_path and len(name) <= 250


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("training/loss", "training/loss"),
        ("COCO (val)/all/pq", "COCO _val_/all/pq"),
        ("a//b", "a/_/b"),
        ("../a/./b", "_/a/_/b"),
        ("/", "_/_"),
        ("", "_"),
        ("loss of b\u00e4ume: 50 %", "loss of b\u00e4ume: 50 _"),
    ],
)
def test_names_are_made_safe_for_mlflow(name: str, safe: str) -> None:
    assert MlflowNames().safe(name) == safe and accepts(safe)


def test_names_that_differ_stay_different() -> None:
    names = MlflowNames()
    for _ in range(2):
        figures = ["COCO (val)", "COCO [val]", "COCO _val_", "x" * 300 + "a", "x" * 300 + "a?"]
        safe = [names.safe(name) for name in figures]
        assert safe[:3] == ["COCO _val_", "COCO _val_ 2", "COCO _val_ 3"]
        assert len({*safe}) == len(safe) and all(map(accepts, safe))


def steps_in_log(version: Path) -> list[int]:
    lines = map(json.loads, (version / "metrics.jsonl").read_text().splitlines())
    return [line["step"] for line in lines if "loss" in line]


def test_a_set_of_any_name_is_logged_to_mlflow(
    tiny: Path, toy_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, float] = {}

    @contextmanager
    def start_run(run_name: str) -> Iterator[None]:
        yield

    def log_metrics(figures: Mapping[str, float], step: int) -> None:
        assert all(map(accepts, figures))
        sent.update(figures)

    mlflow = ModuleType("mlflow")
    vars(mlflow).update(
        start_run=start_run,
        log_params=lambda values: None,
        log_metrics=log_metrics,
        __spec__=ModuleSpec("mlflow", None),
    )
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    named = write_toy_set(tmp_path / "named", name="COCO (val)")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        version = train(
            tiny,
            [(str(toy_set.path), 1.0)],
            tmp_path / "run",
            eval_data=[str(named.path)],
            device="cpu",
            steps=2,
            overrides=['training.loggers=["mlflow"]'],
        )
    assert "COCO _val_/all/pq" in sent and steps_in_log(version) == [1, 2]


@pytest.mark.parametrize("place", ["start", "figures", "end", "TensorBoard"])
def test_a_logger_that_fails_is_noted_once_and_ends_no_training(
    tiny: Path,
    toy_set: ShardSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    calls: list[str] = []

    def fail(now: str) -> None:
        calls.append(now)
        if now == place:
            raise ConnectionError("no answer\nfrom the server")

    @contextmanager
    def service(*_: Any) -> Iterator[loggers.LogFigures]:
        fail("start")
        yield lambda figures, step: fail("figures")
        fail("end")

    monkeypatch.setitem(loggers.LOGGERS, "wandb", service)
    monkeypatch.setattr("segkit.training.preflight.require_extra", lambda *_: None)
    if place == "TensorBoard":
        writer = "segkit.training.logging.SummaryWriter.add_scalar"
        monkeypatch.setattr(writer, lambda *_: fail("TensorBoard"))
    with pytest.warns(Notice) as caught:
        version = train(
            tiny,
            [(str(toy_set.path), 1.0)],
            tmp_path / "run",
            device="cpu",
            steps=3,
            overrides=['training.loggers=["wandb"]'],
        )
    name = "TensorBoard" if place == "TensorBoard" else "wandb"
    notices = [str(warning.message) for warning in caught if warning.category is Notice]
    assert notices == [f"{name} gets no more figures (no answer); metrics.jsonl has all of them"]
    assert calls.count(place) == 1 and steps_in_log(version) == [1, 2, 3]
    assert calls.count("end") == (0 if place == "start" else 1)


def test_the_error_of_a_training_reaches_the_logger_and_the_caller() -> None:
    ends: list[BaseException] = []

    @contextmanager
    def service() -> Iterator[loggers.LogFigures]:
        try:
            yield lambda figures, step: None
        except BaseException as error:
            ends.append(error)
            raise

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for error in (ValueError("of the training"), KeyboardInterrupt()):
            with pytest.raises(type(error)), GuardedLogger("x", service()):
                raise error
            assert ends.pop() is error
