"""Draw a contact sheet of validation sets: image, ground truth, prediction, pseudo-mask."""

from collections.abc import Sequence
from dataclasses import dataclass

from segkit.images.contact_sheet import Column, contact_sheet
from segkit.images.draw import Picture, enlarged_overlay
from segkit.report.preview import spread
from segkit.shards.reader import ShardSet

ROWS = ("image", "ground truth", "prediction", "pseudo-mask")
MIN_SCORE = 0.5
"""Lowest score of a drawn prediction; average precision needs instances of low score, a picture
does not."""


@dataclass(frozen=True, slots=True)
class Group:
    """A validation set and its predictions; all sets hold the same images in the same order."""

    caption: str
    images: int
    """Number of images to draw, evenly spread over the set."""
    truth: ShardSet
    prediction: ShardSet
    boxes: ShardSet | None = None
    """The boxes to draw on the image, if the data set has only boxes."""
    pseudo: ShardSet | None = None
    """The masks predicted from these boxes."""


def draw_sheet(groups: Sequence[Group], note: Sequence[tuple[str, str]]) -> Picture:
    """Draw `ROWS` for some images of each group.

    Args:
        groups: a column for each of their images.
        note: name and value of lines that fill the space where a group has no pseudo-masks.
    """
    columns = [
        _column(group, index)
        for group in groups
        for index in spread(len(group.truth), group.images)
    ]
    return contact_sheet(ROWS, columns, note=note)


def _column(group: Group, index: int) -> Column:
    image = group.prediction.image(group.prediction.sample(index))
    sets = (group.boxes, group.truth, group.prediction, group.pseudo)
    tiles = [None if shards is None else _paint(image, shards, index) for shards in sets]
    return Column(group.caption, (image if tiles[0] is None else tiles[0], *tiles[1:]))


def _paint(image: Picture, shards: ShardSet, index: int) -> Picture:
    segments = [
        segment
        for segment in shards.sample(index, check_masks=True).segments
        if segment.mask_from != "prediction" or segment.score is None or segment.score >= MIN_SCORE
    ]
    return enlarged_overlay(image, segments, shards.taxonomy)
