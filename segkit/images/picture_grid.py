"""Lay captioned pictures out in a grid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segkit.images.draw import Picture, fit, load_font

_PAPER, _INK = (255, 255, 255), (38, 43, 51)
_ELLIPSIS = "…"
_MAX_RATIO = 0.8
"""Height of a tile / its width; taller pictures are narrower."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A picture of any size and the line below it."""

    picture: Picture
    caption: str


def fit_tile(picture: Picture, width: int) -> Picture:
    """Scale a picture to its size in a grid of this width, so that many take little memory."""
    return np.asarray(fit(picture, width, _MAX_RATIO * width))


def picture_grid(tiles: Sequence[Tile], *, width: int = 360, columns: int | None = None) -> Picture:
    """Lay pictures out from left to right and from top to bottom.

    Args:
        tiles: the pictures, scaled to one width, tall ones to less; captions are cut where they are
            longer.
        width: of each picture, in pixels.
        columns: pictures in a row; by default as many as make the grid about square.

    Returns:
        (H, W, 3) RGB uint8.

    Raises:
        ValueError: there are no tiles.
    """
    if not tiles:
        raise ValueError("a grid needs at least one picture")
    per_row = min(columns or math.ceil(math.sqrt(len(tiles))), len(tiles))
    font = load_font(max(13, width // 26))
    gap, line = max(4, width // 45), round(1.6 * font.size)
    pictures = [Image.fromarray(fit_tile(tile.picture, width)) for tile in tiles]
    rows = [pictures[start : start + per_row] for start in range(0, len(pictures), per_row)]
    heights = [max(picture.height for picture in row) for row in rows]
    size = (
        gap + per_row * (width + gap),
        gap + sum(height + line + gap for height in heights),
    )
    page = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(page)
    top = gap
    for number, (row, height) in enumerate(zip(rows, heights, strict=True)):
        for column, picture in enumerate(row):
            left = gap + column * (width + gap)
            corner = left + (width - picture.width) // 2, top + (height - picture.height) // 2
            page.paste(picture, corner)
            caption = _cut(tiles[number * per_row + column].caption, font, width)
            place = left, top + height + line // 2
            draw.text(place, caption, font=font, fill=_INK, anchor="lm")
        top += height + line + gap
    return np.asarray(page)


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, shortened in the middle so that it is at most `width` pixels long."""
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 0, -1):
        shorter = text[: (kept + 1) // 2] + _ELLIPSIS + text[len(text) - kept // 2 :]
        if font.getlength(shorter) <= width:
            return shorter
    return _ELLIPSIS
