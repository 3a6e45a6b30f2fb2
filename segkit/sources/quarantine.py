"""Losses of a conversion as lines of JSON: one file a shard while it goes on, one for the version
in the end."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segkit.sources.ledger import Tally

QUARANTINE = "quarantine.jsonl"


@contextmanager
def logged(directory: Path | None, part: int | str) -> Iterator[Tally]:
    """A tally whose losses go to a file of their own until the version is finished; to none in a
    dry run."""
    if directory is None:
        yield Tally()
        return
    with _path(directory, part).open("w", encoding="utf-8") as file:
        tally = Tally(log=file)
        yield tally
        tally.log = None  # a worker sends its tally to the parent


def flush(tally: Tally) -> None:
    """Put what was written so far on the disk."""
    if tally.log is not None:
        tally.log.flush()
        os.fsync(tally.log.fileno())


def _path(directory: Path, part: int | str) -> Path:
    return directory / f"quarantine-{part}.partial"


def write_quarantine(directory: Path, count: int) -> None:
    """Losses of the source as a whole, then those of each shard."""
    logs = [
        path
        for part in ("source", *range(count))
        if (path := _path(directory, part)).stat().st_size
    ]
    if logs:
        with (directory / QUARANTINE).open("wb") as file:
            for log in logs:
                with log.open("rb") as lines:
                    shutil.copyfileobj(lines, file)
