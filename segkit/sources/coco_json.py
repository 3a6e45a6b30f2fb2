"""COCO's JSON container: images, annotations and categories, each record kept as the text it was."""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from segkit.errors import InputError
from segkit.sample import Box, Kind
from segkit.sources.base import Record
from segkit.sources.images import PIXEL_LIMIT, Picture
from segkit.sources.ledger import Defect, Defective, Tally
from segkit.sources.vocabularies import NativeCategory

Id = int | str
_HEADER = ("info", "licenses", "categories")


class Image(msgspec.Struct, frozen=True):
    """The fields of an image record that conversion needs."""

    id: Id
    file_name: str
    width: int | None = None
    height: int | None = None


class _Category(msgspec.Struct, frozen=True):
    id: Id
    name: str
    isthing: int | bool | None = None


class _Classed(msgspec.Struct, frozen=True):
    category_id: Any = None


_CLASS = msgspec.json.Decoder(_Classed)


class _Owner(msgspec.Struct, frozen=True):
    image_id: Id
    id: Id | None = None


@dataclass(frozen=True)
class CocoFile:
    """A COCO JSON file whose records are still text."""

    path: Path
    images: tuple[bytes, ...]
    annotations: tuple[bytes, ...]
    categories: tuple[NativeCategory, ...]
    header: dict[str, Any]
    """`info`, `licenses`, and the category list as the file has it."""


def read_coco(path: Path) -> CocoFile:
    """Read a COCO JSON file.

    Raises:
        InputError: not there, not JSON (naming the place), or without lists of images, annotations and categories.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=path, mend="check the path") from error
    try:
        parts = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        lists = {key: _records(parts, key, path) for key in ("images", "annotations", "categories")}
        header: dict[str, Any] = {key: json.loads(bytes(parts[key])) for key in _HEADER if key in parts}
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"is no JSON object ({error})", file=path, mend="get the file again") from error
    return CocoFile(path, lists["images"], lists["annotations"], _categories(lists["categories"], path), header)


def _records(parts: dict[str, msgspec.Raw], key: str, path: Path) -> tuple[bytes, ...]:
    if key not in parts:
        raise InputError(f"has no list {key!r}", file=path, mend="give a file in COCO format")
    try:
        return tuple(bytes(raw) for raw in msgspec.json.decode(parts[key], type=list[msgspec.Raw]))
    except msgspec.ValidationError as error:
        raise InputError(f"{key!r} is no list", file=path, mend="give a file in COCO format") from error


def _categories(records: Iterable[bytes], path: Path) -> tuple[NativeCategory, ...]:
    found = []
    mend = "give it an integer id, a name and isthing 0 or 1"
    for number, raw in enumerate(records):
        try:
            category = msgspec.json.decode(raw, type=_Category)
            kinds: dict[Any, Kind | None] = {0: "stuff", 1: "thing", None: None}
            found.append(NativeCategory(int(category.id), category.name, kinds[category.isthing]))
        except (msgspec.ValidationError, ValueError, KeyError) as error:
            where = f"categories[{number}]"
            raise InputError(f"not a category ({error})", file=path, record=where, mend=mend) from error
    return tuple(found)


def identity(path: Path) -> dict[str, Any]:
    """What tells one state of an input file from another."""
    status = path.stat()
    return {"file": str(path.resolve()), "bytes": status.st_size, "modified": status.st_mtime_ns}


def records(
    file: CocoFile,
    tally: Tally,
    candidates: Callable[[str], tuple[str, ...]],
    classes: Callable[[bytes], Sequence[str]],
) -> Iterator[Record]:
    """Every image in the file's order; `data` is its raw record and its annotations, each with whether its id repeats.

    Args:
        file: the file.
        tally: takes images that are unreadable or listed twice, and annotations that belong to no image.
        candidates: file name -> where the image may lie.
        classes: raw annotation -> the class name of everything that it labels.
    """
    images: dict[str, tuple[bytes, Image]] = {}
    for number, raw in enumerate(file.images):
        try:
            image = read_image(raw, number, file.path)
            if str(image.id) in images:
                what, record = "another image has the same id", f"image {image.id}"
                raise Defective("duplicate-id", what, file=file.path, record=record, data=loose(raw))
            images[str(image.id)] = raw, image
        except Defective as defective:
            tally.images_in += 1
            tally.drop_image(defective.defect, ())
    groups = _group(file, images.keys(), tally, classes)
    for key, (raw, image) in images.items():
        yield Record(key, image.file_name, candidates(image.file_name), (raw, groups.pop(key, [])))


def _group(
    file: CocoFile, images: Collection[str], tally: Tally, classes: Callable[[bytes], Sequence[str]]
) -> dict[str, list[tuple[bytes, bool]]]:
    """Annotations by the text of their image's id, each with whether an earlier one has the same id."""
    groups: dict[str, list[tuple[bytes, bool]]] = {}
    seen: set[Id] = set()
    decoder = msgspec.json.Decoder(_Owner)
    for number, raw in enumerate(file.annotations):
        try:
            owner = decoder.decode(raw)
            if str(owner.image_id) not in images:
                raise LookupError(f"image {owner.image_id} is not in the file's list")
        except (msgspec.DecodeError, LookupError) as error:
            code = "unknown-image" if isinstance(error, LookupError) else "malformed-annotation"
            where = f"annotations[{number}]"
            tally.orphan(Defect(code, str(error), str(file.path), where, None, loose(raw)), classes(raw))
            continue
        groups.setdefault(str(owner.image_id), []).append((raw, owner.id in seen))
        if owner.id is not None:
            seen.add(owner.id)
    return groups


