"""Where the figures of a run go besides its own files: Weights & Biases and MLflow, each behind an
extra.

Where they log to, and as whom, is told by their own environment variables.
"""

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from segkit.errors import InputError

Send = Callable[[Mapping[str, float], int], None]
"""Takes figures by name, and their step."""


@contextmanager
def wandb_run(name: str, settings: Mapping[str, Any], folder: Path) -> Iterator[Send]:
    """A run of Weights & Biases: its name, its configuration, and the directory for its own
    files."""
    import wandb

    with wandb.init(name=name, config=dict(settings), dir=str(folder)) as run:
        yield lambda figures, step: run.log(dict(figures), step=step)


@contextmanager
def mlflow_run(name: str, settings: Mapping[str, Any], folder: Path) -> Iterator[Send]:
    """A run of MLflow; its parameters are the keys of the recipe by section."""
    import mlflow

    with mlflow.start_run(run_name=name):
        mlflow.log_params(
            {
                f"{part}.{key}": value
                for part, keys in settings.items()
                for key, value in keys.items()
            }
        )
        yield lambda figures, step: mlflow.log_metrics(dict(figures), step=step)


TRACKERS: dict[str, Callable[[str, Mapping[str, Any], Path], AbstractContextManager[Send]]] = {
    "wandb": wandb_run,
    "mlflow": mlflow_run,
}


def require(names: Sequence[str]) -> None:
    """Raise InputError where one of these trackers is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            hint = f"pip install 'segkit[{name}]', or leave it out"
            raise InputError(f"{name} is not installed", record="training.loggers", hint=hint)
