"""Lists of labels as text, one class a line; blank lines and lines that start with `#` are passed
over.

Three forms, told apart by the whole file: `name` (indices count up from a first one), `index name`,
and `R G B name` for masks that are RGB pictures (indices count up as well). `7 eleven` is a name as
long as some line has no number.
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
    """Read a labels file; plain names and colored ones count up from `first_label` (0 if None).

    Raises:
        InputError: not readable, a color of two classes, or a first index beside indices of its
            own.
    """
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot be read ({error})", file=path, hint="give a UTF-8 text file"
        ) from error
    lines = [line for line in lines if line and not line.startswith("#")]
    colored = [match for line in lines if (match := _COLORED.fullmatch(line))]
    indexed = [match for line in lines if (match := _INDEXED.fullmatch(line))]
    if lines and len(colored) == len(lines):
        return _colored(colored, first_label or 0, path)
    if lines and len(indexed) == len(lines):
        if first_label is not None:
            raise InputError(
                "gives every class its own index", file=path, hint="leave --first-label out"
            )
        return LabelList(tuple(NativeCategory(int(match[1]), match[2]) for match in indexed), {})
    named = enumerate(lines, start=first_label or 0)
    return LabelList(tuple(NativeCategory(index, line) for index, line in named), {})


def _colored(matches: list[re.Match[str]], first: int, path: Path) -> LabelList:
    colors: dict[int, int] = {}
    for index, match in enumerate(matches, start=first):
        rgb = [int(match[place]) for place in (1, 2, 3)]
        color = rgb[0] + 256 * rgb[1] + 65536 * rgb[2]
        if max(rgb) > 255 or color in colors:
            what = "a colour of two classes" if max(rgb) < 256 else "a colour beyond 255"
            raise InputError(
                what, file=path, record=match[0], hint="give every class its own R G B, 0-255"
            )
        colors[color] = index
    return LabelList(
        tuple(NativeCategory(i, match[4]) for i, match in enumerate(matches, start=first)), colors
    )
