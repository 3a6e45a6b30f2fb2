"""The page: sections of HTML under one heading, with the style inside."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from segkit.report.style import CSS


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    body: str
    """HTML."""
    lead: str = ""
    """A sentence in plain text on how to read it."""


@dataclass(frozen=True)
class Page:
    """All that a report shows."""

    title: str
    lead: str
    cards: Sequence[tuple[str, str]] = ()
    """Name and figure; the first is the headline."""
    sections: Sequence[Section] = ()
    notes: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = field(default_factory=tuple)


def html(page: Page) -> str:
    """One HTML file with everything in it: it asks for nothing from elsewhere."""
    cards = "".join(
        f'<div class="card{" first" if number == 0 else ""}"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for number, (name, value) in enumerate(page.cards)
    )
    body = "".join(_section(section) for section in page.sections)
    notes = "".join(f"<li>{escape(note)}</li>" for note in page.notes)
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in page.facts
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
{f'<ul class="notes">{notes}</ul>' if notes else ""}
{body}
<h2>How it was measured</h2>
<dl class="facts">{facts}</dl>
</body>
</html>
"""


def _section(section: Section) -> str:
    lead = f"<p>{escape(section.lead)}</p>" if section.lead else ""
    return f"<section><h2>{escape(section.title)}</h2>{lead}{section.body}</section>"


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str | float | int | None]]) -> str:
    """A table with a name in the first column and figures in the others; floats with two decimals,
    None as a dash."""
    head = "".join(
        f'<th class="{"figure" if i else ""}">{escape(name)}</th>' for i, name in enumerate(columns)
    )
    lines = []
    for name, *values in rows:
        cells = "".join(f'<td class="figure">{escape(_cell(value))}</td>' for value in values)
        lines.append(f'<tr><th scope="row">{escape(str(name))}</th>{cells}</tr>')
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="scroll"><table class="plain">{body}</table></div>'


def _cell(value: str | float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
