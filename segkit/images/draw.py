"""Pictures for people: segments painted over an image, and contact sheets with captions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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

GOLDEN_ANGLE = 137.508
"""Degrees of hue between neighbors: any run of classes gets hues that lie far apart."""
PAPER, INK, FAINT = (255, 255, 255), (38, 43, 51), (112, 120, 132)


def class_color(index: int) -> Color:
    """RGB, 0-255, of the class with contiguous index `index` (0, 1, ...); always the same."""
    import cv2

    hue = np.radians(25 + GOLDEN_ANGLE * index)
    lightness, chroma = (62, 76, 48)[index % 3], 50
    lab = np.array([[[lightness, chroma * np.cos(hue), chroma * np.sin(hue)]]], np.float32)
    red, green, blue = (
        (np.clip(cv2.cvtColor(lab, cv2.COLOR_Lab2RGB)[0, 0], 0, 1) * 255)
        .round()
        .astype(int)
        .tolist()
    )
    return red, green, blue


def overlay(
    image: Picture,
    segments: Iterable[Segment],
    taxonomy: Taxonomy,
    *,
    scale: int = 1,
    labels: bool = True,
) -> Picture:
    """Paint segments over an image: a color per class, a contour per thing, a frame for what has
    only a box.

    Larger segments are painted first, so that small ones stay visible where masks overlap; among
    equals the higher score comes out on top.

    Args:
        image: (H, W, 3) RGB uint8.
        segments: of this image; a class id that the taxonomy lacks is a KeyError.
        taxonomy: gives each class its color and its name.
        scale: times by which the picture is enlarged first (small images get smooth contours and
            room for names).
        labels: whether to write the class name on each segment that has room for it.

    Returns:
        (scale * H, scale * W, 3) RGB uint8.
    """
    import cv2

    height, width = image.shape[:2]
    size = (width * scale, height * scale)
    enlarged = image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    canvas: NDArray[np.float32] = enlarged.astype(np.float32)
    order = sorted(
        segments, key=lambda segment: (segment.kind == "thing", -segment.area, segment.score or 0.0)
    )
    masks = [None if s.mask is None else _mask(s.mask, height, width, size) for s in order]
    for segment, mask in zip(order, masks, strict=True):
        if mask is not None:
            _tint(
                canvas,
                mask,
                class_color(taxonomy.index[segment.class_id]),
                segment.kind == "thing",
            )
    for segment, mask in zip(order, masks, strict=True):
        if mask is None:
            _frame(canvas, segment, class_color(taxonomy.index[segment.class_id]), scale)
    made: Picture = np.clip(canvas, 0, 255).astype(np.uint8)
    if not labels:
        return made
    texts = [taxonomy.by_id[segment.class_id].name for segment in order]
    return _write_names(made, _visible(masks), order, texts, scale)


def _mask(counts: bytes, height: int, width: int, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The decoded mask, enlarged with smooth borders to `size` (width, height)."""
    import cv2

    mask = rle.decode(counts, height, width)
    if size == (width, height):
        return mask
    soft = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    return np.asarray(soft >= 0.5)


