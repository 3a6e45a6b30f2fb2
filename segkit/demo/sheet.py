"""A contact sheet of several validation sets: what each gives and what the model makes of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from segkit.images.draw import Column, Picture, contact_sheet, overlay
from segkit.shards.reader import ShardSet

ROWS = ("image", "ground truth", "prediction", "pseudo-mask")
MIN_SIDE = 384
"""Smaller images are enlarged to about this many pixels, for smooth contours and room for names."""
MIN_SCORE = 0.5
"""Predictions below it are not drawn: instances come with doubtful ones, as average precision wants
them."""


@dataclass(frozen=True, slots=True)
class Group:
    """A validation set and its predictions; all sets hold the same images in the same order."""

    caption: str
    images: int
    """How many to show, evenly spread over the set."""
    truth: ShardSet
    prediction: ShardSet
    boxes: ShardSet | None = None
    """Where the data set gives no more than boxes: the boxes, shown on the image."""
    pseudo: ShardSet | None = None
    """The masks made from these boxes."""


def draw_sheet(groups: Sequence[Group], note: Sequence[tuple[str, str]]) -> Picture:
    """Rows of `ROWS` for some images of each group; `note` fills the places without
    pseudo-masks."""
    columns = [
        _column(group, index)
        for group in groups
        for index in _spread(len(group.truth), group.images)
    ]
    return contact_sheet(ROWS, columns, note=note)


def _spread(total: int, shown: int) -> list[int]:
    return [number * total // min(shown, total) for number in range(min(shown, total))]


def _column(group: Group, index: int) -> Column:
    image = group.prediction.image(group.prediction.sample(index))
    sets = (group.boxes, group.truth, group.prediction, group.pseudo)
    tiles = [None if shards is None else _painted(image, shards, index) for shards in sets]
    return Column(group.caption, (image if tiles[0] is None else tiles[0], *tiles[1:]))


def _painted(image: Picture, shards: ShardSet, index: int) -> Picture:
    segments = shards.sample(index).segments
    shown = [
        s
        for s in segments
        if s.mask_from != "prediction" or s.score is None or s.score >= MIN_SCORE
    ]
    return overlay(
        image, shown, shards.taxonomy, scale=max(1, round(MIN_SIDE / min(image.shape[:2])))
    )
