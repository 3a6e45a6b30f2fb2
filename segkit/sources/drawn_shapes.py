"""Draws what people draw in labeling tools: boxes, polygons, ellipses and masks become segments.

A `Draw` receives the size of the image, because some formats give fractions of it.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from segkit.images.png import check_png
from segkit.masks import boxes, rle
from segkit.parse import is_integer
from segkit.sample import Box
from segkit.sources.ledger import AnnotationError

Point = tuple[float, float]
"""x, y in pixels."""
MAX_COORDINATE = 1e9
"""Pixels; a larger coordinate is a wrong number."""
MIN_NUMBERS = 6
"""Of a polygon: three points."""
_ELLIPSE_TOLERANCE = 0.02  # pixels between an ellipse and the polygon that stands for it
_MAX_ELLIPSE_POINTS = 4096
_CONTOUR_SLACK = 0.25  # pixels
_MAX_FILLED = 1 << 20  # pixels; OpenCV's own integers overflow far beyond
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Drawing:
    """A shape in an image."""

    box: Box
    mask: bytes | None = None
    """RLE counts over the image; None for a box."""
    polygons: str | None = None
    """The polygons, as JSON text of COCO's form."""
    warning: str | None = None
    """A key of `ledger.WARNINGS`."""


_Ring = TypeVar("_Ring", bound=Sequence[float])
Draw = Callable[[int, int], Drawing]
"""Width and height of the image in pixels -> the drawing; raises AnnotationError."""


def number(text: str | None) -> float:
    """Return a number that is written as text.

    Raises:
        AnnotationError: it is not a finite number (`malformed-annotation`).
    """
    if text is None or not _NUMBER.fullmatch(text.strip()) or math.isinf(value := float(text)):
        raise AnnotationError("malformed-annotation", f"{text!r} is not a number")
    return value


def stated_size(width: Any, height: Any) -> tuple[int, int] | None:
    """Width and height of an image from JSON values; None unless both are integers above 0."""
    is_size = is_integer(width) and is_integer(height) and min(width, height) > 0
    return (width, height) if is_size else None


def check_coordinates(numbers: Sequence[float]) -> None:
    """Raise AnnotationError (`malformed-annotation`) for NaN, and from `MAX_COORDINATE` on."""
    if not all(abs(number) < MAX_COORDINATE for number in numbers):  # NaN fails, too
        raise AnnotationError("malformed-annotation", "a coordinate is not finite or out of range")


def box(x: float, y: float, width: float, height: float) -> Draw:
    """An upright box in pixels.

    Raises:
        AnnotationError: a number is not finite (`malformed-annotation`), or the box has no extent
            (`degenerate-box`).
    """
    check_coordinates((x, y, width, height))
    if min(width, height) <= 0:
        raise AnnotationError("degenerate-box", f"a box of {width:g} x {height:g} pixels")
    return lambda image_width, image_height: Drawing((x, y, width, height))


def corner_box(x0: float, y0: float, x1: float, y1: float) -> Draw:
    """An upright box from two opposite corners, in any order; raises the errors of `box`."""
    check_coordinates((x0, y0, x1, y1))
    return box(min(x0, x1), min(y0, y1), abs(x1 - x0), abs(y1 - y0))


def rotated_box(corners: Sequence[Point]) -> Draw:
    """The upright box around a rotated one, whose corners are kept as a polygon.

    Raises:
        AnnotationError: as of `box`.
    """
    check_coordinates([number for corner in corners for number in corner])
    xs, ys = zip(*corners, strict=True)
    x, y, width, height = min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
    if min(width, height) <= 0:
        raise AnnotationError("degenerate-box", f"a box of {width:g} x {height:g} pixels")
    text = json.dumps([[number for corner in corners for number in corner]])
    drawing = Drawing((x, y, width, height), None, text, "rotated-box")
    return lambda image_width, image_height: drawing


def turned_box(
    center: Point, width: float, height: float, angle: float, *, radians: bool = False
) -> Draw:
    """A box that is rotated clockwise around its center; an upright one if the angle is 0.

    Raises:
        AnnotationError: as of `box`.
    """
    x, y = center
    upright = box(x - width / 2, y - height / 2, width, height)
    check_coordinates((angle,))
    if not angle:
        return upright
    half_x, half_y = width / 2, height / 2
    corners = [
        (x - half_x, y - half_y),
        (x + half_x, y - half_y),
        (x + half_x, y + half_y),
        (x - half_x, y + half_y),
    ]
    return rotated_box(rotate(corners, center, math.degrees(angle) if radians else angle))


