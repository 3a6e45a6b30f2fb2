"""Parse text, JSON and CSV files that may hold anything into checked values.

Every command reads its files through this module, `segkit.sources.json_stream` (COCO files of any
size) or a typed decoder of msgspec. Whatever a file holds, the caller gets values that the rest of
the program can compute with, compare, print and write, or an InputError that names file and place.
"""

import codecs
import csv
import io
import json
import math
import re
import stat
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from segkit import storage
from segkit.errors import InputError, short

if TYPE_CHECKING:
    import msgspec
    from pydantic import BaseModel

MAX_BYTES = 256 << 20
"""Bytes of a text, JSON or CSV file; a larger one is not what it is taken for."""
MAX_DEPTH = 100
"""Lists and objects inside each other. Parsers and writers recurse, each with its own limit."""
MAX_INT = 2**63 - 1
"""Integers beyond 64 bits fit in neither NumPy nor Parquet."""
_TOO_DEEP = f"is nested more than {MAX_DEPTH} lists and objects deep"
_TOO_LARGE = "holds an integer beyond 64 bits"
_MAX_DIGITS = 1000
"""Python converts no integer of some thousand digits."""
LINE_END = re.compile("\r\n|\n|\r")
"""Python's `splitlines` also ends lines at characters that a name may hold, such as U+2028."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "ZIP",
    b"BZh91AY&SY": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"(\xb5/\xfd": "zstd",
}
"""First bytes of a compressed file -> the program that compressed it."""
_Model = TypeVar("_Model", bound="BaseModel")
_Value = TypeVar("_Value")


def exists(path: str | Path) -> bool:
    """Whether a user's argument names a file that is there, whatever its type; never a folder."""
    path = Path(path) if isinstance(path, str) else path
    try:
        return path.is_file() if storage.is_remote(path) else not stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return False


def read_bytes(path: Path, *, hint: str = "check the path", max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a file; InputError if it is missing, not a file, unreadable or too large."""
    try:
        if not storage.is_remote(path):
            status = storage.require_regular(path).stat()
            if stat.S_ISREG(status.st_mode) and status.st_size > max_bytes:
                message = f"has {status.st_size} bytes, more than the limit of {max_bytes}"
                raise InputError(message, file=path, hint=hint)
        return storage.read_bytes(path)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        message = f"cannot be read ({storage.reason(error)})"
        raise InputError(message, file=path, hint=hint) from error


def read_text(path: Path, *, hint: str = "give a UTF-8 text file") -> str:
    """The text of a UTF-8 file, without a byte order mark; InputError as of `read_bytes`."""
    return decode_text(read_bytes(path, hint=hint), file=path, hint=hint)


def decode_text(data: bytes, *, file: object, hint: str | None = None) -> str:
    """The text of UTF-8 bytes, without a byte order mark.

    Raises:
        InputError: they are compressed, UTF-16, or something else; the first other byte is named.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        require_unpacked(data, file=file)
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            message = "is UTF-16 text, not UTF-8"
            raise InputError(message, file=file, hint="save it as UTF-8") from error
        line = data.count(b"\n", 0, error.start) + 1
        message = f"is not UTF-8 text ({error.reason} {data[error.start]:#04x})"
        raise InputError(message, file=file, record=f"line {line}", hint=hint) from error


def require_unpacked(data: bytes, *, file: object) -> None:
    """Raise InputError if the first bytes of a file are those of a compressed one."""
    if name := compression(data):
        raise InputError(
            f"is compressed by {name}", file=file, hint="unpack it and give the result"
        )


def compression(data: bytes) -> str | None:
    """The program that compressed a file, by the file's first bytes; None for another file."""
    return next((name for first, name in _COMPRESSIONS.items() if data.startswith(first)), None)


def read_lines(path: Path, *, hint: str = "give a UTF-8 text file") -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, stripped, each with its number from 1.

    Raises:
        InputError: as of `read_text`, and for a line with a NUL character.
    """
    lines = []
    for number, line in enumerate(LINE_END.split(read_text(path, hint=hint)), start=1):
        if "\0" in line:
            raise InputError("is not text", file=path, record=f"line {number}", hint=hint)
        if text := line.strip():
            lines.append((number, text))
    return lines


def read_csv(path: Path, columns: Iterable[str]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file, each with the number of its line; blank lines are left out.

    Args:
        path: the file; its first line names the columns.
        columns: names that must be among them; the others are not returned.

    Raises:
        InputError: as of `read_text`; the file is not CSV, or lacks a column or has it twice; a row
            lacks a value.
    """
    hint = "give a CSV file"
    text = read_text(path, hint=hint)
    table = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(table, [])]
        names = list(columns)
        for name in names:
            if header.count(name) != 1:
                problem = "lacks the column" if name not in header else "has two columns"
                message = f"{problem} {name}"
                hint = f"name the columns {', '.join(names)} in the first line"
                raise InputError(message, file=path, hint=hint)
        places = {name: header.index(name) for name in names}
        rows = []
        for row in table:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) <= max(places.values()):
                record = f"line {table.line_num}"
                hint = f"give each line {len(header)} values"
                raise InputError("lacks a value", file=path, record=record, hint=hint)
            rows.append((table.line_num, {name: row[place] for name, place in places.items()}))
    except csv.Error as error:
        record = f"line {table.line_num}"
        raise InputError(f"not CSV ({error})", file=path, record=record, hint=hint) from error
    return rows


