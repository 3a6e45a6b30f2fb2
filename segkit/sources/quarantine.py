"""Writes the losses of a conversion as lines of JSON: a log for each shard, then one file."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segkit.sources.ledger import Tally

QUARANTINE = "quarantine.jsonl"


@contextmanager
def logged_tally(directory: Path | None, part: int | str) -> Iterator[Tally]:
    """Yield a tally that logs its losses to a file of its own until the version is finished.

    Args:
        directory: staging directory; None (a dry run) writes no log.
        part: index of a shard, or "source" for losses that belong to no shard.
    """
    if directory is None:
        yield Tally()
        return
    with _log_path(directory, part).open("w", encoding="utf-8") as file:
        tally = Tally(log=file)
        yield tally
        tally.log = None  # a worker sends its tally to the parent, and files cannot be sent


def sync_log(tally: Tally) -> None:
    """Write the log of a tally through to the disk."""
    if tally.log is not None:
        tally.log.flush()
        os.fsync(tally.log.fileno())


def write_quarantine(directory: Path, count: int) -> None:
    """Join the logs of the source and of shards 0..count-1, unless all of them are empty."""
    paths = [_log_path(directory, part) for part in ("source", *range(count))]
    logs = [path for path in paths if path.stat().st_size]
    if not logs:
        (directory / QUARANTINE).unlink(missing_ok=True)  # of a run that was killed at its end
        return
    with (directory / QUARANTINE).open("wb") as file:
        for log in logs:
            with log.open("rb") as lines:
                shutil.copyfileobj(lines, file)


def log_name(part: int | str) -> str:
    """File name of the log of a part, as `logged_tally` numbers them."""
    return f"quarantine-{part}.partial"


def _log_path(directory: Path, part: int | str) -> Path:
    return directory / log_name(part)
