"""Checkpoints from which a killed run continues exactly, written so that a half-written one is never seen."""

import os
import re
from pathlib import Path
from typing import Any

import torch

from segkit.errors import InputError

_NAME = re.compile(r"step-(\d{8})\.pt")


def save(folder: Path, step: int, state: dict[str, Any], keep_last: int) -> Path:
    """Write `state` as the checkpoint after `step` steps, then delete all but the newest `keep_last`.

    The file is complete on disk before it takes its name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.pt"
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save({"step": step, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    for old in _all(folder)[:-keep_last]:
        old.unlink()
    return path


def load_newest(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The newest checkpoint's state with its `step`, tensors on `device`; None where there is none yet.

    Raises InputError where the file does not load. Only tensors and plain containers are unpickled.
    """
    found = _all(folder)
    if not found:
        return None
    try:
        state: dict[str, Any] = torch.load(found[-1], map_location=device, weights_only=True)
    except Exception as error:
        raise InputError(
            f"not a checkpoint ({error})", file=found[-1], mend="delete it to go on from the one before"
        ) from error
    return state


def _all(folder: Path) -> list[Path]:
    """Checkpoints of `folder`, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