def _tint(canvas: NDArray[np.float32], mask: NDArray[np.bool_], color: Color, thing: bool) -> None:
    """Color the mask over its own brightness; a thing gets a light contour on a dark one, seen on
    any ground."""
    import cv2

    brightness = canvas[mask] @ np.array([[0.299], [0.587], [0.114]], np.float32)
    canvas[mask] = 0.4 * brightness + 0.6 * np.array(color, np.float32)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if thing:
        line = max(1, min(mask.shape) // 160)
        cv2.drawContours(
            canvas, outlines, -1, tuple(0.35 * channel for channel in color), line + 2, cv2.LINE_AA
        )
        cv2.drawContours(canvas, outlines, -1, (255, 255, 255), line, cv2.LINE_AA)


def _frame(canvas: NDArray[np.float32], segment: Segment, color: Color, scale: int) -> None:
    import cv2

    x, y, width, height = (round(value * scale) for value in segment.box)
    corners, line = ((x, y), (x + width, y + height)), max(1, min(canvas.shape[:2]) // 120)
    cv2.rectangle(
        canvas, *corners, tuple(0.3 * channel for channel in color), line + 2, cv2.LINE_AA
    )
    cv2.rectangle(canvas, *corners, color, line, cv2.LINE_AA)


def _visible(masks: Sequence[NDArray[np.bool_] | None]) -> list[NDArray[np.bool_] | None]:
    """What of each mask lies under no later one."""
    seen: list[NDArray[np.bool_] | None] = []
    above: NDArray[np.bool_] | None = None
    for mask in reversed(masks):
        seen.append(mask if mask is None or above is None else mask & ~above)
        if mask is not None:
            above = mask if above is None else above | mask
    return seen[::-1]


def _write_names(
    picture: Picture,
    visible: list[NDArray[np.bool_] | None],
    segments: list[Segment],
    texts: list[str],
    scale: int,
) -> Picture:
    """Write each name where its segment is widest, or above its box; a name that has no room is
    left out."""
    page = Image.fromarray(picture)
    draw = ImageDraw.Draw(page)
    font = _font(max(11, min(picture.shape[:2]) // 20))
    for mask, segment, text in zip(visible, segments, texts, strict=True):
        _, _, wide, tall = draw.textbbox((0, 0), text, font=font)
        if mask is None:
            x, y, *_ = (value * scale for value in segment.box)
            spot: tuple[float, float] | None = (max(x + 3, 2), max(y + 1, 0))
        else:
            spot = _roomiest(mask, wide, tall)
        if spot is not None:
            x, y = min(spot[0], page.width - wide - 2), min(spot[1], page.height - tall - 2)
            draw.text(
                (max(x, 2), max(y, 2)),
                text,
                font=font,
                fill=PAPER,
                stroke_width=2,
                stroke_fill=(20, 22, 26),
            )
    return np.asarray(page)


def _roomiest(mask: NDArray[np.bool_], wide: float, tall: float) -> tuple[float, float] | None:
    """Top left corner at which a text of that size sits deepest in the mask; None where it would
    not fit half."""
    import cv2

    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    deepest = float(depth.max(initial=0))
    if deepest < 0.55 * tall or mask.sum() < 0.8 * wide * tall:
        return None
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x) - wide / 2, float(y) - tall / 2


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow was built without FreeType: it cannot write captions")
    return font


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a contact sheet."""

    caption: str
    """Neighbours with the same caption share one heading."""
    tiles: tuple[Picture | None, ...]
    """One picture a row (any size); None leaves the place empty."""


def contact_sheet(
    rows: Sequence[str],
    columns: Sequence[Column],
    *,
    tile: int = 224,
    note: Sequence[tuple[str, str]] = (),
) -> Picture:
    """Lay pictures out in a grid with a caption for each row and each group of columns.

    Args:
        rows: captions from top to bottom; every column has as many tiles.
        columns: from left to right, each as wide as its first picture's proportions ask.
        tile: height of a row in pixels.
        note: names and figures, written over the empty places with which the last row begins.

    Returns:
        (H, W, 3) RGB uint8.
    """
    if not rows or not columns or any(len(column.tiles) != len(rows) for column in columns):
        raise ValueError("a contact sheet needs rows, columns, and one tile a row in each column")
    font = _font(max(13, tile // 14))
    gap = max(4, tile // 40)
    head, side = (
        round(2 * font.size) + gap,
        round(max(font.getlength(row) for row in rows)) + 4 * gap,
    )
    widths = [_column_width(column, tile) for column in columns]
    lefts = _lefts(columns, widths, side, gap)
    page = Image.new(
        "RGB", (lefts[-1] + widths[-1] + 2 * gap, head + len(rows) * (tile + gap) + gap), PAPER
    )
    draw = ImageDraw.Draw(page)
    for number, row in enumerate(rows):
        middle = head + number * (tile + gap) + tile // 2
        draw.text((side - 2 * gap, middle), row, font=font, fill=INK, anchor="rm")
    for column, left, width in zip(columns, lefts, widths, strict=True):
        for number, picture in enumerate(column.tiles):
            if picture is not None:
                page.paste(_fit(picture, width, tile), (left, head + number * (tile + gap)))
    _write_headings(draw, columns, lefts, widths, head, font)
    _write_note(draw, note, (side + 3 * gap, page.height - tile // 2 - gap), font)
    return np.asarray(page)


def _column_width(column: Column, tile: int) -> int:
    first = next((picture for picture in column.tiles if picture is not None), None)
    proportion = 1.0 if first is None else first.shape[1] / first.shape[0]
    return round(tile * min(max(proportion, 0.6), 1.9))


def _lefts(columns: Sequence[Column], widths: Sequence[int], side: int, gap: int) -> list[int]:
    """Left edge of every column; groups stand further apart than the columns within one."""
    lefts = [side]
    for number in range(1, len(columns)):
        same = columns[number].caption == columns[number - 1].caption
        lefts.append(lefts[-1] + widths[number - 1] + (gap if same else 4 * gap))
    return lefts


def _fit(picture: Picture, width: int, height: int) -> Image.Image:
    """The whole picture within (width, height), its proportions kept, centerd on a pale ground."""
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    way = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS
    ground = Image.new("RGB", (width, height), (244, 245, 247))
    ground.paste(
        Image.fromarray(picture).resize(size, way),
        ((width - size[0]) // 2, (height - size[1]) // 2),
    )
    return ground


def _write_headings(
    draw: ImageDraw.ImageDraw,
    columns: Sequence[Column],
    lefts: Sequence[int],
    widths: Sequence[int],
    head: int,
    font: ImageFont.FreeTypeFont,
) -> None:
    first = 0
    for number in range(1, len(columns) + 1):
        if number == len(columns) or columns[number].caption != columns[first].caption:
            left, right = lefts[first], lefts[number - 1] + widths[number - 1]
            draw.text(
                ((left + right) // 2, head // 2),
                columns[first].caption,
                font=font,
                fill=INK,
                anchor="mm",
            )
            draw.line([(left, head - 6), (right, head - 6)], fill=FAINT, width=1)
            first = number


def _write_note(
    draw: ImageDraw.ImageDraw,
    note: Sequence[tuple[str, str]],
    left_middle: tuple[int, int],
    font: ImageFont.FreeTypeFont,
) -> None:
    """Two columns of text, the names in grey, centerd on the given height."""
    x, middle = left_middle
    step = round(1.9 * font.size)
    values = x + round(max((font.getlength(name) for name, _ in note), default=0) + 1.5 * font.size)
    for number, (name, value) in enumerate(note):
        y = middle + round((number - (len(note) - 1) / 2) * step)
        draw.text((x, y), name, font=font, fill=FAINT, anchor="lm")
        draw.text((values, y), value, font=font, fill=INK, anchor="lm")


def save_png(picture: Picture, path: Path) -> None:
    """Write a picture as PNG."""
    Image.fromarray(picture).save(path, optimize=True)
