"""Reads XML of strangers: no entities, no document types, bounded depth and memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from xml.etree.ElementTree import Element, ParseError

from segkit import parse, storage
from segkit.errors import InputError

MAX_ELEMENT_BYTES = 128 << 20
"""Of the text of one child of the root; more means a broken file."""
_MAX_DEPTH = 100
_HINT = "export it again from the labeling tool"
_ERRORS = (ParseError, ValueError, LookupError)
"""Of the parser: syntax, what defusedxml forbids, unknown encodings."""


def parse_xml(data: bytes) -> Element:
    """Parse a small XML file.

    Raises:
        ValueError: empty, compressed, not XML, or it has a document type; in words that complete a
            sentence.
    """
    from defusedxml.ElementTree import fromstring

    if not data.strip():
        raise ValueError("is empty")
    if name := parse.compression(data):
        raise ValueError(f"is compressed by {name}")
    try:
        root: Element = fromstring(data, forbid_dtd=True)
    except _ERRORS as error:
        raise ValueError(f"is not XML that can be read ({xml_reason(error)})") from None
    return root


def root_children(path: Path) -> Iterator[tuple[str, Element]]:
    """Yield the tag of the root and each of its children, one in memory at a time.

    Raises:
        InputError: the file cannot be read, is not XML, has a document type, or an element is too
            large or too deeply nested.
    """
    from defusedxml.ElementTree import iterparse

    try:
        with storage.require_regular(path).open("rb") as file:
            bounded = _BoundedFile(file, path)
            stack: list[Element] = []
            for event, element in iterparse(bounded, ("start", "end"), forbid_dtd=True):
                if event == "start":
                    stack.append(element)
                    if len(stack) > _MAX_DEPTH:
                        raise InputError("is nested too deeply", file=path, hint=_HINT)
                    continue
                stack.pop()
                if len(stack) == 1:
                    yield stack[0].tag, element
                    stack[0].clear()
                    bounded.count = 0
    except OSError as error:
        message = f"cannot be read ({storage.reason(error)})"
        raise InputError(message, file=path, hint="check the path and the file") from error
    except _ERRORS as error:
        message = f"is not XML that can be read ({xml_reason(error)})"
        raise InputError(message, file=path, hint=_HINT) from None


def child_text(element: Element, path: str) -> str | None:
    """Return the text of a descendant without blanks around it, or None if there is none."""
    text = element.findtext(path)
    return None if text is None else text.strip()


def element_data(element: Element, levels: int = 8) -> dict[str, Any]:
    """Return an element down to some level as JSON values, for a quarantine line."""
    data: dict[str, Any] = {"tag": element.tag, **element.attrib}
    for child in element:
        if len(child) and levels:
            data.setdefault(child.tag, []).append(element_data(child, levels - 1))
        else:
            data[child.tag] = child.text
    return data


def xml_reason(error: Exception) -> str:
    """Return the message of a parser's error in one line."""
    name = type(error).__name__
    if name in ("DTDForbidden", "EntitiesForbidden", "ExternalReferenceForbidden"):
        return "it has a document type, which may hide more than it shows"
    return str(error).partition("\n")[0] or name


class _BoundedFile:
    """A file of which only so many bytes may be read until `count` is set to 0 again."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path = file, path
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.count += len(data)
        if self.count > MAX_ELEMENT_BYTES:
            message = f"has an element of more than {MAX_ELEMENT_BYTES >> 20} MiB"
            raise InputError(message, file=self._path, hint=_HINT)
        return data
