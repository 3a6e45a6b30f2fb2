"""Services that receive the figures of a run: Weights & Biases and MLflow, each behind an extra and
configured by its own environment variables.

A service may be out of reach, or refuse what it is sent: that must not end a training.
"""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from segkit.errors import Notice, first_line, short
from segkit.runs.run_manifest import METRICS

T = TypeVar("T")
LogFigures = Callable[[Mapping[str, float], int], None]
"""Takes figures by name, and their step."""
_MAX_VALUE = 500
"""Characters of a parameter that every version of MLflow accepts."""
_MAX_NAME = 240
"""Characters of a metric's name; MLflow accepts 250."""


class Guard:
    """Calls a logger until it raises an error, which is noted once; no call follows.

    To try again at each step would delay each step by the service's own attempts.
    """

    def __init__(self, name: str) -> None:
        self.name, self.has_failed = name, False

    def call(self, function: Callable[..., T], *arguments: Any) -> T | None:
        """The function's value; None where it raises an error, or an earlier call did."""
        if self.has_failed:
            return None
        try:
            return function(*arguments)
        except Exception as error:
            self.note(error)
            return None

    def note(self, error: Exception) -> None:
        """Note the first error of the logger, and call it no more."""
        if not self.has_failed:
            self.has_failed = True
            message = f"{self.name} gets no more figures ({short(first_line(error), 300)})"
            warnings.warn(f"{message}; {METRICS} has all of them", Notice, stacklevel=2)


class GuardedLogger(AbstractContextManager["GuardedLogger"]):
    """A logger, from its start to its end, whose errors end no training."""

    def __init__(self, name: str, run: AbstractContextManager[LogFigures]) -> None:
        self._guard, self._run = Guard(name), run
        self._log: LogFigures | None = None

    def __enter__(self) -> "GuardedLogger":
        self._log = self._guard.call(self._run.__enter__)
        return self

    def __call__(self, figures: Mapping[str, float], step: int) -> None:
        """Log figures by name at a step."""
        if self._log is not None:
            self._guard.call(self._log, figures, step)

    def __exit__(self, *error: Any) -> None:
        """End the service's run, which may record the error of the training."""
        if self._log is None:
            return
        try:
            self._run.__exit__(*error)
        except Exception as failure:
            if failure is not error[1]:
                self._guard.note(failure)


@contextmanager
def wandb_run(name: str, settings: Mapping[str, Any], folder: Path) -> Iterator[LogFigures]:
    """Log to a run of Weights & Biases: name, configuration, directory of its own files."""
    import wandb

    with wandb.init(name=name, config=dict(settings), dir=str(folder)) as run:
        yield lambda figures, step: run.log(dict(figures), step=step)


@contextmanager
def mlflow_run(name: str, settings: Mapping[str, Any], folder: Path) -> Iterator[LogFigures]:
    """Log to a run of MLflow; its parameters are the recipe's keys, with their section."""
    import mlflow

    names = MlflowNames()
    with mlflow.start_run(run_name=name):
        mlflow.log_params(
            {
                f"{part}.{key}": value
                if len(str(value)) <= _MAX_VALUE
                else short(value, _MAX_VALUE)
                for part, keys in settings.items()
                for key, value in keys.items()
            }
        )
        yield lambda figures, step: mlflow.log_metrics(
            {names.safe(name): value for name, value in figures.items()}, step=step
        )


class MlflowNames:
    """Names of figures as MLflow accepts them: letters, digits, `_-.: ` and `/` between parts.

    The name of a data set may hold anything.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}  # of the figures, by safe name

    def safe(self, name: str) -> str:
        """The name in MLflow, always the same; names that differ stay different."""
        parts = re.sub(r"[^\w\-.: /]", "_", name).split("/")
        text = "/".join("_" if part in ("", ".", "..") else part for part in parts)
        text, number = short(text, _MAX_NAME), 2
        candidate = text
        while self._names.setdefault(candidate, name) != name:
            candidate, number = f"{text} {number}", number + 1
        return candidate


LOGGERS: dict[str, Callable[[str, Mapping[str, Any], Path], AbstractContextManager[LogFigures]]] = {
    "wandb": wandb_run,
    "mlflow": mlflow_run,
}
