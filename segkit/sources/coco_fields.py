"""Reads the fields of COCO records, as loosely as real files write them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec

from segkit.images.png import MAX_PIXELS
from segkit.parse import is_integer, is_number, parse_loosely, without_fraction
from segkit.sample import Box, MaskSource
from segkit.shards.rules import is_score
from segkit.sources.image_files import Picture
from segkit.sources.ledger import AnnotationError, Defect, ImageError
from segkit.taxonomy import Category, Taxonomy

Id = int | str
_DIGITS = re.compile(r"-?\d{1,18}")
_INTEGERS = (
    *("id", "image_id", "category_id", "iscrowd", "ignore", "width", "height", "isthing"),
    *("neg_category_ids", "not_exhaustive_category_ids"),  # lists
)


class Image(msgspec.Struct, frozen=True):
    """The fields of an image record that conversion needs."""

    id: Id
    file_name: str = ""
    width: int | None = None
    height: int | None = None
    coco_url: str | None = None
    """LVIS: URL of the COCO image; the last two parts of its path are the file name."""
    neg_category_ids: tuple[int, ...] | None = None
    """LVIS: classes that were annotated and do not occur in the image."""
    not_exhaustive_category_ids: tuple[int, ...] | None = None
    """LVIS: classes of which some instances are not labeled."""

    @property
    def name(self) -> str:
        """File name, from the record or from LVIS's URL."""
        name = self.file_name or "/".join((self.coco_url or "").split("/")[-2:])
        return name.replace("\\", "/")  # as Windows writes it


class _Classed(msgspec.Struct, frozen=True):
    category_id: Any = None


IMAGE = msgspec.json.Decoder(Image)
_CLASS = msgspec.json.Decoder(_Classed)


def read_image(raw: bytes, number: int, path: Path) -> Image:
    """Decode an image record; ImageError if it lacks an id or a file name."""
    record = f"images[{number}]"
    try:
        image = IMAGE.decode(raw)
        message = "" if image.name else "the record has no file_name"
    except msgspec.DecodeError as error:
        message = decode_message(error, raw)
    if message:
        data = parse_loosely(raw)
        raise ImageError("malformed-image", message, file=path, record=record, data=data)
    return image


class _Constant(str):
    """NaN, Infinity or -Infinity, which JSON does not have."""


def decode_message(error: msgspec.DecodeError, raw: bytes | msgspec.Raw) -> str:
    """Why a record cannot be decoded; names a NaN or Infinity and its key."""
    value = parse_loosely(raw, _Constant)
    for key, part in value.items() if isinstance(value, dict) else ():
        if constant := _first_constant(part):
            return f"{key}: {constant} is not JSON"
    return str(error)


def _first_constant(value: Any) -> str | None:
    if isinstance(value, _Constant):
        return value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, map(_first_constant, parts)), None)


def with_integers(value: Any, raw: bytes) -> bytes:
    """Return a raw record; where whole numbers are floats (`"image_id": 1.0`), as integers.

    `value` is the decoded record, which is changed likewise.
    """
    if not isinstance(value, dict):
        return raw
    infos = value.get("segments_info")
    parts = [value, *(infos if isinstance(infos, list) else ())]
    changed = [part for part in parts if isinstance(part, dict) and _make_integers(part)]
    return json.dumps(value).encode() if changed else raw


def _make_integers(value: dict[str, Any]) -> bool:
    """Replace whole floats under keys of integers; return whether there was one."""
    before = {key: value[key] for key in _INTEGERS if isinstance(value.get(key), float | list)}
    after = {
        key: [*map(without_fraction, entry)] if isinstance(entry, list) else without_fraction(entry)
        for key, entry in before.items()
    }
    value.update(after)
    return json.dumps(after) != json.dumps(before) if before else False


def annotation_defect(
    error: AnnotationError,
    raw: bytes | msgspec.Raw,
    file: Path,
    noun: str,
    image_id: Id,
    class_name: str,
) -> Defect:
    """Build the defect of a raw annotation that is dropped.

    Args:
        error: why it is dropped.
        raw: the annotation.
        file: the file that lists it.
        noun: "annotation" or "segment".
        image_id: id of its image.
        class_name: name of its class.
    """
    data = parse_loosely(raw)
    annotation_id = data.get("id") if isinstance(data, dict) else None
    record = f"{noun} {annotation_id} of image {image_id}"
    return Defect(error.code, str(error), str(file), record, class_name, data)


def image_size(image: Image, picture: Picture | None, path: Path) -> tuple[int, int]:
    """Return (width, height) of an image record, checked against the image file.

    Where the record has no size, the size is that of the image file.

    Raises:
        ImageError: `bad-size` or `size-mismatch`.
    """
    record = f"image {image.id}"
    width, height = image.width, image.height
    if picture is not None and (not width or not height):
        return picture.width, picture.height
    if width is None or height is None or min(width, height) < 1 or width * height > MAX_PIXELS:
        message = f"invalid size of {width} x {height} pixels"
        raise ImageError("bad-size", message, file=path, record=record)
    if picture is not None and (picture.width, picture.height) != (width, height):
        message = (
            f"the file has {picture.width} x {picture.height} pixels, "
            f"the annotation file says {width} x {height}"
        )
        raise ImageError("size-mismatch", message, file=picture.path, record=record)
    return width, height


def beyond_image(box: Box, width: int, height: int) -> bool:
    """Whether a box reaches more than a hundredth of a pixel beyond the image."""
    x, y, w, h = box
    return x < -0.01 or y < -0.01 or x + w > width + 0.01 or y + h > height + 0.01


def score(value: Any) -> tuple[float | None, str | None]:
    """The `score` of a record, as segkit's exports have it, and a warning."""
    if value is None:
        return None, None
    is_valid = is_number(value) and is_score(value)
    return (float(value), None) if is_valid else (None, "score-out-of-range")


def mask_source(value: Any) -> MaskSource:
    """The `mask_from` of a record, as segkit's exports have it; human where it has none."""
    sources: tuple[MaskSource, ...] = get_args(MaskSource)
    return next((source for source in sources if source == value), "human")


def category(value: Any, taxonomy: Taxonomy) -> Category:
    """Return the class of a category id; AnnotationError if the taxonomy lacks it."""
    number = _class_id(value)
    entry = None if number is None else taxonomy.by_id.get(number)
    if entry is None:
        raise AnnotationError("unknown-category", f"category {value} is not in the file's list")
    return entry


def class_name(raw: bytes | msgspec.Raw, labels: Mapping[int, str]) -> str:
    """Return the name under which the ledger counts a raw annotation."""
    try:
        value = _CLASS.decode(raw).category_id
    except msgspec.DecodeError:
        return "(unreadable)"
    number = _class_id(value)
    return labels.get(number, f"category {number}") if number is not None else f"category {value}"


def class_id(raw: bytes | msgspec.Raw) -> int | None:
    """Return the category id of a raw annotation; None if it has none that is a number."""
    try:
        return _class_id(_CLASS.decode(raw).category_id)
    except msgspec.DecodeError:
        return None


def _class_id(value: Any) -> int | None:
    """Return a category id as an integer, from a number or digits; None for anything else."""
    if is_integer(value):
        return value
    return int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else None
