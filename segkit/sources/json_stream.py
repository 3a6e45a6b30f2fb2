"""Reads JSON files of any size from front to back, long lists one element at a time.

Each element comes with its text as it stands in the file, which shard sets keep. Parsers of events
(ijson) have no such text and no places of errors, replace half of a surrogate pair by `?`, give up
the whole file for an integer beyond 64 bits or a NaN, and take twice as long.
"""

import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from segkit import parse, storage
from segkit.errors import InputError

CHUNK = 4 << 20
"""Characters read at a time; memory is a few times this, or a few times the largest element."""
_MAX_ELEMENT = 256 << 20  # characters; a larger element means a broken file
_BLANKS = re.compile(r"[ \t\n\r]*")
_NEAR_END = 16
"""An error within this many characters of the end may vanish when more of the file is read."""
_TOKEN = re.compile(r"[\w+.\\-]*[ \t\n\r]*")
"""The rest of a number, a word or an escape, or nothing."""
_VALUES, _TEXTS = msgspec.json.Decoder(list[Any]), msgspec.json.Decoder(list[msgspec.Raw])
_HINT = "download it again"


def members(path: Path, lists: Collection[str]) -> Iterator[tuple[str, Any, bytes]]:
    """Walk through the object in a JSON file.

    Args:
        path: the file, UTF-8.
        lists: keys whose values are lists to iterate over.

    Yields:
        (key, value, text as it stands in the file, UTF-8): once for each element of a list named in
        `lists`, preceded by (key, None, b"") for the list itself, and once for each other key.

    Raises:
        InputError: the file cannot be read, is truncated or is not a JSON object, a value of
            `lists` is not a list, or a key occurs twice.
    """
    with _reader(path, "a JSON object") as reader:
        yield from reader.object(lists)


def elements(path: Path) -> Iterator[tuple[Any, bytes]]:
    """Walk through the list in a JSON file.

    Args:
        path: the file, UTF-8.

    Yields:
        (value, text as it stands in the file, UTF-8) of each element.

    Raises:
        InputError: the file cannot be read, is truncated or is not a JSON list.
    """
    with _reader(path, "a JSON list") as reader:
        yield from reader.elements()


@contextmanager
def _reader(path: Path, noun: str) -> Iterator["_Reader"]:
    """Open a file; `noun` is what it must hold."""
    try:
        with storage.require_regular(path).open(encoding="utf-8-sig") as file:
            yield _Reader(file, path, noun)
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        if isinstance(error, UnicodeDecodeError):
            parse.require_unpacked(storage.read_range(path, 0, 16), file=path)
        message = f"cannot be read ({storage.reason(error)})"
        raise InputError(message, file=path, hint="check the path and the file") from error


