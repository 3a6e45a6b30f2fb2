"""Paint segments over an image: a color for each class, contours, frames and class names."""

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segkit.atomic import new_file
from segkit.images.label_placement import LabelPlacement
from segkit.images.palette import Color, class_color
from segkit.masks import rle
from segkit.sample import Segment
from segkit.taxonomy import Taxonomy

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""
Mask = NDArray[np.bool_]
MIN_HALO_SIDE = 240
"""Pixels; in smaller pictures, outlines are one thin line, because a halo hides small segments."""
MIN_DRAWN_SCORE = 0.3
"""Instances with a lower score are not drawn: average precision needs them, a viewer does not."""
MIN_SIDE = 384
"""Smaller images are enlarged to about this many pixels: smooth contours, space for names."""
MAX_SIDE = 4096
"""The longer side of an image that was enlarged."""
_WHITE, _DARK = (255, 255, 255), (20, 22, 26)


def overlay(
    image: Picture,
    segments: Iterable[Segment],
    taxonomy: Taxonomy,
    *,
    scale: int = 1,
    labels: bool = True,
    min_score: float = 0.0,
) -> Picture:
    """Paint segments over an image.

    Masks are tinted in the color of their class, things get a contour, segments without a mask a
    frame. Larger segments are painted first, so that small ones stay visible where masks overlap;
    among equals, the one with the highest score is on top.

    Args:
        image: (H, W, 3) RGB uint8.
        segments: of this image; a class id that the taxonomy lacks raises KeyError.
        taxonomy: the color and the name of each class.
        scale: factor by which to enlarge the image first, for smooth contours and room for names.
        labels: whether to write the class name on each segment that has room for it.
        min_score: segments with a lower score are left out; those without a score stay.

    Returns:
        (scale * H, scale * W, 3) RGB uint8.
    """
    import cv2

    height, width = image.shape[:2]
    size = (width * scale, height * scale)
    enlarged = image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    canvas: NDArray[np.float32] = enlarged.astype(np.float32)
    drawn = [s for s in segments if s.score is None or s.score >= min_score]
    order = sorted(drawn, key=lambda s: (s.kind == "thing", -s.area, s.score or 0.0))
    masks = [None if s.mask is None else _enlarged(s.mask, height, width, size) for s in order]
    names = [taxonomy.by_id[segment.class_id].name for segment in order]
    colors = [class_color(name) for name in names]
    for segment, mask, color in zip(order, masks, colors, strict=True):
        if mask is not None:
            _tint(canvas, mask, color, contour=segment.kind == "thing")
    for segment, mask, color in zip(order, masks, colors, strict=True):
        if mask is None:
            _frame(canvas, segment, color, scale)
    picture: Picture = np.clip(canvas, 0, 255).astype(np.uint8)
    if not labels:
        return picture
    return _write_names(picture, _visible(masks), order, names, scale)


def enlarged_overlay(
    image: Picture, segments: Iterable[Segment], taxonomy: Taxonomy, *, min_score: float = 0.0
) -> Picture:
    """Paint segments over an image; a small one is enlarged first.

    Its shorter side gets about `MIN_SIDE` pixels, unless the longer one would exceed `MAX_SIDE`.
    """
    short, long = sorted(image.shape[:2])
    scale = max(1, min(round(MIN_SIDE / short), MAX_SIDE // long))
    return overlay(image, segments, taxonomy, scale=scale, min_score=min_score)


def _enlarged(counts: bytes, height: int, width: int, size: tuple[int, int]) -> Mask:
    """The decoded mask, enlarged to `size` (width, height) with smooth borders."""
    import cv2

    mask = rle.decode(counts, height, width)
    if size == (width, height):
        return mask
    soft = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    return np.asarray(soft >= 0.5)


def _tint(canvas: NDArray[np.float32], mask: Mask, color: Color, *, contour: bool) -> None:
    """Color a mask, keeping its brightness; the contour is white on dark, visible anywhere."""
    import cv2

    brightness = canvas[mask] @ np.array([[0.299], [0.587], [0.114]], np.float32)
    canvas[mask] = 0.4 * brightness + 0.6 * np.array(color, np.float32)
    if not contour:
        return
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    dark = tuple(0.35 * channel for channel in color)
    if min(mask.shape) < MIN_HALO_SIDE:
        cv2.drawContours(canvas, outlines, -1, dark, 1, cv2.LINE_AA)
        return
    line = max(1, min(mask.shape) // 320)
    cv2.drawContours(canvas, outlines, -1, dark, line + 2, cv2.LINE_AA)
    cv2.drawContours(canvas, outlines, -1, _WHITE, line, cv2.LINE_AA)


def _frame(canvas: NDArray[np.float32], segment: Segment, color: Color, scale: int) -> None:
    import cv2

    line = max(1, min(canvas.shape[:2]) // 240)
    x, y, width, height = segment.box
    ends = np.array([(x, y), (x + width, y + height)]) * scale
    beyond = 2 * line  # an edge outside of the canvas stays invisible; OpenCV takes 32 bits
    limits = np.array(canvas.shape[1::-1]) + beyond
    first, second = np.clip(ends.round(), -beyond, limits).astype(int).tolist()
    dark = tuple(0.3 * channel for channel in color)
    if min(canvas.shape[:2]) >= MIN_HALO_SIDE:
        cv2.rectangle(canvas, first, second, dark, line + 2, cv2.LINE_AA)
    cv2.rectangle(canvas, first, second, color, line, cv2.LINE_AA)


def _visible(masks: Sequence[Mask | None]) -> list[Mask | None]:
    """The part of each mask that no later mask covers."""
    parts: list[Mask | None] = []
    above: Mask | None = None
    for mask in reversed(masks):
        parts.append(mask if mask is None or above is None else mask & ~above)
        if mask is not None:
            above = mask if above is None else above | mask
    return parts[::-1]


def _write_names(
    picture: Picture,
    visible: Sequence[Mask | None],
    segments: Sequence[Segment],
    names: Sequence[str],
    scale: int,
) -> Picture:
    """Write each name on its segment, the largest first, where no other name stands."""
    page = Image.fromarray(picture)
    draw = ImageDraw.Draw(page)
    font = load_font(max(11, min(picture.shape[:2]) // 24))
    placement = LabelPlacement(picture.shape[:2])
    order = sorted(range(len(names)), key=lambda number: -segments[number].area)
    for number in order:
        mask, segment, name = visible[number], segments[number], names[number]
        left, top, right, bottom = draw.textbbox((0, 0), name, font=font)
        size = math.ceil(right - left), math.ceil(bottom - top)
        if mask is None:
            x, y, width, height = (value * scale for value in segment.box)
            corner = placement.at_box((x, y, width, height), size)
        else:
            corner = placement.on_mask(mask, size)
        if corner is not None:
            place = corner[0] - left, corner[1] - top
            draw.text(place, name, font=font, fill=_WHITE, stroke_width=2, stroke_fill=_DARK)
    return np.asarray(page)


def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font in this size, in pixels."""
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow was built without FreeType: it cannot write captions")
    return font


def fit(picture: Picture, width: float, height: float) -> Image.Image:
    """Scale a picture to fit within a width and a height in pixels."""
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    resampling = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS
    return Image.fromarray(picture).resize(size, resampling)


def png_bytes(picture: Picture) -> bytes:
    """The content of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def save_png(picture: Picture, path: Path) -> None:
    """Write a picture as a PNG file; an older one is replaced at once, never by a part."""
    with new_file(path) as draft:
        draft.write_bytes(png_bytes(picture))
