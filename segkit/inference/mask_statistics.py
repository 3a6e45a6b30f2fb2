"""Describe the pseudo-masks of a set: their scores, and how many are merely boxes."""

from dataclasses import dataclass

import numpy as np

from segkit.masks import rle
from segkit.masks.boxes import pixels_of_box
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
    """Figures of the pseudo-masks of a set."""

    masks: int
    scores: dict[float, float]
    """Quantile -> score; empty without a scored mask."""
    box_shaped: float | None
    """Share of the masks that fill their boxes; None without a box of `MIN_BOX_AREA`."""

    @property
    def looks_untrained(self) -> bool:
        """Whether most masks are only boxes, as those of a model that has not learned yet."""
        return self.box_shaped is not None and self.box_shaped > MAX_BOX_SHAPED


def describe_masks(layer: ShardSet) -> MaskStatistics:
    """Compute the figures of all masks with `mask_from == "pseudo"`."""
    scores: list[float] = []
    masks = shaped = judged = 0
    for sample in layer.samples(check_masks=True):
        for segment in sample.segments:
            if segment.mask is None or segment.mask_from != "pseudo":
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