def read_image(raw: bytes, number: int, path: Path) -> Image:
    """An image record; Defective where it lacks an id or a file name."""
    try:
        return msgspec.json.decode(raw, type=Image)
    except msgspec.DecodeError as error:
        record = f"images[{number}]"
        raise Defective("malformed-image", str(error), file=path, record=record, data=loose(raw)) from error


def loose(raw: bytes) -> Any:
    """The values of a record whatever they are, for a quarantine line."""
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode("utf-8", "replace")


def size_of(image: Image, picture: Picture | None, path: Path) -> tuple[int, int]:
    """(width, height) of an image record, checked against the picture; from the picture where the record has none.

    Raises:
        Defective: `bad-size` or `size-mismatch`.
    """
    record = f"image {image.id}"
    width, height = image.width, image.height
    if picture is not None and (width is None or height is None):
        return picture.width, picture.height
    if width is None or height is None or min(width, height) < 1 or width * height > PIXEL_LIMIT:
        raise Defective("bad-size", f"a size of {width} x {height} pixels", file=path, record=record)
    if picture is not None and (picture.width, picture.height) != (width, height):
        what = f"the file has {picture.width} x {picture.height} pixels, the annotation file says {width} x {height}"
        if (picture.height, picture.width) == (width, height) and "exif-orientation" in picture.warnings:
            what += " (the EXIF tag turns the image: annotated as displayed, stored unturned)"
        raise Defective("size-mismatch", what, file=picture.path, record=record)
    return width, height


def beyond(box: Box, width: int, height: int) -> bool:
    """Whether a box reaches more than a hundredth of a pixel beyond the image."""
    x, y, w, h = box
    return x < -0.01 or y < -0.01 or x + w > width + 0.01 or y + h > height + 0.01


_DIGITS = re.compile(r"-?\d+")


def class_id(value: Any) -> int | None:
    """The integer that a category id is, given as a number or as digits; None where it is neither."""
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        return int(value)
    return value if isinstance(value, int) else None


def class_name(raw: bytes, labels: Mapping[int, str]) -> str:
    """Under which name the ledger counts a raw annotation."""
    try:
        value = _CLASS.decode(raw).category_id
    except msgspec.DecodeError:
        return "(unreadable)"
    number = class_id(value)
    return labels.get(number, f"category {number}") if number is not None else f"category {value}"
