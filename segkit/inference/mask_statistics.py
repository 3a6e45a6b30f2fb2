"""Describe the pseudo-masks of a set: their scores, and how many are merely boxes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from segkit.masks import rle
from segkit.masks.boxes import pixels_of_box
from segkit.sample import Segment
from segkit.shards.label_columns import read_segments
from segkit.shards.reader import ShardSet

BOX_FILL = 0.97
"""A mask that fills this share of its box, in pixels, is shaped like the box."""
MIN_BOX_AREA = 64
"""Smaller boxes, in pixels, say nothing about the shape of their masks."""
MAX_BOX_SHAPED = 0.5
"""Share of box-shaped masks above which a model looks untrained; of the human masks of COCO's
objects, 1 in 50 is shaped like its box."""
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


@dataclass(frozen=True)
class MaskStatistics:
    """Figures of the pseudo-masks that a teacher made."""

    masks: int
    scores: dict[float, float]
    """Quantile -> score; empty without a scored mask."""
    box_shaped: float | None
    """Share of the masks that fill their boxes; None without a box of `MIN_BOX_AREA`."""

    @property
    def looks_untrained(self) -> bool:
        """Whether most masks are only boxes, as those of a model that has not learned yet."""
        return self.box_shaped is not None and self.box_shaped > MAX_BOX_SHAPED


def masked_before(data: ShardSet | None) -> Iterator[Sequence[bool]]:
    """Whether each segment of each image has a mask; reads one column of the labels.

    A layer over the set has the same images and segments. Without a set, nothing had a mask: an
    endless stream of empty sequences.
    """
    if data is None:
        yield from repeat(())
        return
    for sources in read_segments(data, "mask_from"):
        yield [source is not None for source in sources]


def is_new_mask(segment: Segment, number: int, had_mask: Sequence[bool]) -> bool:
    """Whether a segment, by its index in the image, has a pseudo-mask that it had not before."""
    is_pseudo = segment.mask is not None and segment.mask_from == "pseudo"
    return is_pseudo and not (had_mask and had_mask[number])


def describe_masks(layer: ShardSet, data: ShardSet | None = None) -> MaskStatistics:
    """Compute the figures of the masks with `mask_from == "pseudo"`.

    Args:
        layer: the set.
        data: the set that was labeled, whose masks are left out; None for all of the layer.
    """
    scores: list[float] = []
    masks = shaped = judged = 0
    for sample, had_mask in zip(
        layer.samples(check_masks=True), masked_before(data), strict=data is not None
    ):
        for number, segment in enumerate(sample.segments):
            if segment.mask is None or not is_new_mask(segment, number, had_mask):
                continue
            masks += 1
            if segment.score is not None:
                scores.append(segment.score)
            rows, columns = pixels_of_box(segment.box, sample.height, sample.width)
            box_area = (rows.stop - rows.start) * (columns.stop - columns.start)
            if box_area >= MIN_BOX_AREA:
                judged += 1
                area = rle.area(segment.mask, sample.height, sample.width)
                shaped += area >= BOX_FILL * box_area
    values = np.quantile(scores, QUANTILES).tolist() if scores else []
    return MaskStatistics(
        masks=masks,
        scores=dict(zip(QUANTILES, values, strict=False)),
        box_shaped=shaped / judged if judged else None,
    )
