"""Draw the masks of several runs beside the true ones, green for classes A and red for B."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from maskx_scores import objects
from numpy.typing import NDArray

from segkit.images.draw import Picture
from segkit.images.picture_grid import Tile, picture_grid
from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.shards.reader import ShardSet

GREEN, RED = (40, 190, 70), (220, 50, 50)
OBJECTS = range(4, 15)
"""How many objects an image that is shown has."""
InA = Callable[[Segment], bool]
"""Whether a segment's class belongs to A."""


def with_both_groups(data: ShardSet, in_a: InA, count: int) -> list[Sample]:
    """At most `count` images with objects of both groups, most of the rarer group first."""

    def fewer(sample: Sample) -> int:
        flags = [in_a(segment) for segment in objects(sample)]
        return min(sum(flags), len(flags) - sum(flags)) if len(flags) in OBJECTS else 0

    return sorted(filter(fewer, data.samples()), key=fewer, reverse=True)[:count]


def draw_columns(data: ShardSet, columns: Mapping[str, Sequence[Sample]], in_a: InA) -> Picture:
    """A row for each image, a column for each title.

    Args:
        data: the set that holds the images.
        columns: title -> the same images, with the segments to draw.
        in_a: decides between green and red.
    """
    tiles = [
        Tile(paint(data.image(sample), sample, in_a), title)
        for row in zip(*columns.values(), strict=True)
        for title, sample in zip(columns, row, strict=True)
    ]
    return picture_grid(tiles, width=300, columns=len(columns))


def gray(image: Picture) -> NDArray[np.float32]:
    """The image in shades of gray, (h, w, 3)."""
    return np.repeat(image.astype(np.float32).mean(axis=2, keepdims=True), 3, axis=2)


def paint(image: Picture, sample: Sample, in_a: InA) -> Picture:
    """Tint the masks of an image, in gray, the largest first."""
    size = sample.height, sample.width
    masks = [(rle.decode(s.mask or b"", *size), in_a(s)) for s in objects(sample)]
    canvas = gray(image)
    for mask, green in sorted(masks, key=lambda item: -int(item[0].sum())):
        color = np.array(GREEN if green else RED, np.float32)
        canvas[mask] = 0.5 * canvas[mask] + 0.5 * color
    painted: Picture = canvas.astype(np.uint8)
    return painted
