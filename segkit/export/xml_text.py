"""Writes XML: class names and file names that it allows, and elements as indented text."""

from xml.etree.ElementTree import Element, indent, tostring

from segkit.errors import InputError
from segkit.shards.reader import ShardSet


def xml_class_names(data: ShardSet) -> dict[int, str]:
    """Return the distinct name of each class id.

    Raises:
        InputError: a name has a character that XML does not allow.
    """
    names = data.taxonomy.unique_names
    for name in names.values():
        check_xml_text(name, data)
    return names


def check_xml_text(text: str, data: ShardSet) -> None:
    """Raise InputError if a name in a set has a character that XML 1.0 does not allow."""
    bad = next((letter for letter in text if not _is_allowed(ord(letter))), None)
    if bad is not None:
        message = f"the name {text!r} has a character that XML does not allow"
        raise InputError(message, file=data.path, hint="rename it with `segkit relabel`")


def to_xml(element: Element, *, declaration: bool = False) -> bytes:
    """Return an element as indented UTF-8 text that ends with a line feed.

    Args:
        element: is indented in place.
        declaration: begin with the XML declaration, as a file by itself does.
    """
    indent(element)
    text: bytes = tostring(element, encoding="utf-8", xml_declaration=declaration)
    return text + b"\n"


def _is_allowed(code: int) -> bool:
    basic = 0x20 <= code < 0xD800 or 0xE000 <= code < 0xFFFE
    return basic or code > 0xFFFF or code in (0x9, 0xA, 0xD)
