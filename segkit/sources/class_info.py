"""Reads class tables in the form of ADE20K's objectInfo150.csv: index, thing or stuff, names."""

import csv
import io
from pathlib import Path

from segkit import storage
from segkit.errors import InputError
from segkit.sample import Kind
from segkit.taxonomy import Category, Taxonomy

_COLUMNS = ("Idx", "Stuff", "Name")


def read_class_info(path: Path) -> Taxonomy:
    """Read the classes of a CSV file.

    The file has the columns Idx (from 1), Stuff (0 or 1) and Name (`lawn;grass`); further columns
    are ignored. The first name is the display name, and all names are words for the text encoder.

    Raises:
        InputError: the file cannot be read, lacks a column, or has a malformed row.
    """
    try:
        text = storage.read_bytes(path).decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot be read ({error})", file=path, hint="give a CSV file") from error
    if not rows or any(column not in rows[0] for column in _COLUMNS):
        message = f"lacks one of the columns {', '.join(_COLUMNS)}"
        raise InputError(message, file=path, hint="name them in the first line")
    categories = tuple(_category(row, path, line) for line, row in enumerate(rows, start=2))
    return Taxonomy(path.stem, categories)


def _category(row: dict[str, str | None], path: Path, line: int) -> Category:
    index, stuff, name = ((row[column] or "").strip() for column in _COLUMNS)
    words = tuple(word.strip() for word in name.split(";") if word.strip())
    if not index.isdecimal() or int(index) == 0 or stuff not in ("0", "1") or not words:
        message = f"invalid class: {index!r}, {stuff!r}, {name!r}"
        hint = "give an index from 1, 0 or 1 for stuff, and a name"
        raise InputError(message, file=path, record=f"line {line}", hint=hint)
    kind: Kind = "stuff" if stuff == "1" else "thing"
    return Category(
        id=int(index),
        name=words[0],
        kind=kind,
        text=words if len(words) > 1 else (),
        source_name=name if name != words[0] else None,
    )
