"""COCO's JSON container: images, annotations and categories, each record kept as the text it was."""

import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from segkit.errors import InputError
from segkit.sample import Box, Kind
from segkit.sources import jsonstream
from segkit.sources.base import Record
from segkit.sources.images import PIXEL_LIMIT, Picture
from segkit.sources.ledger import Defect, Defective, Tally
from segkit.sources.spool import Spool
from segkit.sources.vocabularies import NativeCategory

Id = int | str
_LISTS = ("images", "annotations", "categories")
_HEADER = ("info", "licenses")
_INT64 = 2**63


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


class _Owned(msgspec.Struct, frozen=True):
    id: Id | None = None


_IMAGE = msgspec.json.Decoder(Image)
_CLASS = msgspec.json.Decoder(_Classed)
_OWNED = msgspec.json.Decoder(_Owned)


@dataclass(frozen=True)
class CocoFile:
    """A COCO JSON file: what it says beside its images and annotations, which are streamed."""

    path: Path
    categories: tuple[NativeCategory, ...]
    header: dict[str, Any]
    """`info`, `licenses`, and the category list as the file has it."""
    images: int
    """Number of image records."""


def read_coco(path: Path) -> CocoFile:
    """Read a COCO JSON file but for its images and annotations.

    Raises:
        InputError: not there, not JSON (naming the place), or without lists of images, annotations and categories.
    """
    header: dict[str, Any] = {}
    categories: list[str] = []
    found: Counter[str] = Counter()
    for key, value, text in jsonstream.members(path, _LISTS):
        found[key] += bool(text)
        if key == "categories" and text:
            categories.append(text)
            header.setdefault(key, []).append(value)
        elif key in _HEADER and text:
            header[key] = value
    for key in _LISTS:
        if key not in found:
            raise InputError(f"has no list {key!r}", file=path, mend="give a file in COCO format")
    return CocoFile(path, _categories(categories, path), header, found["images"])


def _categories(records: Iterable[str], path: Path) -> tuple[NativeCategory, ...]:
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

    The file may be larger than the memory: annotations are sorted to their images through temporary files.

    Args:
        file: the file.
        tally: takes images that are unreadable or listed twice, and annotations that belong to no image.
        candidates: file name -> where the image may lie.
        classes: raw annotation -> the class name of everything that it labels.
    """
    with Spool(file.images) as spool:
        places = _spool_images(file, spool, tally)
        repeated = _spool_annotations(file, spool, places, tally, classes)
        del places
        seen: set[str] = set()
        for raw, annotations in spool:
            image = _IMAGE.decode(raw)
            flagged = [(annotation, _repeats(annotation, repeated, seen)) for annotation in annotations]
            yield Record(str(image.id), image.file_name, candidates(image.file_name), (raw, flagged))


def _spool_images(file: CocoFile, spool: Spool, tally: Tally) -> dict[str, int]:
    """Set the raw records of usable images aside; the place of each by the text of its id."""
    places: dict[str, int] = {}
    number = -1
    for key, _, text in jsonstream.members(file.path, _LISTS):
        if key != "images" or not text:
            continue
        number += 1
        try:
            image = read_image(text.encode(), number, file.path)
            if str(image.id) in places:
                what, record = "another image has the same id", f"image {image.id}"
                raise Defective("duplicate-id", what, file=file.path, record=record, data=loose(text))
        except Defective as defective:
            tally.images_in += 1
            tally.drop_image(defective.defect, ())
            continue
        places[str(image.id)] = len(places)
        spool.add_image(text.encode())
    return places


def _spool_annotations(
    file: CocoFile, spool: Spool, places: dict[str, int], tally: Tally, classes: Callable[[bytes], Sequence[str]]
) -> frozenset[str]:
    """Set the raw annotations aside, sorted to their images; texts of the ids that more than one of them has."""
    numbers, texts = array("q"), Counter[str]()
    position = -1
    for key, value, text in jsonstream.members(file.path, _LISTS):
        if key != "annotations" or not text:
            continue
        position += 1
        raw = text.encode()
        owner = value.get("image_id") if isinstance(value, dict) else None
        place = places.get(str(owner))
        if place is None or isinstance(owner, bool | float) or owner is None:
            where = f"annotations[{position}]"
            code = "malformed-annotation" if not isinstance(owner, int | str) else "unknown-image"
            what = f"image {owner} is not in the file's list" if code == "unknown-image" else "no image_id"
            tally.orphan(Defect(code, what, str(file.path), where, None, loose(text)), classes(raw))
            continue
        spool.add_annotation(place, raw)
        own = value.get("id")
        if isinstance(own, int) and abs(own) < _INT64:
            numbers.append(own)
        elif own is not None:
            texts[str(own)] += 1
    return _repeated(numbers) | {text for text, count in texts.items() if count > 1}


def _repeated(numbers: "array[int]") -> frozenset[str]:
    """Texts of the numbers that occur more than once; 8 bytes a number, since there may be many millions."""
    ordered = np.sort(np.frombuffer(numbers, np.int64)) if numbers else np.zeros(0, np.int64)
    return frozenset(map(str, np.unique(ordered[1:][ordered[1:] == ordered[:-1]]).tolist()))


def _repeats(annotation: bytes, repeated: frozenset[str], seen: set[str]) -> bool:
    """Whether an earlier annotation has the same id; `seen` holds only ids that do occur again."""
    if not repeated:
        return False
    try:
        own = str(_OWNED.decode(annotation).id)
    except msgspec.DecodeError:
        return False
    if own not in repeated:
        return False
    if own in seen:
        return True
    seen.add(own)
    return False


def read_image(raw: bytes, number: int, path: Path) -> Image:
    """An image record; Defective where it lacks an id or a file name."""
    try:
        return _IMAGE.decode(raw)
    except msgspec.DecodeError as error:
        record = f"images[{number}]"
        raise Defective("malformed-image", str(error), file=path, record=record, data=loose(raw)) from error


def loose(raw: bytes | str | msgspec.Raw) -> Any:
    """The values of a record whatever they are, for a quarantine line."""
    return json.loads(raw if isinstance(raw, str) else bytes(raw))


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
