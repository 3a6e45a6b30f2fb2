"""Paint segments over an image: a color for each class, contours, frames and class names."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segkit.atomic import new_file
from segkit.images.label_placement import COLUMN_STEP, LabelPlacement
from segkit.images.palette import Color, class_color
from segkit.masks import rle
from segkit.masks.boxes import pixels_of_box, tight_box
from segkit.sample import Segment
from segkit.taxonomy import Taxonomy

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""
Mask = NDArray[np.bool_]
Part = tuple[slice, slice]
"""Rows and columns of a part of the picture."""
MIN_HALO_SIDE = 240
"""Pixels; in smaller pictures, outlines are one thin line, because a halo hides small segments."""
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
    scale: float = 1,
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
        scale: factor by which to scale the image first: above 1 for smooth contours and room for
            names, below 1 for a small picture of a large image in little memory.
        labels: whether to write the class name on each segment that has room for it.
        min_score: segments with a lower score are left out; those without a score stay.

    Returns:
        (scale * H, scale * W, 3) RGB uint8.
    """
    import cv2

    height, width = image.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    filter_ = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    scaled = image if scale == 1 else cv2.resize(image, size, interpolation=filter_)
    canvas: NDArray[np.float32] = scaled.astype(np.float32)
    drawn = [s for s in segments if s.score is None or s.score >= min_score]
    order = sorted(drawn, key=lambda s: (s.kind == "thing", -s.area, s.score or 0.0))
    names = [taxonomy.by_id[segment.class_id].name for segment in order]
    colors = [class_color(name) for name in names]
    topmost = np.full(canvas.shape[:2], -1, np.int32)  # number of the last mask on each pixel
    parts = dict[int, Part]()
    for number, (segment, color) in enumerate(zip(order, colors, strict=True)):
        if segment.mask is not None:  # mask by mask: an image may have thousands
            mask, part = _scaled(segment.mask, height, width, size)
            _tint(canvas, mask, part, color, contour=segment.kind == "thing")
            parts[number] = part
            topmost[part][mask] = number
    for segment, color in zip(order, colors, strict=True):
        if segment.mask is None:
            _frame(canvas, segment, color, scale)
    picture: Picture = np.clip(canvas, 0, 255).astype(np.uint8)
    if not labels:
        return picture
    return _write_names(picture, topmost, parts, order, names, scale)