def read_json(path: Path, *, hint: str = "write the file again") -> Any:
    """The value in a JSON file; InputError as of `read_bytes` and `parse_json`."""
    return parse_json(read_bytes(path), file=path, hint=hint)


def parse_json(
    data: bytes | str,
    *,
    file: object,
    record: object = None,
    hint: str | None = None,
    finite: bool = True,
) -> Any:
    """Parse JSON.

    The result has no integer beyond 64 bits, no number that is not finite, no text that is not
    Unicode, no key twice in an object, and at most MAX_DEPTH lists and objects inside each other.

    Args:
        data: the JSON text, as UTF-8 if it is bytes.
        file: the file that errors name.
        record: the record that errors name.
        hint: the hint of errors.
        finite: refuse NaN and infinity; otherwise, the caller has to.

    Raises:
        InputError: it is not JSON, or holds something else than the result may.
    """
    text = decode_text(data, file=file, hint=hint) if isinstance(data, bytes) else data
    # UTF-8 has no surrogates; only an escape can be one
    has_surrogates = not isinstance(data, bytes) or "\\u" in text
    value, message = _load(
        lambda: json.loads(text, object_pairs_hook=_object), "JSON", finite, has_surrogates
    )
    if message:
        raise InputError(message, file=file, record=record, hint=hint)
    return value


def parse_loosely(
    data: "bytes | msgspec.Raw | str", constant: Callable[[str], str | None] = str
) -> Any:
    """Parse JSON of which a part may be wrong, such as one annotation of a file.

    Numbers that are not finite, and integers of more than a thousand digits, become text, so that
    the result can be written as JSON.

    Args:
        data: the text.
        constant: what becomes of NaN, Infinity and -Infinity; `nothing` takes them for null, as
            which pandas writes missing values.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply.
    """
    return json.loads(
        data if isinstance(data, str) else bytes(data),
        parse_constant=constant,
        parse_float=_finite_or_text,
        parse_int=_int_or_text,
    )


def nothing(_: str) -> None:
    """None, for a text that stands for no value."""


def is_number(value: object) -> TypeGuard[float]:
    """Whether a JSON value is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_integer(value: object) -> TypeGuard[int]:
    """Whether a JSON value is an integer; true, false and 1.0 are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_id(value: object) -> TypeGuard[int | str]:
    """Whether a JSON value can identify a record: an integer or text."""
    return isinstance(value, str) or is_integer(value)


