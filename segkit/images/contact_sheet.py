"""Lay pictures out in a grid with captions."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segkit.images.draw import Picture, fit, load_font
from segkit.images.palette import Color

_PAPER, _TILE = (255, 255, 255), (244, 245, 247)
_INK, _FAINT = (38, 43, 51), (112, 120, 132)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a contact sheet."""

    caption: str
    """Neighboring columns with the same caption share one heading."""
    tiles: tuple[Picture | None, ...]
    """A picture of any size for each row; None leaves the tile empty."""


def contact_sheet(
    rows: Sequence[str],
    columns: Sequence[Column],
    *,
    tile: int = 224,
    note: Sequence[tuple[str, str]] = (),
) -> Picture:
    """Lay pictures out in a grid, with a caption for each row and each group of columns.

    Args:
        rows: captions from top to bottom; every column has as many tiles.
        columns: from left to right; the first picture of each decides its width.
        tile: height of a row in pixels.
        note: names and values, written over the empty tiles at the start of the last row.

    Returns:
        (H, W, 3) RGB uint8.
    """
    if not rows or not columns or any(len(column.tiles) != len(rows) for column in columns):
        raise ValueError("a contact sheet needs rows, columns, and one tile a row in each column")
    return _Sheet(rows, columns, tile).draw(note)


@dataclass(frozen=True)
class _Sheet:
    rows: Sequence[str]
    columns: Sequence[Column]
    tile: int

    @cached_property
    def font(self) -> ImageFont.FreeTypeFont:
        return load_font(max(13, self.tile // 14))

    @cached_property
    def gap(self) -> int:
        return max(4, self.tile // 40)

    @cached_property
    def header(self) -> int:
        """Height of the column captions in pixels."""
        return round(2 * self.font.size) + self.gap

    @cached_property
    def margin(self) -> int:
        """Width of the row captions in pixels."""
        return round(max(self.font.getlength(row) for row in self.rows)) + 4 * self.gap

    @cached_property
    def widths(self) -> list[int]:
        return [_width(column, self.tile) for column in self.columns]

    @cached_property
    def lefts(self) -> list[int]:
        """Left edge of every column; groups are further apart than the columns of one group."""
        lefts = [self.margin]
        for number in range(1, len(self.columns)):
            same = self.columns[number].caption == self.columns[number - 1].caption
            gap = self.gap if same else 4 * self.gap
            lefts.append(lefts[-1] + self.widths[number - 1] + gap)
        return lefts

    def draw(self, note: Sequence[tuple[str, str]]) -> Picture:
        width = self.lefts[-1] + self.widths[-1] + 2 * self.gap
        height = self.header + len(self.rows) * (self.tile + self.gap) + self.gap
        page = Image.new("RGB", (width, height), _PAPER)
        draw = ImageDraw.Draw(page)
        for number, row in enumerate(self.rows):
            middle = self._top(number) + self.tile // 2
            self._write(draw, (self.margin - 2 * self.gap, middle), row, _INK, "rm")
        for column, left, wide in zip(self.columns, self.lefts, self.widths, strict=True):
            for number, picture in enumerate(column.tiles):
                if picture is not None:
                    page.paste(_centered(picture, wide, self.tile), (left, self._top(number)))
        self._write_headings(draw)
        self._write_note(draw, note, height - self.tile // 2 - self.gap)
        return np.asarray(page)

    def _top(self, row: int) -> int:
        return self.header + row * (self.tile + self.gap)

    def _write_headings(self, draw: ImageDraw.ImageDraw) -> None:
        captions = [column.caption for column in self.columns]
        first = 0
        for number in range(1, len(captions) + 1):
            if number == len(captions) or captions[number] != captions[first]:
                left = self.lefts[first]
                right = self.lefts[number - 1] + self.widths[number - 1]
                center = (left + right) // 2, self.header // 2
                self._write(draw, center, captions[first], _INK, "mm")
                line = self.header - 6
                draw.line([(left, line), (right, line)], fill=_FAINT, width=1)
                first = number

    def _write_note(
        self, draw: ImageDraw.ImageDraw, note: Sequence[tuple[str, str]], middle: int
    ) -> None:
        """Names and values in two columns of text, centered on the given height."""
        x, step = self.margin + 3 * self.gap, round(1.9 * self.font.size)
        longest = max((self.font.getlength(name) for name, _ in note), default=0)
        values = x + round(longest + 1.5 * self.font.size)
        for number, (name, value) in enumerate(note):
            y = middle + round((number - (len(note) - 1) / 2) * step)
            self._write(draw, (x, y), name, _FAINT, "lm")
            self._write(draw, (values, y), value, _INK, "lm")

    def _write(
        self, draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, ink: Color, anchor: str
    ) -> None:
        draw.text(place, text, font=self.font, fill=ink, anchor=anchor)


def _width(column: Column, tile: int) -> int:
    first = next((picture for picture in column.tiles if picture is not None), None)
    ratio = 1.0 if first is None else first.shape[1] / first.shape[0]
    return round(tile * min(max(ratio, 0.6), 1.9))


def _centered(picture: Picture, width: int, height: int) -> Image.Image:
    """The picture scaled to fit within (width, height), centered on a pale ground."""
    scaled = fit(picture, width, height)
    ground = Image.new("RGB", (width, height), _TILE)
    ground.paste(scaled, ((width - scaled.width) // 2, (height - scaled.height) // 2))
    return ground
