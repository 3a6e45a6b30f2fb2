"""Fields of COCO records, as loosely as files in the wild have them."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from segkit.images.png import MAX_PIXELS
from segkit.sample import Box
from segkit.sources.image_files import Picture
from segkit.sources.ledger import AnnotationError, Defect, ImageError
from segkit.taxonomy import Category, Taxonomy

Id = int | str
_DIGITS = re.compile(r"-?\d+")


class Image(msgspec.Struct, frozen=True):
    """The fields of an image record that conversion needs."""

    id: Id
    file_name: str = ""
    width: int | None = None
    height: int | None = None
    coco_url: str | None = None
    """Where LVIS says which image of COCO it means; the last two parts of its path are a file
    name."""
    neg_category_ids: tuple[int, ...] | None = None
    """LVIS: classes that were looked for and are not in the image."""
    not_exhaustive_category_ids: tuple[int, ...] | None = None
    """LVIS: classes of which not every instance is labeled."""

    @property
    def name(self) -> str:
        """File name, as the file says or as LVIS implies."""
        return self.file_name or "/".join((self.coco_url or "").split("/")[-2:])


class _Classed(msgspec.Struct, frozen=True):
    category_id: Any = None


IMAGE = msgspec.json.Decoder(Image)
_CLASS = msgspec.json.Decoder(_Classed)


def read_image(raw: bytes, number: int, path: Path) -> Image:
    """An image record; ImageError where it lacks an id or a file name."""
    record = f"images[{number}]"
    try:
        image = IMAGE.decode(raw)
    except msgspec.DecodeError as error:
        raise ImageError(
            "malformed-image", str(error), file=path, record=record, data=loose(raw)
        ) from error
    if not image.name:
        raise ImageError(
            "malformed-image", "it has no file_name", file=path, record=record, data=loose(raw)
        )
    return image


def loose(raw: bytes | msgspec.Raw) -> Any:
    """The values of a record whatever they are, for a quarantine line; numbers that JSON cannot
    write are text."""
    return json.loads(bytes(raw), parse_constant=str, parse_float=_finite)


def _finite(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def defect(
    refusal: AnnotationError, raw: bytes | msgspec.Raw, file: Path, what: str, image: Id, name: str
) -> Defect:
    """Why a raw record of an image is dropped: `what` it is (annotation, segment), and the `name`
    of its class."""
    data = loose(raw)
    own = data.get("id") if isinstance(data, dict) else None
    return Defect(
        refusal.code, str(refusal), str(file), f"{what} {own} of image {image}", name, data
    )


def size_of(image: Image, picture: Picture | None, path: Path) -> tuple[int, int]:
    """(width, height) of an image record, checked against the picture; from the picture where the
    record has none.

    Raises:
        ImageError: `bad-size` or `size-mismatch`.
    """
    record = f"image {image.id}"
    width, height = image.width, image.height
    if picture is not None and (width is None or height is None):
        return picture.width, picture.height
    if width is None or height is None or min(width, height) < 1 or width * height > MAX_PIXELS:
        raise ImageError(
            "bad-size", f"a size of {width} x {height} pixels", file=path, record=record
        )
    if picture is not None and (picture.width, picture.height) != (width, height):
        what = f"the file has {picture.width} x {picture.height} pixels, the annotation file says {width} x {height}"
        if (picture.height, picture.width) == (
            width,
            height,
        ) and "exif-orientation" in picture.warnings:
            what += " (the EXIF tag turns the image: annotated as displayed, stored unturned)"
        raise ImageError("size-mismatch", what, file=picture.path, record=record)
    return width, height


def beyond(box: Box, width: int, height: int) -> bool:
    """Whether a box reaches more than a hundredth of a pixel beyond the image."""
    x, y, w, h = box
    return x < -0.01 or y < -0.01 or x + w > width + 0.01 or y + h > height + 0.01


def _class_id(value: Any) -> int | None:
    """The integer that a category id is, given as a number or as digits; None where it is
    neither."""
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else None


def category(value: Any, taxonomy: Taxonomy) -> Category:
    """The class that a category id means; AnnotationError where it is none of the file's."""
    number = _class_id(value)
    found = None if number is None else taxonomy.by_id.get(number)
    if found is None:
        raise AnnotationError("unknown-category", f"category {value} is not in the file's list")
    return found


def class_name(raw: bytes | msgspec.Raw, labels: Mapping[int, str]) -> str:
    """Under which name the ledger counts a raw annotation."""
    try:
        value = _CLASS.decode(raw).category_id
    except msgspec.DecodeError:
        return "(unreadable)"
    number = _class_id(value)
    return labels.get(number, f"category {number}") if number is not None else f"category {value}"