def without_fraction(value: _Value) -> _Value | int:
    """A JSON value, where a whole number is written as a float (`1.0`), as an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def parse_toml(text: str, *, file: object, hint: str | None = None) -> dict[str, Any]:
    """Parse TOML; the result and errors are those of `parse_json`, dates are datetimes."""
    table: dict[str, Any]
    table, message = _load(lambda: tomllib.loads(text), "TOML", finite=True)
    if message:
        raise InputError(message, file=file, hint=hint)
    return table


def checked(
    model: type[_Model],
    data: bytes,
    *,
    file: object,
    noun: str,
    hint: str | None = None,
    parsed: bool = False,
) -> _Model:
    """A JSON object as a pydantic model.

    Args:
        model: the model.
        data: the JSON text, UTF-8.
        file: the file that errors name.
        noun: what the file should hold, such as "the manifest of a run".
        hint: the hint of errors.
        parsed: whether `parse_json` has accepted the text already.

    Raises:
        InputError: as of `parse_json`; it does not fit (the message names the first key).
    """
    if not parsed:
        parse_json(data, file=file, hint=hint)
    from pydantic import ValidationError  # a tenth of a second, which most readers do not need

    try:
        # strict: text never passes as a number; only JSON input accepts an array for a tuple
        return model.model_validate_json(data.removeprefix(codecs.BOM_UTF8), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = short(".".join(str(part) for part in first["loc"]))
        message = f"not {noun} ({short(first['msg'])})"
        raise InputError(message, file=file, record=key or None, hint=hint) from error


def convert(
    value: object,
    kind: type[_Value],
    *,
    file: object,
    noun: str,
    record: object = None,
    hint: str | None = None,
) -> _Value:
    """A value as a type that msgspec knows: a dataclass, a Struct, a list of them.

    Arguments and errors are those of `checked`; `record` precedes the place in the value.
    """
    import msgspec

    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at ")
        places = [str(record)] if record is not None else []
        if name := place.strip("`").removeprefix("$").removeprefix("."):
            places.append(short(name))
        message = f"not {noun} ({short(message)})"
        raise InputError(message, file=file, record=": ".join(places) or None, hint=hint) from error


def _int_or_text(text: str) -> int | str:
    return int(text) if len(text) <= _MAX_DIGITS else text


def _finite_or_text(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


class _KeyTwiceError(ValueError):
    """An object has a key twice; a parser would keep one of the values."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise _KeyTwiceError(f"has the key {short(ascii(twice))} twice in an object")
    return value


def _load(
    loads: Callable[[], Any], language: str, finite: bool, has_surrogates: bool = True
) -> tuple[Any, str | None]:
    """What a parser returns, and what is wrong with the text or with the values.

    Args:
        loads: the parser.
        language: for the message.
        finite: refuse NaN and infinity.
        has_surrogates: whether text may hold some; if not, it is not searched.
    """
    try:
        value = loads()
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        return None, f"not {language} ({short(error)})"
    except (ValueError, RecursionError) as error:
        return None, _limit(error)
    return value, _problem(value, finite, has_surrogates)


def _limit(error: Exception) -> str:
    """The limit of a parser that its error is about."""
    if isinstance(error, RecursionError):
        return _TOO_DEEP
    if isinstance(error, _KeyTwiceError):
        return str(error)
    return _TOO_LARGE  # Python converts no more than some thousand digits


def _problem(value: Any, finite: bool, has_surrogates: bool) -> str | None:
    """What the values of a parsed file may not hold; None if they hold nothing of the kind."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for entry in level:
            kind = type(entry)  # parsers make no subclasses
            if kind is str:
                if has_surrogates and _SURROGATE.search(entry):
                    return f"holds text that is not Unicode: {short(ascii(entry))}"
            elif kind is int:
                if not -MAX_INT <= entry <= MAX_INT:
                    return _TOO_LARGE
            elif kind is dict:
                if has_surrogates:
                    below += entry
                below += entry.values()
            elif kind is list:
                below += entry
            elif kind is float and finite and not math.isfinite(entry):
                return "holds a number that is not finite"
        if not below:
            return None
        level = below
    return _TOO_DEEP
