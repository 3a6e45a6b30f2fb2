"""JSON files of any size, read from front to back: the elements of long lists one at a time, each
with its text."""

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import msgspec

from segkit import storage
from segkit.errors import InputError

CHUNK = 4 << 20
"""Characters read at a time; the memory needed is a few times this, or a few times the largest
element."""
_LARGEST = 256 << 20  # characters of one element; more is a broken file
_BLANKS = re.compile(r"[ \t\n\r]*")
_NEAR_END = 16  # an error this close to the end of what was read may be no error once more is read
_TOKEN = re.compile(
    r"[\w+.\\-]*[ \t\n\r]*"
)  # what is left of a number, a word or an escape, or nothing
_VALUES, _TEXTS = msgspec.json.Decoder(list[Any]), msgspec.json.Decoder(list[msgspec.Raw])


def members(path: Path, lists: Collection[str]) -> Iterator[tuple[str, Any, bytes]]:
    """Walk through the object that a JSON file holds.

    Args:
        path: the file, UTF-8.
        lists: keys whose values are lists to be taken apart.

    Yields:
        (key, value, text as it stands in the file, UTF-8): once for each element of a list named in
        `lists`, preceded by (key, None, b"") for the list itself, and once for each other key.

    Raises:
        InputError: not readable, no JSON object or one that is cut short, a value of `lists` that
            is no list, or a key twice.
    """
    try:
        with path.open(encoding="utf-8") as file:
            yield from _Reader(file, path).object(lists)
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        message = f"cannot be read ({storage.reason(error)})"
        raise InputError(message, file=path, hint="check the path and the file") from error


class _Reader:
    def __init__(self, file: Any, path: Path) -> None:
        self._file, self._path = file, path
        self._text, self._place, self._before, self._ended = "", 0, 0, False
        self._single = 0
        """Characters of the file up to which elements are read one by one."""
        self._scan: Any = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # the C scanner

    def object(self, lists: Collection[str]) -> Iterator[tuple[str, Any, bytes]]:
        self._expect("{")
        seen: set[str] = set()
        separator = self._peek()
        if separator == "}":
            self._place += 1
        while separator != "}":
            key, _ = self._value()
            if not isinstance(key, str):
                raise self._broken("a key is no text")
            if key in seen:
                raise self._broken(f"key {key!r} is there twice")
            seen.add(key)
            self._expect(":")
            if key in lists:
                yield key, None, b""
                yield from ((key, value, text) for value, text in self._list(key))
            else:
                yield (key, *self._value())
            separator = self._separator("}")
        if self._peek():
            raise self._broken("something follows the object")

    def _list(self, key: str) -> Iterator[tuple[Any, bytes]]:
        self._expect("[", f"{key!r} is no list")
        separator = self._peek()
        if separator == "]":
            self._place += 1
        while separator != "]":
            yield from self._several()
            yield self._value()
            separator = self._separator("]")

    def _several(self) -> Iterator[tuple[Any, bytes]]:
        """The next elements, as far as they are objects that were read whole and another element
        follows: decoded at once, three times faster than one by one.

        The text up to some `},` being a list by itself, it is the list's beginning: JSON is read
        left to right.
        """
        if self._before + self._place < self._single:
            return
        self._single = self._before + len(
            self._text
        )  # should it not work, not tried again on the same text
        end = self._text.rfind("},", self._place) + 1
        if not end:
            return
        text = f"[{self._text[self._place : end]}]"
        try:
            pairs = zip(_VALUES.decode(text), _TEXTS.decode(text), strict=True)
        except msgspec.DecodeError:  # the brace is within an element, or this is no JSON
            return
        self._place = end + 1
        yield from ((value, bytes(raw)) for value, raw in pairs)

    def _value(self) -> tuple[Any, bytes]:
        self._peek()
        while True:
            try:
                value, end = self._scan(self._text, self._place)
            except StopIteration as stop:
                failed, place = "a value is wanting", int(stop.value)
            except json.JSONDecodeError as error:
                # the start of a string that does not end yet may lie far back
                failed, place = (
                    error.msg,
                    len(self._text) if error.msg.startswith("Untermin") else error.pos,
                )
            else:
                if (
                    self._ended
                    or not isinstance(value, int | float)
                    or end < len(self._text) - _NEAR_END
                ):
                    text, self._place = self._text[self._place : end], end
                    return value, text.encode()
                failed, place = "", end  # a number may go on
            if place < len(self._text) - _NEAR_END:
                raise self._broken(failed, place)
            place -= self._place  # what lies before it is forgotten
            if not self._read() and failed:
                raise self._stopped(failed, place)

    def _peek(self) -> str:
        """The next character that is not blank; "" at the end of the file."""
        if self._place < len(self._text) and self._text[self._place] not in " \t\n\r":
            return self._text[self._place]
        while True:
            match = _BLANKS.match(self._text, self._place)
            self._place = match.end() if match else self._place
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._read():
                return ""

    def _expect(self, character: str, message: str | None = None) -> None:
        found = self._peek()
        if found != character:
            raise (
                self._broken(message or f"{character!r} is wanting") if found else self._cut_short()
            )
        self._place += 1

    def _separator(self, closing: str) -> str:
        found = self._peek()
        if found not in (",", closing) or not found:
            raise self._stopped(f"',' or {closing!r} is wanting", self._place)
        self._place += 1
        return found

    def _read(self) -> bool:
        """Read on, and forget what was used; False at the end of the file."""
        rest = self._text[self._place :]
        if len(rest) > _LARGEST:
            raise self._broken(f"an element of more than {_LARGEST} characters")
        try:
            chunk = self._file.read(max(CHUNK, len(rest)))
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data":
                raise self._cut_short("within a character") from None
            raise
        self._before += self._place
        self._text, self._place, self._ended = rest + chunk, 0, not chunk
        return not self._ended

    def _stopped(self, message: str, place: int) -> InputError:
        """JSON does not go on at a place: because the file ends there, or else because of
        `message`."""
        if self._ended and _TOKEN.fullmatch(self._text, place):
            return self._cut_short()
        return self._broken(message, place)

    def _cut_short(self, where: str | None = None) -> InputError:
        where = where or f"after {self._before + len(self._text)} characters"
        return InputError(
            f"ends too early, {where}: its JSON is not complete",
            file=self._path,
            hint="get it again",
        )

    def _broken(self, message: str, place: int | None = None) -> InputError:
        where = self._before + (self._place if place is None else place)
        return InputError(
            f"is no JSON object ({message}, character {where})",
            file=self._path,
            hint="get it again",
        )
