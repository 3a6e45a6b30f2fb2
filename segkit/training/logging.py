"""What a run writes down as it goes: metrics.jsonl and TensorBoard events, and what trackers are
sent."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch.utils.tensorboard.writer import SummaryWriter

from segkit.runs.run_manifest import METRICS, TENSORBOARD
from segkit.training.evaluation import headline
from segkit.training.loop import StepRecord
from segkit.training.trackers import Send


class RunLog:
    """Appends to the logs of a run.

    Args:
        folder: of the run.
        step: the step from which the run goes on; what an interrupted run logged of later steps is
            dropped.
        trackers: are sent what TensorBoard gets.
    """

    def __init__(self, folder: Path, step: int, trackers: Sequence[Send] = ()) -> None:
        file = folder / METRICS
        kept = _lines_up_to(file, step)
        file.write_text("".join(kept), "utf-8")
        rows = [json.loads(line) for line in kept]
        self._headlines = {
            (row["step"], row["evaluation"]): headline(row["metrics"])[1]
            for row in rows
            if "evaluation" in row
        }
        self._file = file.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(folder / TENSORBOARD), purge_step=step + 1)
        self._trackers = trackers

    def step(self, record: StepRecord) -> None:
        """Log a step."""
        row = asdict(record)
        self._write(row)
        kept = ("loss", "gradient_norm", "lr", "samples_per_second", "memory_mib")
        terms = {f"loss/{name}": value for name, value in record.losses.items()}
        self._send(terms | {f"training/{name}": row[name] for name in kept}, record.step)

    def evaluation(self, step: int, dataset: str, metrics: dict[str, Any]) -> None:
        """Log the metrics of an evaluation set; TensorBoard and trackers get the plain figures
        among them."""
        self._headlines[step, dataset] = headline(metrics)[1]
        self._write({"step": step, "evaluation": dataset, "metrics": metrics})
        self._send({f"{dataset}/{name}": value for name, value in _figures(metrics)}, step)

    def evaluated(self, step: int, dataset: str) -> bool:
        """Whether the evaluation of a data set after a step is in the log."""
        return (step, dataset) in self._headlines

    def best(self, datasets: Collection[str]) -> int | None:
        """The step with the highest mean headline over these data sets (the first of equals); None
        where none has all.

        Evaluations in which a headline could not be measured do not count.
        """
        means: dict[int, float] = {}
        for step in sorted({step for step, _ in self._headlines}):
            values = [self._headlines.get((step, dataset)) for dataset in datasets]
            known = [value for value in values if value is not None]
            if values and len(known) == len(values):
                means[step] = sum(known) / len(known)
        return max(means, key=means.__getitem__) if means else None

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._events.close()

    def _send(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._events.add_scalar(name, value, step)
        for send in self._trackers:
            send(figures, step)

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(_finite(row), allow_nan=False) + "\n")
        self._file.flush()


def evaluations(folder: Path, step: int) -> dict[str, dict[str, Any]]:
    """The metrics of each evaluation set after a step, as a run's folder has them."""
    rows = map(json.loads, _lines_up_to(folder / METRICS, step))
    return {
        row["evaluation"]: row["metrics"]
        for row in rows
        if "evaluation" in row and row["step"] == step
    }


def _lines_up_to(file: Path, step: int) -> list[str]:
    """Lines of steps up to `step`; the last line of a killed run may be half a line."""
    if not file.is_file():
        return []
    whole = [
        line for line in file.read_text("utf-8").splitlines(keepends=True) if line.endswith("\n")
    ]
    return [line for line in whole if json.loads(line)["step"] <= step]


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: they become null."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _figures(metrics: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Numbers of a metrics object by path, tables of classes left out."""
    found: list[tuple[str, float]] = []
    for name, value in metrics.items():
        if isinstance(value, Mapping) and name != "per_class":
            found += _figures(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((prefix + name, float(value)))
    return found
