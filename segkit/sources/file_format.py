"""Tells which known format an annotation file has, so that errors can name the right command."""

import re
from dataclasses import dataclass
from pathlib import Path

from segkit import parse, storage
from segkit.errors import InputError, SegkitError

_HEAD = 1 << 16  # bytes
_XML_ROOT = re.compile(r"<([A-Za-z_][\w.:-]*)")
_XML_PROLOG = re.compile(r"\s*(?:<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^>\[]*(?:\[.*?\])?\s*>)", re.DOTALL)
_KEY = re.compile(r'"([A-Za-z_]\w*)"\s*:')
_YAML_NAMES = re.compile(r"^names\s*:", re.MULTILINE)


@dataclass(frozen=True)
class FileFormat:
    """A format of annotation files."""

    command: str
    """The subcommand of `segkit convert`."""
    noun: str
    """Words that complete "is"."""
    usage: str
    """The command line that converts it."""


FORMATS = {
    entry.command: entry
    for entry in (
        FileFormat(
            "coco",
            "a COCO file",
            "segkit convert coco --instances FILE --images FOLDER",
        ),
        FileFormat(
            "yolo",
            "the description of a YOLO data set",
            "segkit convert yolo --data FILE --split train",
        ),
        FileFormat(
            "voc-boxes",
            "an annotation file of Pascal VOC",
            "segkit convert voc-boxes --annotations FOLDER --images FOLDER",
        ),
        FileFormat(
            "cvat",
            "a dump of CVAT",
            "segkit convert cvat --annotations FILE --images FOLDER",
        ),
        FileFormat(
            "labelstudio",
            "an export of Label Studio",
            "segkit convert labelstudio --annotations FILE --images FOLDER",
        ),
        FileFormat(
            "labelme",
            "an annotation file of labelme",
            "segkit convert labelme --annotations FOLDER",
        ),
        FileFormat(
            "visual-genome",
            "objects.json of Visual Genome",
            "segkit convert visual-genome --annotations FILE --images FOLDER",
        ),
    )
}


def file_format(path: Path) -> FileFormat | None:
    """Return the format of a file by its first bytes; None if it is not known or cannot be read."""
    text = _head(path).decode("utf-8-sig", "replace").lstrip()
    command = None
    if text.startswith("<"):
        command = _xml_format(text)
    elif text.startswith(("[", "{")):
        command = _json_format(text)
    elif path.suffix.lower() in (".yaml", ".yml") and _YAML_NAMES.search(text):
        command = "yolo"
    return FORMATS.get(command or "")


def reject_archive(path: Path) -> None:
    """Raise InputError if a file is a ZIP archive or compressed."""
    head = _head(path)
    if parse.compression(head) == "ZIP":
        hint = "unpack it, then run `segkit convert auto FOLDER`"
        raise InputError("is a ZIP archive", file=path, hint=hint)
    parse.require_unpacked(head, file=path)


def reject_other_formats(path: Path, expected: str) -> None:
    """Raise InputError that names the right command if a file has another known format.

    A ZIP archive, as labeling tools export it, and a compressed file are refused as well.

    Args:
        path: the file; one that cannot be read is left to whoever reads it.
        expected: subcommand of the format that it should have.
    """
    reject_archive(path)
    actual = file_format(path)
    if actual is not None and actual.command != expected:
        message = f"is {actual.noun}"
        raise InputError(message, file=path, hint=f"convert it with `{actual.usage}`")


def _head(path: Path) -> bytes:
    """The first bytes of a file; none if it cannot be read."""
    try:
        if not storage.is_remote(path) and not path.is_file():
            return b""
        return storage.read_range(path, 0, _HEAD)
    except (OSError, SegkitError):
        return b""


def _xml_format(text: str) -> str | None:
    start = 0
    while match := _XML_PROLOG.match(text, start):
        start = match.end()
    root = _XML_ROOT.match(text[start:].lstrip())
    roots = {"annotation": "voc-boxes", "annotations": "cvat"}
    return roots.get(root[1]) if root else None


def _json_format(text: str) -> str | None:
    """The format of JSON by the keys at its beginning, which may hold only the first list."""
    keys = set(_KEY.findall(text))
    if text.startswith("["):
        if "objects" in keys and keys & {"synsets", "merged_object_ids"}:
            return "visual-genome"
        is_task = "data" in keys and keys & {"annotations", "completions", "predictions"}
        return "labelstudio" if is_task else None
    lists = keys & {"images", "annotations", "categories"}
    if len(lists) > 1 or (lists and keys & {"file_name", "image_id", "supercategory"}):
        return "coco"
    if not lists and keys & {"shapes", "imagePath", "imageData"}:
        return "labelme"
    return None
