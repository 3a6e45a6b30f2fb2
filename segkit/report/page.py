"""Assemble the report: sections of HTML under one heading, with the style sheet inside."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape as escape_markup

from segkit.report.style import CSS
from segkit.text.printable import printable


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    body: str
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


def escape(text: str) -> str:
    """Text as HTML: markup and control characters are escaped."""
    return escape_markup(printable(text))


def tag(name: str, content: str | None = None, /, **attributes: str | float) -> str:
    """Write an HTML or SVG element.

    Args:
        name: such as `td`.
        content: HTML inside the element; None closes it at once, as SVG shapes are.
        attributes: floats are written with one decimal. A trailing underscore is removed (`class_`)
            and other underscores become hyphens.
    """
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
    )
    return f"<{name}{pairs}/>" if content is None else f"<{name}{pairs}>{content}</{name}>"


def _attribute(value: str | float) -> str:
    return f"{value:.1f}" if isinstance(value, float) else escape(str(value))


def html(page: Page) -> str:
    """Write the page as one HTML file that loads nothing from elsewhere."""
    cards = "".join(
        tag(
            "div",
            tag("b", escape(value)) + tag("span", escape(name)),
            class_="card" if number else "card first",
        )
        for number, (name, value) in enumerate(page.cards)
    )
    sections = "".join(_section(section) for section in page.sections if section.body)
    notes = "".join(tag("li", escape(note)) for note in page.notes)
    facts = "".join(
        tag("dt", escape(name)) + tag("dd", escape(value)) for name, value in page.facts
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(page.title)}</title>
<style>{CSS}</style>
</head>
<body>
<h1>{escape(page.title)}</h1>
<p class="lead">{escape(page.lead)}</p>
<div class="cards">{cards}</div>
{tag("ul", notes, class_="notes") if notes else ""}
{sections}
<h2>Provenance</h2>
<dl class="facts">{facts}</dl>
</body>
</html>
"""


def _section(section: Section) -> str:
    lead = tag("p", escape(section.lead)) if section.lead else ""
    return tag("section", tag("h2", escape(section.title)) + lead + section.body)


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str | float | int | None]]) -> str:
    """Write a table with a name in the first column and figures in the others.

    Floats get two decimals, None becomes a dash.
    """
    head = "".join(
        tag("th", escape(name), class_="figure" if number else "")
        for number, name in enumerate(columns)
    )
    lines = []
    for name, *values in rows:
        cells = "".join(tag("td", escape(_cell(value)), class_="figure") for value in values)
        lines.append(tag("tr", tag("th", escape(str(name)), scope="row") + cells))
    body = tag("thead", tag("tr", head)) + tag("tbody", "".join(lines))
    return tag("div", tag("table", body, class_="plain"), class_="scroll")


def _cell(value: str | float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
