"""Reads and writes lists of labels in text files, one class a line.

All lines of a file have one form: `name` (indices count up), `index name`, `R G B name` for masks
that show colors (indices count up), or `name:R,G,B::` as in CVAT's labelmap.txt. A file of mixed
forms is refused. A name in double quotes is a JSON string, which can hold any characters. Blank
lines and lines that start with `#` are skipped.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from segkit import parse
from segkit.errors import InputError
from segkit.sources.categories import NativeCategory
from segkit.sources.file_format import file_format

_INDEXED = re.compile(r"(\d{1,9})[\s:,;]+(\S.*)")
_COLORED = re.compile(r"(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})[\s:,;]+(\S.*)")
_CVAT = re.compile(r"(\S.*?)\s*:\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*(?::[^:\"]*){0,2}")
_NUMBER = re.compile(r"\d+")
_NO_INDEX = re.compile(r"[-+\u2212\u2013]?\d*[.,]?\d+(?:[.,]\d*)?(?:[eE][-+]?\d+)?[\s:,;.)\]]+\S.*")
"""A number that is not an index, before a name: negative, a fraction, too long, or `1)`."""
_TRAILING_NUMBER = re.compile(r".*[,;\t:]\s*[-+]?\d+(?:\.\d*)?")
"""A further column after the name."""
_NOT_TEXT = ("cvat", "voc-boxes", "yolo", "labelstudio", "labelme")
_QUOTE_HINT = 'put a name that holds numbers in double quotes, such as "7 eleven"'


class _Form(Enum):
    """How a line gives its class, in words that complete "is"."""

    NAME = "a name without an index"
    NUMBER = "a number without a name"
    INDEXED = "an index and a name"
    COLORED = "three numbers and a name"
    CVAT = "a line of CVAT's labelmap.txt"


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    """From 1, as editors count."""
    form: _Form
    name: str
    values: tuple[int, ...] = ()
    """The index, or R, G and B."""


@dataclass(frozen=True)
class LabelList:
    """The classes of a labels file."""

    categories: tuple[NativeCategory, ...]
    colors: dict[int, int]
    """R + 256 G + 65536 B -> index of the class; empty where classes have no colors."""
    has_indices: bool = False
    """Whether each line gives its index."""


def read_labels(path: Path, first_label: int | None = None) -> LabelList:
    """Read a labels file.

    Args:
        path: the file, UTF-8.
        first_label: index of the first class where the lines have no index; 0 if None.

    Raises:
        InputError: the file cannot be read, its lines have different forms (the message names the
            first that differs from most), two classes have one color, or `first_label` is given
            although the file has indices.
    """
    text = _read_text(path)
    lines = [
        _parse(line.strip(), number, path)
        for number, line in enumerate(parse.LINE_END.split(text), start=1)
        if line.strip() and not line.strip().startswith("#")
    ]
    form = _common_form(lines, path)
    if form in (_Form.COLORED, _Form.CVAT):
        return _colored_labels(lines, first_label or 0, path)
    if form is _Form.INDEXED:
        if first_label is not None:
            message = "gives every class its own index"
            raise InputError(message, file=path, hint="omit --first-label")
        natives = tuple(NativeCategory(line.values[0], line.name) for line in lines)
        return LabelList(natives, {}, has_indices=True)
    numbered = enumerate(lines, start=first_label or 0)
    return LabelList(tuple(NativeCategory(index, line.name) for index, line in numbered), {})


def label_line(index: int, name: str) -> str:
    """Return the line `index name`, with the name in quotes where it would not be read back."""
    line = f"{index} {name}"
    if name.isprintable() and name == name.strip():
        try:
            parsed = _parse(line, 1, Path())
        except InputError:
            pass
        else:
            if (parsed.form, parsed.values, parsed.name) == (_Form.INDEXED, (index,), name):
                return line
    return f"{index} {json.dumps(name, ensure_ascii=not name.isprintable())}"


def write_labels(path: Path, names: Mapping[int, str]) -> None:
    """Write a labels file: the index and the name of each class."""
    path.write_text("".join(f"{label_line(*entry)}\n" for entry in names.items()), "utf-8")


def _read_text(path: Path) -> str:
    if (actual := file_format(path)) is not None and actual.command in _NOT_TEXT:
        message = f"is {actual.noun}, not a list of labels"
        raise InputError(message, file=path, hint=f"convert it with `{actual.usage}`")
    text = parse.read_text(path)
    if text.lstrip().startswith(("{", "[")) and _is_json(text):
        raise InputError("is JSON, not a list of labels", file=path, hint="write one class a line")
    return text


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _parse(line: str, number: int, path: Path) -> _Line:
    """Parse a line; InputError if it begins with a number that is not an index."""

    def refuse(message: str, hint: str) -> InputError:
        return InputError(message, file=path, record=f"line {number}", hint=hint)

    form, name, values = _split(line)
    if name.startswith('"'):
        try:
            text = json.loads(name)
            name.encode("utf-8")
            text.encode("utf-8")
        except (ValueError, RecursionError):
            text = None
        if not isinstance(text, str):
            raise refuse(f"{name!r} is not a name in double quotes", "write it as in JSON")
        return _Line(number, form, text, values)
    if form is _Form.NAME and _NO_INDEX.fullmatch(line):
        message = f"{line!r} begins with a number that is not an index"
        hint = (
            f"give indices from 0, delete the line of a class that no mask shows, or {_QUOTE_HINT}"
        )
        raise refuse(message, hint)
    if form is not _Form.NUMBER and form is not _Form.CVAT and _TRAILING_NUMBER.fullmatch(name):
        message = f"{line!r} has a number after the name"
        hint = f"write `index name` or `R G B name`, or {_QUOTE_HINT}"
        raise refuse(message, hint)
    return _Line(number, form, name, values)


def _split(line: str) -> tuple[_Form, str, tuple[int, ...]]:
    """Return the form, the name, and the numbers of a line."""
    if match := _COLORED.fullmatch(line):
        return _Form.COLORED, match[4], (int(match[1]), int(match[2]), int(match[3]))
    if not line.startswith('"') and (match := _CVAT.fullmatch(line)):
        return _Form.CVAT, match[1], (int(match[2]), int(match[3]), int(match[4]))
    if match := _INDEXED.fullmatch(line):
        return _Form.INDEXED, match[2], (int(match[1]),)
    return _Form.NUMBER if _NUMBER.fullmatch(line) else _Form.NAME, line, ()


def _common_form(lines: Sequence[_Line], path: Path) -> _Form:
    """Return the form of all lines; InputError names the first that differs from most."""
    counts = Counter(line.form for line in lines)
    if len(counts) < 2:
        return next(iter(counts), _Form.NAME)
    common = max(counts, key=lambda form: (counts[form], form is not _Form.NAME))
    line = next(line for line in lines if line.form is not common)
    message = f"{line.name!r} is {line.form.value}, most lines are {common.value}"
    hint = "give all lines one form, delete a header"
    if line.values:
        hint = f"{hint}, or {_QUOTE_HINT}"
    raise InputError(message, file=path, record=f"line {line.number}", hint=hint)


def _colored_labels(lines: Sequence[_Line], first_label: int, path: Path) -> LabelList:
    categories: list[NativeCategory] = []
    colors: dict[int, int] = {}
    for index, line in enumerate(lines, start=first_label):
        red, green, blue = line.values
        color = red + 256 * green + 65536 * blue
        in_range = max(line.values) <= 255
        if not in_range or color in colors:
            message = "the color of two classes" if in_range else "a color beyond 255"
            hint = "give every class its own R G B, 0-255"
            record = f"line {line.number}: {red} {green} {blue} {line.name}"
            raise InputError(message, file=path, record=record, hint=hint)
        colors[color] = index
        categories.append(NativeCategory(index, line.name))
    return LabelList(tuple(categories), colors)
