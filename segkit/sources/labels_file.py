"""Reads lists of labels from text files, one class a line.

A file has one of three forms on all of its lines: `name` (indices count up), `index name`, or
`R G B name` for masks that are RGB images (indices count up as well). A line such as `7 eleven` is
a plain name if any other line has no number. Blank lines and lines that start with `#` are skipped.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from segkit.errors import InputError
from segkit.sources.categories import NativeCategory

_INDEXED = re.compile(r"(\d+)[\s:,;]+(\S.*)")
_COLORED = re.compile(r"(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})[\s:,;]+(\S.*)")


@dataclass(frozen=True)
class LabelList:
    """The classes of a labels file."""

    categories: tuple[NativeCategory, ...]
    colors: dict[int, int]
    """R + 256 G + 65536 B -> index of the class; empty where classes have no colors."""


def read_labels(path: Path, first_label: int | None = None) -> LabelList:
    """Read a labels file.

    Args:
        path: the file, UTF-8.
        first_label: index of the first class where the lines have no index; 0 if None.

    Raises:
        InputError: the file cannot be read, two classes have one color, or `first_label` is given
            although the file has indices.
    """
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        hint = "give a UTF-8 text file"
        raise InputError(f"cannot be read ({error})", file=path, hint=hint) from error
    lines = [line for line in lines if line and not line.startswith("#")]
    colored = [match for line in lines if (match := _COLORED.fullmatch(line))]
    indexed = [match for line in lines if (match := _INDEXED.fullmatch(line))]
    if lines and len(colored) == len(lines):
        return _colored_labels(colored, first_label or 0, path)
    if lines and len(indexed) == len(lines):
        if first_label is not None:
            message = "gives every class its own index"
            raise InputError(message, file=path, hint="omit --first-label")
        return LabelList(tuple(NativeCategory(int(match[1]), match[2]) for match in indexed), {})
    numbered = enumerate(lines, start=first_label or 0)
    return LabelList(tuple(NativeCategory(index, line) for index, line in numbered), {})


def _colored_labels(matches: list[re.Match[str]], first_label: int, path: Path) -> LabelList:
    categories: list[NativeCategory] = []
    colors: dict[int, int] = {}
    for index, match in enumerate(matches, start=first_label):
        red, green, blue = (int(match[group]) for group in (1, 2, 3))
        color = red + 256 * green + 65536 * blue
        in_range = max(red, green, blue) <= 255
        if not in_range or color in colors:
            message = "the color of two classes" if in_range else "a color beyond 255"
            hint = "give every class its own R G B, 0-255"
            raise InputError(message, file=path, record=match[0], hint=hint)
        colors[color] = index
        categories.append(NativeCategory(index, match[4]))
    return LabelList(tuple(categories), colors)
