"""What every command shares: stderr for progress, stdout for one table or one JSON object."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from segkit import __version__

stdout = Console()
stderr = Console(stderr=True)

JSON_OPTION = typer.Option(False, "--json", help="Print one JSON object on stdout and nothing else there.")


def progress() -> Progress:
    """A progress bar on stderr, shown only where stderr is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=stderr, disable=not stderr.is_terminal
    )


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A short table: first column left, figures right; floats with two decimals, None as a dash."""
    made = Table(title=title, title_justify="left")
    for position, column in enumerate(columns):
        made.add_column(column, justify="left" if position == 0 else "right")
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    return made


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def emit(result: Mapping[str, Any], *, schema: str, as_json: bool, tables: Sequence[Table | str]) -> None:
    """Print `result` as one JSON object, or else the tables.

    Args:
        result: what the command found; `schema` and `segkit_version` are added.
        schema: name and version of the object's form, such as `segkit.inspect/1`.
        as_json: whether the user asked for JSON.
        tables: what a person reads instead.
    """
    if as_json:
        print(json.dumps({"schema": schema, "segkit_version": __version__, **result}, allow_nan=False))
        return
    for item in tables:
        stdout.print(item, soft_wrap=isinstance(item, str))  # a path that is broken over lines cannot be copied
