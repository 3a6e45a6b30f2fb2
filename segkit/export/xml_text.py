"""Writes XML: class names and file names that it allows, and elements as indented text."""

from xml.etree.ElementTree import Element, indent, tostring

from segkit.errors import InputError
from segkit.sample import Sample
from segkit.shards.reader import ShardSet


def xml_class_names(data: ShardSet) -> dict[int, str]:
    """Return the distinct name of each class id.

    Raises:
        InputError: a name has a character that XML does not allow.
    """
    names = data.taxonomy.unique_names
    for class_id, name in names.items():
        hint = "rename the class with `segkit relabel`"
        _check_text(name, "class name", data, f"class {class_id}", hint)
    return names


def check_xml_file_name(sample: Sample, data: ShardSet) -> None:
    """Raise InputError if the file name of an image has a character that XML does not allow."""
    hint = "rename the file in the source of the set and convert it again"
    _check_text(sample.file_name, "file name", data, f"image {sample.id}", hint)


def _check_text(text: str, noun: str, data: ShardSet, record: str, hint: str) -> None:
    """Raise InputError if a text has a character that XML 1.0 does not allow."""
    if not all(_is_allowed(ord(letter)) for letter in text):
        message = f"the {noun} {text!r} has a character that XML does not allow"
        raise InputError(message, file=data.path, record=record, hint=hint)


def to_xml(element: Element, *, declaration: bool = False) -> bytes:
    """Return an element as indented UTF-8 text that ends with a line feed.

    Args:
        element: is indented in place.
        declaration: begin with the XML declaration, as a file by itself does.
    """
    indent(element)
    text: bytes = tostring(element, encoding="utf-8", xml_declaration=declaration)
    return text.replace(b"\r", b"&#13;") + b"\n"  # a parser would take it for a line feed


def _is_allowed(code: int) -> bool:
    basic = 0x20 <= code < 0xD800 or 0xE000 <= code < 0xFFFE
    return basic or code > 0xFFFF or code in (0x9, 0xA, 0xD)
