"""Log a run: metrics.jsonl, TensorBoard events, and the loggers of its recipe.

A service may be out of reach, or refuse what it is sent: that must not end a training.
"""

import json
import math
import resource
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from segkit import distributed, parse
from segkit.atomic import replace_bytes
from segkit.data.batch import Batch
from segkit.errors import InputError, Notice, first_line, short
from segkit.metrics.output import headline
from segkit.recipes.schema import Recipe
from segkit.runs.run_manifest import METRICS, TENSORBOARD
from segkit.training.loggers import LOGGERS, LogFigures

T = TypeVar("T")


@dataclass(frozen=True)
class BatchRecord:
    """Losses and gradient norm of one batch of a step, in one process."""

    dataset: str
    sample_ids: tuple[str, ...]
    share: float
    """Share of the batch in the step's loss in its process."""
    losses: dict[str, float]
    gradient_norm: float
    """Of the whole step, before clipping."""


@dataclass(frozen=True)
class StepRecord:
    """The log of one step: a line of `metrics.jsonl`."""

    step: int
    """Steps taken, including this one: the first is 1."""
    dataset: str
    """Data sets of the step's batches, joined by + where accumulation mixed several."""
    loss: float
    """Sum of the weighted terms; mean over batches (by sampling weight, where data sets are mixed)
    and processes."""
    losses: dict[str, float]
    loss_by_set: dict[str, float]
    """Mean over the batches of each data set in this step."""
    gradient_norm: float
    """Before clipping."""
    lr: float
    samples_per_second: float
    memory_mib: float
    """Largest allocation on the GPU so far; on a CPU the largest resident size of the process."""

    @classmethod
    def from_batches(
        cls,
        records: Sequence[BatchRecord],
        step: int,
        lr: float,
        seconds: float,
        device: torch.device,
    ) -> "StepRecord":
        """Combine the records of all batches of all processes."""
        names = sorted({name for record in records for name in record.losses})
        # A term that a batch lacks counts as 0, so that the terms add up to the minimized loss.
        total = sum(record.share for record in records)
        losses = {
            name: sum(record.share * record.losses.get(name, 0.0) for record in records) / total
            for name in names
        }
        return cls(
            step=step,
            dataset="+".join(sorted({record.dataset for record in records})),
            loss=sum(losses.values()),
            losses=losses,
            loss_by_set=_loss_by_set(records),
            gradient_norm=records[0].gradient_norm,
            lr=lr,
            samples_per_second=sum(len(record.sample_ids) for record in records) / seconds,
            memory_mib=_memory_mib(device),
        )


def _loss_by_set(records: Sequence[BatchRecord]) -> dict[str, float]:
    sums: dict[str, list[float]] = {}
    for record in records:
        sums.setdefault(record.dataset, []).append(sum(record.losses.values()))
    return {name: sum(losses) / len(losses) for name, losses in sorted(sums.items())}


def collect_records(
    batches: Sequence[Batch],
    shares: Sequence[float],
    terms: Sequence[Mapping[str, Tensor]],
    gradient_norm: Tensor,
) -> list[BatchRecord]:
    """Records of a step's batches in all processes, by rank; every process must call it.

    The host waits for the step's gradients here and nowhere else, and fetches all numbers at once:
    no weight may change before all processes know that they are finite.
    """
    losses = [value for named in terms for value in named.values()]
    values = iter(torch.stack([*losses, gradient_norm]).tolist())
    named = [dict(zip(losses, values, strict=False)) for losses in terms]
    norm = next(values)
    records = [
        BatchRecord(batch.dataset, batch.sample_ids, share, losses, norm)
        for batch, share, losses in zip(batches, shares, named, strict=True)
    ]
    return distributed.all_gather_object(records)


def _memory_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


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