def enlarged_overlay(
    image: Picture,
    segments: Iterable[Segment],
    taxonomy: Taxonomy,
    *,
    min_score: float = 0.0,
    max_size: tuple[int, int] | None = None,
) -> Picture:
    """Paint segments over an image; a small one is enlarged first.

    Its shorter side gets about `MIN_SIDE` pixels, unless the longer one would exceed `MAX_SIDE`.

    Args:
        image: (H, W, 3) RGB uint8.
        segments: of this image.
        taxonomy: the color and the name of each class.
        min_score: segments with a lower score are left out.
        max_size: width and height in pixels to which a larger image is shrunk first; by default it
            keeps its size.
    """
    short, long = sorted(image.shape[:2])
    scale: float = max(1, min(round(MIN_SIDE / short), MAX_SIDE // long))
    if scale == 1 and max_size is not None:
        scale = shrink_factor(image, max_size)
    return overlay(image, segments, taxonomy, scale=scale, min_score=min_score)


def shrink_factor(image: Picture, max_size: tuple[int, int]) -> float:
    """The factor, at most 1, by which an image fits within a width and a height in pixels."""
    height, width = image.shape[:2]
    return float(min(1, max_size[0] / width, max_size[1] / height))


def _scaled(counts: bytes, height: int, width: int, size: tuple[int, int]) -> tuple[Mask, Part]:
    """The decoded mask in its tight box, scaled to `size` (width, height) with smooth borders.

    Returns:
        The mask within the box, and the box.
    """
    import cv2

    if size[0] < width or size[1] < height:
        return _shrunk(counts, height, width, size)
    if size == (width, height):
        mask, x, y = rle.decode_box(counts, height, width)
        return mask, (slice(y, y + mask.shape[0]), slice(x, x + mask.shape[1]))
    mask = rle.decode(counts, height, width)
    soft = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    smooth = np.asarray(soft >= 0.5)
    part = pixels_of_box(tight_box(smooth), *smooth.shape)
    return smooth[part], part


def _shrunk(counts: bytes, height: int, width: int, size: tuple[int, int]) -> tuple[Mask, Part]:
    """The mask on the pixels of a smaller picture that it covers by half or more.

    Of a mask that covers no pixel by half, those that it covers most.
    """
    import cv2

    mask, x, y = rle.decode_box(counts, height, width)
    if not mask.size:
        return mask, (slice(0, 0), slice(0, 0))
    columns, before, after = _pixels_below(x, mask.shape[1], width, size[0])
    rows, above, below = _pixels_below(y, mask.shape[0], height, size[1])
    margins = (above, below), (before, after)
    padded = np.pad(mask.view(np.uint8) * np.uint8(255), margins)
    target = columns.stop - columns.start, rows.stop - rows.start
    cover = np.asarray(cv2.resize(padded, target, interpolation=cv2.INTER_AREA))
    return cover >= max(1, min(128, int(cover.max()))), (rows, columns)


def _pixels_below(start: int, length: int, side: int, small: int) -> tuple[slice, int, int]:
    """The pixels of a row of `small` pixels that a stretch of a row of `side` pixels touches.

    Returns:
        Those pixels, and the pixels of the long row that they cover before and after the stretch.
    """
    first, last = start * small // side, -(-(start + length) * small // side)
    edges = round(first * side / small), round(last * side / small)
    return slice(first, last), start - edges[0], edges[1] - start - length


def _tint(
    canvas: NDArray[np.float32], mask: Mask, part: Part, color: Color, *, contour: bool
) -> None:
    """Color a mask, keeping its brightness; the contour is white on dark, visible anywhere."""
    import cv2

    pixels = canvas[part]
    brightness = pixels[mask] @ np.array([[0.299], [0.587], [0.114]], np.float32)
    pixels[mask] = 0.4 * brightness + 0.6 * np.array(color, np.float32)
    if not contour or not mask.size:
        return
    corner, side = (part[1].start, part[0].start), min(canvas.shape[:2])
    outlines, _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=corner
    )
    dark = tuple(0.35 * channel for channel in color)
    if side < MIN_HALO_SIDE:
        cv2.drawContours(canvas, outlines, -1, dark, 1, cv2.LINE_AA)
        return
    line = max(1, side // 320)
    cv2.drawContours(canvas, outlines, -1, dark, line + 2, cv2.LINE_AA)
    cv2.drawContours(canvas, outlines, -1, _WHITE, line, cv2.LINE_AA)


def _frame(canvas: NDArray[np.float32], segment: Segment, color: Color, scale: float) -> None:
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


def _write_names(
    picture: Picture,
    topmost: NDArray[np.int32],
    parts: Mapping[int, Part],
    segments: Sequence[Segment],
    names: Sequence[str],
    scale: float,
) -> Picture:
    """Write each name on its segment, the largest first, where no other name stands.

    Args:
        picture: to write on.
        topmost: (H, W) the number of the segment on top of each pixel, -1 where there is none.
        parts: the box of each mask in the picture, by the number of its segment.
        segments: all that are drawn.
        names: their classes.
        scale: factor by which the image was scaled.
    """
    page = Image.fromarray(picture)
    draw = ImageDraw.Draw(page)
    font = load_font(max(11, min(picture.shape[:2]) // 24))
    placement = LabelPlacement(picture.shape[:2])
    order = sorted(range(len(names)), key=lambda number: -segments[number].area)
    for number in order:
        segment, name, part = segments[number], names[number], parts.get(number)
        left, top, right, bottom = draw.textbbox((0, 0), name, font=font)
        size = math.ceil(right - left), math.ceil(bottom - top)
        if part is None:
            x, y, width, height = (value * scale for value in segment.box)
            corner = placement.at_box((x, y, width, height), size)
        else:
            rows, columns = part
            first = columns.start - columns.start % COLUMN_STEP
            visible = topmost[rows, first : columns.stop] == number
            corner = placement.on_mask(visible, size, (first, rows.start))
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
