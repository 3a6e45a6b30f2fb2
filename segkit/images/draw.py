"""Paint segments over an image: a color for each class, contours, frames and class names."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segkit.masks import rle
from segkit.sample import Segment
from segkit.taxonomy import Taxonomy

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""
Color = tuple[int, int, int]
Mask = NDArray[np.bool_]
GOLDEN_ANGLE = 137.508
"""Degrees of hue between neighboring classes: any run of classes gets hues far apart."""
_WHITE, _DARK = (255, 255, 255), (20, 22, 26)


def class_color(index: int) -> Color:
    """RGB, 0-255, of the class with index `index` in its taxonomy; always the same."""
    import cv2

    hue = np.radians(25 + GOLDEN_ANGLE * index)
    lightness, chroma = (62, 76, 48)[index % 3], 50
    lab = np.array([[[lightness, chroma * np.cos(hue), chroma * np.sin(hue)]]], np.float32)
    rgb = np.clip(cv2.cvtColor(lab, cv2.COLOR_Lab2RGB)[0, 0], 0, 1)
    red, green, blue = (rgb * 255).round().astype(int).tolist()
    return red, green, blue


def overlay(
    image: Picture,
    segments: Iterable[Segment],
    taxonomy: Taxonomy,
    *,
    scale: int = 1,
    labels: bool = True,
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

    Returns:
        (scale * H, scale * W, 3) RGB uint8.
    """
    import cv2

    height, width = image.shape[:2]
    size = (width * scale, height * scale)
    enlarged = image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    canvas: NDArray[np.float32] = enlarged.astype(np.float32)
    order = sorted(segments, key=lambda s: (s.kind == "thing", -s.area, s.score or 0.0))
    masks = [None if s.mask is None else _enlarged(s.mask, height, width, size) for s in order]
    colors = [class_color(taxonomy.index[segment.class_id]) for segment in order]
    for segment, mask, color in zip(order, masks, colors, strict=True):
        if mask is not None:
            _tint(canvas, mask, color, contour=segment.kind == "thing")
    for segment, mask, color in zip(order, masks, colors, strict=True):
        if mask is None:
            _frame(canvas, segment, color, scale)
    picture: Picture = np.clip(canvas, 0, 255).astype(np.uint8)
    if not labels:
        return picture
    names = [taxonomy.by_id[segment.class_id].name for segment in order]
    return _write_names(picture, _visible(masks), order, names, scale)


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
    line = max(1, min(mask.shape) // 160)
    dark = tuple(0.35 * channel for channel in color)
    cv2.drawContours(canvas, outlines, -1, dark, line + 2, cv2.LINE_AA)
    cv2.drawContours(canvas, outlines, -1, _WHITE, line, cv2.LINE_AA)


def _frame(canvas: NDArray[np.float32], segment: Segment, color: Color, scale: int) -> None:
    import cv2

    x, y, width, height = (round(value * scale) for value in segment.box)
    corners, line = ((x, y), (x + width, y + height)), max(1, min(canvas.shape[:2]) // 120)
    dark = tuple(0.3 * channel for channel in color)
    cv2.rectangle(canvas, *corners, dark, line + 2, cv2.LINE_AA)
    cv2.rectangle(canvas, *corners, color, line, cv2.LINE_AA)


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
    """Write each name where its segment is widest, or at the top of its box, if there is room."""
    page = Image.fromarray(picture)
    draw = ImageDraw.Draw(page)
    font = load_font(max(11, min(picture.shape[:2]) // 20))
    for mask, segment, name in zip(visible, segments, names, strict=True):
        _, _, wide, tall = draw.textbbox((0, 0), name, font=font)
        if mask is None:
            x, y, *_ = (value * scale for value in segment.box)
            corner: tuple[float, float] | None = (max(x + 3, 2), max(y + 1, 0))
        else:
            corner = _widest_place(mask, wide, tall)
        if corner is None:
            continue
        x = max(min(corner[0], page.width - wide - 2), 2)
        y = max(min(corner[1], page.height - tall - 2), 2)
        draw.text((x, y), name, font=font, fill=_WHITE, stroke_width=2, stroke_fill=_DARK)
    return np.asarray(page)


def _widest_place(mask: Mask, wide: float, tall: float) -> tuple[float, float] | None:
    """Top left corner of a text of this size around the mask's deepest pixel; None without room."""
    import cv2

    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    deepest = float(depth.max(initial=0))
    if deepest < 0.55 * tall or mask.sum() < 0.8 * wide * tall:
        return None
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x) - wide / 2, float(y) - tall / 2


def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font in this size, in pixels."""
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow was built without FreeType: it cannot write captions")
    return font


def save_png(picture: Picture, path: Path) -> None:
    """Write a picture as a PNG file."""
    Image.fromarray(picture).save(path, optimize=True)
