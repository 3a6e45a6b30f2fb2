"""Reads class tables in the form of ADE20K's objectInfo150.csv: index, thing or stuff, names."""

import re
from pathlib import Path

from segkit import parse
from segkit.errors import InputError, short
from segkit.sample import Kind
from segkit.taxonomy import Category, Taxonomy

_INDEX = re.compile("[1-9][0-9]{0,8}")
_COLUMNS = ("Idx", "Stuff", "Name")


def read_class_info(path: Path) -> Taxonomy:
    """Read the classes of a CSV file.

    The file has the columns Idx (from 1), Stuff (0 or 1) and Name (`lawn;grass`); further columns
    are ignored. The first name is the display name, and all names are words for the text encoder.

    Raises:
        InputError: the file cannot be read, lacks a column, or has a malformed row.
    """
    rows = parse.read_csv(path, _COLUMNS)
    if not rows:
        raise InputError("lists no class", file=path, hint="write one class a line")
    categories = tuple(_category(row, path, line) for line, row in rows)
    try:
        return Taxonomy(path.stem, categories)
    except InputError as error:
        raise error.in_file(path) from error


def _category(row: dict[str, str], path: Path, line: int) -> Category:
    index, stuff, name = (row[column].strip() for column in _COLUMNS)
    words = tuple(word.strip() for word in name.split(";") if word.strip())
    if not _INDEX.fullmatch(index) or stuff not in ("0", "1") or not words:
        message = f"invalid class: {short(f'{index!r}, {stuff!r}, {name!r}')}"
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
