"""Fill the templates of a report: the page, and the parts of its sections.

Jinja2 escapes every value; control characters of names are escaped as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from segkit.text.printable import printable


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    body: Markup
    """HTML; a section without a body is left out."""
    lead: str = ""
    """A sentence in plain text that explains how to read the section."""


@dataclass(frozen=True)
class Page:
    """The content of a report."""

    title: str
    lead: str
    cards: Sequence[tuple[str, str]] = ()
    """Name and figure; the first card is the headline."""
    sections: Sequence[Section] = ()
    notes: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()


def html(page: Page) -> str:
    """Write the page as one HTML file that loads nothing from elsewhere."""
    return _environment().get_template("report.html").render(page=page)


def fragment(name: str, **values: object) -> Markup:
    """The HTML of a part of a section.

    Args:
        name: a macro of `templates/parts.html`.
        values: the macro's arguments.
    """
    return Markup(getattr(_environment().get_template("parts.html").module, name)(**values))


def plain_table(
    columns: Sequence[str], rows: Sequence[Sequence[str | float | int | None]]
) -> Markup:
    """Write a table with a name in the first column and figures in the others.

    Floats get two decimals, None becomes a dash.
    """
    return fragment(
        "table", columns=columns, rows=[[_cell(value) for value in row] for row in rows]
    )


def _cell(value: str | float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("segkit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(value),
    )
    environment.filters["figure"] = lambda value, digits=1: f"{value:.{digits}f}"
    return environment