class RunLog:
    """Appends to the logs of a run.

    Args:
        folder: of the run.
        step: the step from which the run continues; later lines of an interrupted run are dropped.
        loggers: receive the figures that TensorBoard gets.
    """

    def __init__(self, folder: Path, step: int, loggers: "Sequence[LogFigures]" = ()) -> None:
        file = folder / METRICS
        rows = _rows_up_to(file, step)
        replace_bytes(file, b"".join(line for line, _ in rows))
        self._headlines = {
            (row.step, row.evaluation): _headline(row, file)
            for _, row in rows
            if row.evaluation is not None
        }
        self._file = file.open("a", encoding="utf-8")
        events, purged = str(folder / TENSORBOARD), step + 1
        self._tensorboard = Guard("TensorBoard")
        self._events = self._tensorboard.call(lambda: SummaryWriter(events, purge_step=purged))
        self._loggers = loggers

    def step(self, record: StepRecord) -> None:
        """Log a step."""
        row = asdict(record)
        self._write(row)
        names = ("loss", "gradient_norm", "lr", "samples_per_second", "memory_mib")
        figures = {f"loss/{name}": value for name, value in record.losses.items()}
        figures |= {f"loss of {name}": value for name, value in record.loss_by_set.items()}
        self._log_figures(figures | {f"training/{name}": row[name] for name in names}, record.step)

    def evaluation(
        self, step: int, dataset: str, metrics: dict[str, Any], picture: Path | None = None
    ) -> None:
        """Log the metrics of an evaluation set; TensorBoard and loggers get its plain figures.

        Args:
            step: after which it was evaluated.
            dataset: its name.
            metrics: the content of its metrics.json.
            picture: PNG of its first predictions, for TensorBoard.
        """
        self._headlines[step, dataset] = headline(metrics)[1]
        self._write({"step": step, "evaluation": dataset, "metrics": metrics})
        figures = {f"{dataset}/{name}": value for name, value in _figures(metrics)}
        self._log_figures(figures, step)
        if picture is not None and picture.is_file() and self._events is not None:
            add = partial(self._events.add_image, dataformats="HWC")
            pixels = np.asarray(Image.open(picture))
            self._tensorboard.call(add, f"{dataset}/predictions", pixels, step)

    def has_evaluation(self, step: int, dataset: str) -> bool:
        """Whether the log holds the evaluation of a data set after a step."""
        return (step, dataset) in self._headlines

    def best(self, datasets: Collection[str], steps: Collection[int]) -> int | None:
        """The step with the highest mean headline over these data sets, the first of equals.

        Only `steps` count, those with a checkpoint: which was the best, and was kept, may have been
        decided by other data sets before a run was resumed. Neither do steps count without a
        measured headline for each set; None where no step does.
        """
        means: dict[int, float] = {}
        for step in sorted({step for step, _ in self._headlines}.intersection(steps)):
            headlines = [self._headlines.get((step, dataset)) for dataset in datasets]
            values = [value for value in headlines if value is not None]
            if values and len(values) == len(headlines):
                means[step] = sum(values) / len(values)
        return max(means, key=means.__getitem__) if means else None

    def close(self) -> None:
        """Flush and close the files."""
        self._file.close()
        if self._events is not None:
            self._tensorboard.call(self._events.close)

    def _log_figures(self, figures: Mapping[str, float], step: int) -> None:
        if self._events is not None:
            for name, value in figures.items():
                self._tensorboard.call(self._events.add_scalar, name, value, step)
        for log_figures in self._loggers:
            log_figures(figures, step)

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(_finite(row), allow_nan=False) + "\n")
        self._file.flush()


@contextmanager
def open_log(recipe: Recipe, folder: Path, step: int) -> Iterator[RunLog | None]:
    """The run's log, with the recipe's loggers, in the first process; None in the others."""
    if distributed.rank() != 0:
        yield None
        return
    settings = recipe.model_dump(mode="json", exclude={"name"})
    with ExitStack() as stack:
        loggers = [
            stack.enter_context(GuardedLogger(name, LOGGERS[name](recipe.name, settings, folder)))
            for name in recipe.training.loggers
        ]
        yield stack.enter_context(closing(RunLog(folder, step, loggers)))


def evaluations(folder: Path, step: int) -> dict[str, dict[str, Any]]:
    """The metrics of each evaluation set after a step, from the log of a run."""
    return {
        row.evaluation: row.metrics
        for _, row in _rows_up_to(folder / METRICS, step)
        if row.evaluation is not None and row.step == step
    }


class _Row(msgspec.Struct, frozen=True):
    """The fields of a line of the log that a resumed run reads."""

    step: int
    evaluation: str | None = None
    """The evaluation set, in lines of evaluations."""
    metrics: dict[str, Any] = {}


_ROW = msgspec.json.Decoder(_Row)
_MAX_LOG = 16 << 30
_LOG_HINT = "delete the line, or --restart to start anew"


def _rows_up_to(file: Path, step: int) -> list[tuple[bytes, _Row]]:
    """Lines of steps up to `step`, as they stand in the file, and what they say; without the half
    line that a killed run may end with.

    Raises:
        InputError: the file is damaged; the message names the line.
    """
    if not parse.exists(file):
        return []
    rows = []
    data = parse.read_bytes(file, max_bytes=_MAX_LOG)
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            continue
        try:
            row = _ROW.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            message, record = f"not a line of a log ({short(error)})", f"line {number}"
            raise InputError(message, file=file, record=record, hint=_LOG_HINT) from error
        if row.step <= step:
            rows.append((line, row))
    return rows


def _headline(row: _Row, file: Path) -> float | None:
    """The headline figure of an evaluation."""
    try:
        return headline(row.metrics)[1]
    except (KeyError, TypeError, AttributeError) as error:
        message, record = f"not the metrics of an evaluation ({error!r})", f"step {row.step}"
        raise InputError(message, file=file, record=record, hint=_LOG_HINT) from error


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, by null."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _figures(metrics: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Numbers of a metrics object by path, without tables of classes."""
    figures: list[tuple[str, float]] = []
    for name, value in metrics.items():
        if isinstance(value, Mapping) and name != "per_class":
            figures += _figures(value, f"{prefix}{name}/")
        elif parse.is_number(value):
            figures.append((prefix + name, float(value)))
    return figures
