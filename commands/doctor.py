"""`segkit doctor`: what this machine has, and what is missing for which command."""

from dataclasses import asdict
from pathlib import Path

import typer

from segkit.storage import writable_local

from .common import emit

_STATES = {True: "ok", False: "problem", None: "-"}
"""A dash: optional, and not there."""
_STATE_WIDTH, _NAME_WIDTH = 9, 15
"""Columns in characters."""


def doctor(
    folder: Path = typer.Option(
        Path(),
        "--folder",
        metavar="DIR",
        parser=writable_local,
        help="Where sets and runs are to be written.",
    ),
) -> None:
    """Check extras, CUDA, MongoDB, shared memory and disk, and say what to install for what.

    Exits with 0: a missing extra is no failure. `--json` lists each check with its hint.

    Example: segkit doctor
    """
    from segkit.report.environment import check_environment

    checks = check_environment(folder)
    lines = [
        f"{_STATES[check.ok]:{_STATE_WIDTH}}{check.name:{_NAME_WIDTH}}{check.text}"
        for check in checks
    ]
    hints = [f"{check.name}: {check.hint}" for check in checks if check.hint]
    emit(
        {"checks": [asdict(check) for check in checks]},
        schema="segkit.doctor/1",
        tables=[*lines, *hints],
    )