class _Reader:
    """A JSON parser over a window of the file that moves forward."""

    def __init__(self, file: Any, path: Path, noun: str) -> None:
        self._file, self._path, self._noun = file, path, noun
        self._text, self._position, self._ended = "", 0, False
        self._before = 0
        """Characters of the file before `_text`."""
        self._one_by_one_until = 0
        """Characters of the file up to which elements are read one by one."""
        self._scan: Any = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # C scanner

    def object(self, lists: Collection[str]) -> Iterator[tuple[str, Any, bytes]]:
        self._expect("{")
        keys: set[str] = set()
        separator = self._peek()
        if separator == "}":
            self._position += 1
        while separator != "}":
            key, _ = self._value()
            if not isinstance(key, str):
                raise self._invalid("a key is not text")
            if key in keys:
                raise self._invalid(f"key {key!r} occurs twice")
            keys.add(key)
            self._expect(":")
            if key in lists:
                yield key, None, b""
                yield from ((key, value, text) for value, text in self._list(key))
            else:
                yield (key, *self._value())
            separator = self._separator("}")
        if self._peek():
            raise self._invalid("text after the object")

    def elements(self) -> Iterator[tuple[Any, bytes]]:
        yield from self._list("the file")
        if self._peek():
            raise self._invalid("text after the list")

    def _list(self, key: str) -> Iterator[tuple[Any, bytes]]:
        self._expect("[", f"{key!r} is not a list")
        separator = self._peek()
        if separator == "]":
            self._position += 1
        while separator != "]":
            yield from self._complete_elements()
            yield self._value()
            separator = self._separator("]")

    def _complete_elements(self) -> Iterator[tuple[Any, bytes]]:
        """Yield the next elements that are objects, complete, and followed by another element.

        They are decoded at once, three times faster than one by one. If the text up to some `},`
        is a list by itself, it is the beginning of the list, because JSON is read left to right.
        """
        if self._before + self._position < self._one_by_one_until:
            return
        # if decoding fails, the same text is not tried again
        self._one_by_one_until = self._before + len(self._text)
        end = self._text.rfind("},", self._position) + 1
        if not end:
            return
        text = f"[{self._text[self._position : end]}]"
        try:
            pairs = zip(_VALUES.decode(text), _TEXTS.decode(text), strict=True)
        except msgspec.DecodeError:  # the brace is inside an element, or the text is not JSON
            return
        self._position = end + 1
        yield from ((value, bytes(raw)) for value, raw in pairs)

    def _value(self) -> tuple[Any, bytes]:
        """Read one value, and more of the file as long as the value may be incomplete."""
        self._peek()
        while True:
            try:
                value, end = self._scan(self._text, self._position)
            except StopIteration as stop:
                message, position = "a value is missing", int(stop.value)
            except json.JSONDecodeError as error:
                message, position = error.msg, error.pos
                if message.startswith("Untermin"):  # the string may have begun long before
                    position = len(self._text)
            except ValueError as error:  # an integer of more digits than Python converts
                raise self._invalid(str(error).partition(";")[0]) from None
            else:
                may_continue = isinstance(value, int | float)
                if self._ended or not may_continue or end < len(self._text) - _NEAR_END:
                    text, self._position = self._text[self._position : end], end
                    return value, text.encode()
                message, position = "", end
            if position < len(self._text) - _NEAR_END:
                raise self._invalid(message, position)
            position -= self._position  # reading more discards the text before it
            if not self._read_more() and message:
                raise self._truncated_or_invalid(message, position)

    def _peek(self) -> str:
        """The next character that is not blank; "" at the end of the file."""
        if self._position < len(self._text) and self._text[self._position] not in " \t\n\r":
            return self._text[self._position]
        while True:
            match = _BLANKS.match(self._text, self._position)
            self._position = match.end() if match else self._position
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._read_more():
                return ""

    def _expect(self, character: str, message: str | None = None) -> None:
        next_character = self._peek()
        if not next_character:
            raise self._truncated()
        if next_character != character:
            raise self._invalid(message or f"{character!r} is missing")
        self._position += 1

    def _separator(self, closing: str) -> str:
        character = self._peek()
        if character not in (",", closing) or not character:
            message = f"',' or {closing!r} is missing"
            raise self._truncated_or_invalid(message, self._position)
        self._position += 1
        return character

    def _read_more(self) -> bool:
        """Extend the window and discard what was read; False at the end of the file."""
        rest = self._text[self._position :]
        if len(rest) > _MAX_ELEMENT:
            raise self._invalid(f"an element of more than {_MAX_ELEMENT} characters")
        try:
            chunk = self._file.read(max(CHUNK, len(rest)))
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data":
                raise self._truncated("within a character") from None
            raise
        self._before += self._position
        self._text, self._position, self._ended = rest + chunk, 0, not chunk
        return not self._ended

    def _truncated_or_invalid(self, message: str, position: int) -> InputError:
        """The error where JSON stops: the file ends there, or else it is invalid."""
        if self._ended and _TOKEN.fullmatch(self._text, position):
            return self._truncated()
        return self._invalid(message, position)

    def _truncated(self, place: str | None = None) -> InputError:
        place = place or f"after {self._before + len(self._text)} characters"
        message = f"ends too early, {place}: its JSON is incomplete"
        return InputError(message, file=self._path, hint=_HINT)

    def _invalid(self, message: str, position: int | None = None) -> InputError:
        position = self._before + (self._position if position is None else position)
        message = f"is not {self._noun} ({message}, character {position})"
        return InputError(message, file=self._path, hint=_HINT)
