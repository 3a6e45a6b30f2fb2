"""What every command shares: stderr for progress, stdout for one table or one JSON object."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from segkit import __version__

stdout = Console()
stderr = Console(stderr=True)

JSON_OPTION = typer.Option(
    False, "--json", help="Print one JSON object on stdout and nothing else there."
)


def progress() -> Progress:
    """A progress bar on stderr, shown only where stderr is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(
        *columns,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stderr,
        disable=not stderr.is_terminal,
    )


@contextmanager
def counting(what: str, total: int | None) -> "Iterator[partial[None]]":
    """A progress bar of one line; it moves on by what it gives is called with, or by one."""
    with progress() as bar:
        yield partial(bar.advance, bar.add_task(what, total=total))


def note(text: str) -> None:
    """Tell on stderr what the user must know of a result, or might not expect."""
    stderr.print(f"note: {text}", markup=False, highlight=False, soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A short table: first column left, figures right; floats with two decimals, None as a dash.

    `emit` prints the title as lines of their own, for rich would break it to the table's width.
    """
    made = Table(title=title, title_justify="left")
    for position, column in enumerate(columns):
        made.add_column(column, justify="left" if position == 0 else "right")
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    return made


def counted(number: int, one: str, many: str | None = None) -> str:
    """A count with its noun: `1 image`, `2 images`; `many` where the plural is no mere s."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def emit(
    result: Mapping[str, Any], *, schema: str, as_json: bool, tables: Sequence[Table | str]
) -> None:
    """Print `result` as one JSON object, or else the tables.

    Args:
        result: what the command found; `schema` and `segkit_version` are added.
        schema: name and version of the object's form, such as `segkit.inspect/1`.
        as_json: whether the user asked for JSON.
        tables: what a person reads instead.
    """
    if as_json:
        print(
            json.dumps({"schema": schema, "segkit_version": __version__, **result}, allow_nan=False)
        )
        return
    for item in tables:
        # a path that is broken over lines cannot be copied
        if isinstance(item, Table):
            stdout.print(
                item.title, style="table.title", markup=False, highlight=False, soft_wrap=True
            )
            item.title = None
        stdout.print(
            item, markup=False, soft_wrap=isinstance(item, str)
        )  # a name in brackets is no style
