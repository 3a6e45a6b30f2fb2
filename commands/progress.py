"""Progress on stderr: a bar on a terminal, else a line now and then; nothing with --quiet."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from segkit.progress import Advance
from segkit.text.printable import printable

from .common import print_line, stderr
from .shared_options import is_quiet

LINE_SECONDS = 30.0
"""Between two lines where stderr is no terminal."""


class _Rate(ProgressColumn):
    """Items a second, and boxes where there are any."""

    def render(self, task: Task) -> Text:
        if task.speed is None:
            return Text("")
        boxes, unit = task.fields.get("boxes", 0), task.fields.get("unit", "")
        rates = [f"{task.speed:,.1f}{unit}/s"]
        if boxes and task.elapsed:
            rates.append(f"{boxes / task.elapsed:,.1f} boxes/s")
        return Text("  ".join(rates))


def progress() -> Progress:
    """A progress bar on stderr, shown only if stderr is a terminal, and not with --quiet."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stderr,
        disable=is_quiet() or not stderr.is_terminal,
    )


@contextmanager
def progress_bar(label: str, total: int | None, unit: str = "images") -> Iterator[Advance]:
    """Progress of one loop over items of a unit; yields a function that advances it.

    The unit is `reads` where each image is read several times.
    """
    if is_quiet() or stderr.is_terminal:
        with progress() as bar:
            yield _Bar(bar, label, total, unit)
    else:
        yield _Lines(label, total, unit)


class _Bar:
    """A bar with the items that are done."""

    def __init__(self, bar: Progress, label: str, total: int | None, unit: str) -> None:
        self.bar, self.boxes = bar, 0
        self.task = bar.add_task(printable(label), total=total, unit=f" {unit}")

    def __call__(self, number: int = 1, /) -> None:
        self.bar.advance(self.task, number)

    def resume(self, number: int, /) -> None:
        # `advance` and `update` would take them for work of this moment
        self.bar.tasks[0].completed += number

    def count_boxes(self, number: int, /) -> None:
        self.boxes += number
        self.bar.update(self.task, boxes=self.boxes)


class _Lines:
    """Lines with the items that are done, their rate and the time that the rest takes."""

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self.resumed = self.boxes = 0
        self.start = self.last = time.monotonic()

    def resume(self, number: int, /) -> None:
        self.resumed += number
        self.done += number

    def count_boxes(self, number: int, /) -> None:
        self.boxes += number

    def __call__(self, number: int = 1, /) -> None:
        self.done += number
        now = time.monotonic()
        if now - self.last < LINE_SECONDS:
            return
        self.last = now
        rate = (self.done - self.resumed) / (now - self.start)
        of_all, eta, boxes = "", "", ""
        if self.boxes:
            boxes = f"  {self.boxes / (now - self.start):.1f} boxes/s"
        if self.total is not None:
            of_all = f"/{self.total}"
            eta = f"  ETA {(self.total - self.done) / rate / 60:.0f} min" if rate else ""
        print_line(f"{self.label}  {self.done}{of_all}  {rate:.1f} {self.unit}/s{boxes}{eta}")