def rotate(points: Sequence[Point], center: Point, degrees: float) -> list[Point]:
    """Rotate points around a center, clockwise on the screen, where y points down."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = center
    return [
        (x + (px - x) * cosine - (py - y) * sine, y + (px - x) * sine + (py - y) * cosine)
        for px, py in points
    ]


def polygons(rings: Sequence[Sequence[float]]) -> Draw:
    """The union of polygons [x1, y1, x2, y2, ...], as pycocotools rasterizes them."""
    return partial(_draw_polygons, [list(map(float, ring)) for ring in rings])


def contour(ring: Sequence[float]) -> Draw:
    """The pixels on and inside a polygon that runs through pixels, as OpenCV's contours do.

    Positions are rounded down from a quarter of a pixel before each whole one, so that both first
    corners and centers of pixels, with the errors of written fractions, mean that pixel.
    """
    check_coordinates(ring)
    if len(ring) < MIN_NUMBERS:
        raise AnnotationError("degenerate-polygon", f"a polygon of {len(ring)} numbers")
    shifted = [value + _CONTOUR_SLACK for value in ring]
    return lambda width, height: _draw_edges([shifted], width, height)


def ellipse(center: Point, radius_x: float, radius_y: float, degrees: float = 0.0) -> Draw:
    """A filled ellipse, rotated clockwise around its center.

    It is rasterized as a polygon that differs by less than a fiftieth of a pixel.

    Raises:
        AnnotationError: a number is not finite (`malformed-annotation`), or a radius is not
            positive (`empty-mask`).
    """
    check_coordinates((*center, radius_x, radius_y, degrees))
    if min(radius_x, radius_y) <= 0:
        raise AnnotationError("empty-mask", f"an ellipse with radii {radius_x:g} and {radius_y:g}")
    x, y = center
    sagitta = min(1.0, _ELLIPSE_TOLERANCE / max(radius_x, radius_y))
    count = math.ceil(math.pi / math.acos(1 - sagitta))
    angles = np.linspace(0, 2 * math.pi, min(max(count, 16), _MAX_ELLIPSE_POINTS), endpoint=False)
    around = [
        (x + radius_x * math.cos(angle), y + radius_y * math.sin(angle))
        for angle in angles.tolist()
    ]
    ring = [number for point in rotate(around, center, degrees) for number in point]
    return partial(_draw_polygons, [ring], keep=False)


def mask_crop(
    decode: Callable[[], NDArray[Any]], size: tuple[int, int], left: int, top: int
) -> Draw:
    """A mask whose first pixel is at (left, top); pixels beyond the image are cut off.

    Args:
        decode: returns the (H, W) mask; called only if the image is as large as the mask.
        size: width and height of the mask.
        left: first column.
        top: first row.
    """

    def draw(width: int, height: int) -> Drawing:
        if size[0] > width or size[1] > height:
            raise _size_mismatch(size, width, height)
        return _draw_crop(decode(), left, top, width, height)

    return draw


def full_mask(decode: Callable[[], NDArray[Any]], size: tuple[int, int]) -> Draw:
    """A mask of the width and height of the image, decoded only if it has the right size."""

    def draw(width: int, height: int) -> Drawing:
        if size != (width, height):
            raise _size_mismatch(size, width, height)
        return _with_mask(rle.encode(decode()), width, height)

    return draw


def png_bytes(text: str) -> tuple[bytes, tuple[int, int]]:
    """Return the bytes of a PNG in base64, and its width and height.

    Raises:
        AnnotationError: not base64, or not a whole PNG (`malformed-annotation`).
    """
    try:
        data = base64.b64decode(text, validate=True)
        return data, check_png(data).size
    except (binascii.Error, ValueError) as error:
        message = f"its mask is not a PNG in base64 ({error})"
        raise AnnotationError("malformed-annotation", message) from None


def png_mask(data: bytes) -> NDArray[np.bool_]:
    """Return the (H, W) mask of a PNG: its pixels that are not 0 (or transparent).

    Raises:
        AnnotationError: it cannot be decoded (`malformed-annotation`).
    """
    import cv2

    pixels: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise AnnotationError("malformed-annotation", "its mask is a PNG that cannot be decoded")
    if pixels.ndim == 3:
        pixels = pixels[..., 3] if pixels.shape[2] == 4 else pixels.max(axis=2)
    return np.asarray(pixels != 0)


def without_degenerate(rings: Sequence[_Ring]) -> Sequence[_Ring]:
    """Return the polygons of at least three points; all of them if none has as many."""
    return [ring for ring in rings if len(ring) >= MIN_NUMBERS] or rings


def polygon_mask(rings: Sequence[Sequence[float]], width: int, height: int) -> bytes:
    """The RLE counts of the union of polygons, as pycocotools rasterizes them.

    Raises:
        AnnotationError: fewer than three points (`degenerate-polygon`), or coordinates that are not
            pairs of numbers near the image (`malformed-annotation`).
    """
    try:
        return rle.from_polygons(rings, height, width)
    except ValueError as error:
        has_few = not rings or any(len(ring) < MIN_NUMBERS for ring in rings)
        code = "degenerate-polygon" if has_few else "malformed-annotation"
        raise AnnotationError(code, str(error)) from None


def union(parts: Sequence[Draw]) -> Draw:
    """One object of several parts: the union of masks, or the box around all boxes.

    Polygons of fewer than three points are left out beside other parts, with a warning.
    """
    return parts[0] if len(parts) == 1 else partial(_draw_union, parts)


def _rectangle(box: Box) -> list[float]:
    """The polygon of a box."""
    x0, y0, x1, y1 = boxes.corners(box)
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def _size_mismatch(size: tuple[int, int], width: int, height: int) -> AnnotationError:
    message = f"the mask is {size[0]} x {size[1]}, its image {width} x {height}"
    return AnnotationError("mask-size-mismatch", message)


def _draw_polygons(
    rings: list[list[float]], width: int, height: int, *, keep: bool = True
) -> Drawing:
    mask = polygon_mask(rings, width, height)
    if not rle.area(mask, height, width):
        return replace(_draw_edges(rings, width, height), warning="thin-polygon")
    return _with_mask(mask, width, height, json.dumps(rings) if keep else None)


def _draw_edges(rings: list[list[float]], width: int, height: int) -> Drawing:
    """The pixels that contain the edges of polygons."""
    import cv2

    if max(abs(value) for ring in rings for value in ring) > _MAX_FILLED:
        raise AnnotationError("malformed-annotation", "a polygon coordinate is out of range")
    canvas = np.zeros((height, width), np.uint8)
    points = [np.floor(ring).astype(np.int32).reshape(-1, 2) for ring in rings]
    cv2.fillPoly(canvas, points, 1)
    return _with_mask(rle.encode(canvas), width, height)


def _draw_crop(crop: NDArray[Any], left: int, top: int, width: int, height: int) -> Drawing:
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + crop.shape[0], height), min(left + crop.shape[1], width)
    if y0 >= y1 or x0 >= x1:
        raise AnnotationError("empty-mask", "the mask lies outside of the image")
    # a row of background above and below keeps the runs of columns apart
    inside = np.zeros((x1 - x0, y1 - y0 + 2), bool)
    inside[:, 1:-1] = crop[y0 - top : y1 - top, x0 - left : x1 - left].T
    flat = inside.reshape(-1)
    columns, rows = np.divmod(np.flatnonzero(flat[1:] != flat[:-1]) + 1, inside.shape[1])
    edges = (x0 + columns) * height + y0 + rows - 1
    joined = np.flatnonzero(edges[2::2] == edges[1:-1:2])  # runs over the whole height
    edges = np.delete(edges, np.concatenate((2 * joined + 1, 2 * joined + 2)))
    (region,) = rle.from_edges(np.zeros(len(edges), np.int64), edges, 1, height, width)
    if not region.area:
        raise AnnotationError("empty-mask", "the mask covers no pixel of the image")
    return Drawing(region.box, region.counts)


def _draw_union(parts: Sequence[Draw], width: int, height: int) -> Drawing:
    drawings, degenerate = [], list[AnnotationError]()
    for draw in parts:
        try:
            drawings.append(draw(width, height))
        except AnnotationError as error:
            if error.code != "degenerate-polygon":
                raise
            degenerate.append(error)
    if not drawings:
        raise degenerate[0]
    drawing = _union_of_drawings(drawings, width, height)
    return replace(drawing, warning="degenerate-part") if degenerate else drawing


def _union_of_drawings(drawings: Sequence[Drawing], width: int, height: int) -> Drawing:
    if all(drawing.mask is None for drawing in drawings):
        x0s, y0s, x1s, y1s = zip(*(boxes.corners(drawing.box) for drawing in drawings), strict=True)
        x0, y0 = min(x0s), min(y0s)
        return Drawing((x0, y0, max(x1s) - x0, max(y1s) - y0))
    # among masks, a box is a part as any other: the pixels inside it
    rings: list[list[float]] = []
    for drawing in drawings:
        if drawing.polygons is not None:
            rings += json.loads(drawing.polygons)
        elif drawing.mask is None:
            rings.append(_rectangle(drawing.box))
    shapeless = [drawing.mask for drawing in drawings if drawing.mask and not drawing.polygons]
    if not shapeless:
        return _draw_polygons(rings, width, height)
    masks = [*shapeless, *([polygon_mask(rings, width, height)] if rings else [])]
    return _with_mask(rle.union(masks, height, width), width, height)


def _with_mask(mask: bytes, width: int, height: int, text: str | None = None) -> Drawing:
    tight_box = rle.box(mask, height, width)
    if not tight_box[2]:
        raise AnnotationError("empty-mask", "the mask covers no pixel of the image")
    return Drawing(tight_box, mask, text)
