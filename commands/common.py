"""Shared by commands: sizes, tables or one JSON object on stdout.

All output of all commands goes through this module, which escapes control characters in text from
data (see `segkit.text.printable`) and takes none of it for markup.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from segkit import __version__
from segkit.errors import SegkitError
from segkit.sample import MIN_DRAWN_SCORE
from segkit.storage import is_remote
from segkit.text.printable import printable

from .next_steps import next_step
from .shared_options import is_json

if TYPE_CHECKING:
    from segkit.shards.reader import ShardSet

_next_step: ContextVar[str | None] = ContextVar("next_step", default=None)
"""After the result that was printed last."""

stdout = Console(markup=False, emoji=False)
stderr = Console(markup=False, emoji=False, stderr=True)


def note(text: str) -> None:
    """Print a note on stderr: what a user must know about a result or might not expect."""
    print_line(f"note: {text}")


def write_preview(
    shards: "ShardSet", enabled: bool, min_score: float = MIN_DRAWN_SCORE
) -> str | None:
    """Write the preview of a new version and say what it shows; a failure is a note.

    Returns:
        The picture's path; None without one.

    Raises:
        SegkitError: the version was deleted or moved meanwhile.
    """
    file = _draw_preview(shards, min_score) if enabled else None
    shards.require_present()
    return file


def _draw_preview(shards: "ShardSet", min_score: float) -> str | None:
    from segkit.report import preview

    try:
        written = preview.write_preview(shards, min_score=min_score)
    except (SegkitError, OSError) as error:
        note(f"no preview of {shards.path}: {error}")
        return None
    if written is None:
        return None
    file, drawing = written
    if drawing.drawn < drawing.segments:
        note(f"the preview shows {drawing}")
    return str(file)


def write_report(version: Path, page: Callable[[], str]) -> str | None:
    """Write the report of a new version beside it, as `v1.html`; a failure is a note.

    Args:
        version: directory of the version.
        page: builds the HTML.

    Returns:
        The report's path; None without one, as of a remote version.
    """
    from segkit.atomic import write_text

    if is_remote(version):
        return None
    file = version.with_name(f"{version.name}.html")
    try:
        write_text(file, page())
    except (SegkitError, OSError) as error:
        note(f"no report of {version}: {error}")
        return None
    return str(file)


def print_line(text: str, *, style: str | None = None) -> None:
    """Print a line on stderr."""
    line = printable(text)
    stderr.print(line, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)


def plain(value: object) -> Text:
    """Text from data for a table or a tree: control characters escaped, no markup, no emoji."""
    return Text(printable(value))


def status(text: str) -> AbstractContextManager[object]:
    """A line with a spinner on stderr while the work lasts, if stderr is a terminal."""
    return stderr.status(plain(text))


def table(
    title: str | Sequence[str], columns: Sequence[str], rows: Sequence[Sequence[object]]
) -> Table:
    """A short table: first column left, figures right; floats with two decimals, None as a dash.

    `emit` prints the title on lines of its own, because rich wraps it to the table's width.

    Args:
        title: one line or several.
        columns: headings.
        rows: cells.
    """
    lines = [title] if isinstance(title, str) else title
    result = Table(title="\n".join(map(printable, lines)), title_justify="left")
    for position, column in enumerate(columns):
        result.add_column(plain(column), justify="left" if position == 0 else "right")
    for row in rows:
        result.add_row(*(plain(_cell(value)) for value in row))
    return result


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def emit(result: Mapping[str, Any], *, schema: str, tables: Sequence[Table | Tree | str]) -> None:
    """Print the result of a command on stdout, as one JSON object or as tables.

    Names in brackets are printed as they are, never read as rich's markup. The labels of a tree
    must be `plain` already.

    Args:
        result: the command's result; `schema` and `segkit_version` are added.
        schema: name and version of the object's form, such as `segkit.inspect/1`.
        tables: the same for people.
    """
    if is_json():
        content = {"schema": schema, "segkit_version": __version__, **result}
        text = json.dumps(content, allow_nan=False)  # ASCII, of which it does not escape DEL
        print(text.replace("\x7f", "\\u007f"))
        return
    for item in tables:
        # soft wrap: a path that is broken over two lines cannot be copied
        if isinstance(item, Table):
            title, item.title = item.title, None
            style = "table.title"
            stdout.print(
                title, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True
            )
        line = printable(item) if isinstance(item, str) else item
        stdout.print(line, markup=False, emoji=False, soft_wrap=isinstance(item, str))
    _next_step.set(next_step(schema, result))


def print_next_step() -> None:
    """Name the command that usually comes next, on stderr, as the last line of a command."""
    if step := _next_step.get():
        print_line(f"next: {step}", style="dim")
    _next_step.set(None)
