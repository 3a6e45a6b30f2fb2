"""Services that receive the figures of a run: Weights & Biases and MLflow, each behind an extra and
configured by its own environment variables.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from segkit.errors import short

LogFigures = Callable[[Mapping[str, float], int], None]
"""Takes figures by name, and their step."""
_MAX_VALUE = 500
"""Characters of a parameter that every version of MLflow accepts."""
_MAX_NAME = 240
"""Characters of a metric's name; MLflow accepts 250."""


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
