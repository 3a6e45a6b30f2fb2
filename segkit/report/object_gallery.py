"""Embed the worst, the median and the best masks of a label layer, each on its own crop."""

from dataclasses import replace

import numpy as np

from segkit.images.draw import Picture, enlarged_overlay
from segkit.masks import rle
from segkit.masks.boxes import corners
from segkit.report.gallery import PAINTED_SIZE, GalleryImage, data_uri
from segkit.report.labeled_boxes import Floats, HiddenTruth, LabeledBoxes
from segkit.report.preview import background
from segkit.sample import Sample, Segment
from segkit.shards.reader import ShardSet

OBJECTS = 6
"""Masks of each group."""
CONTEXT = 0.3
"""Margin of a crop, as a share of the longer side of the box."""
MIN_CONTEXT = 8.0
"""Pixels of that margin, at least."""


def gallery_groups(
    layer: ShardSet,
    boxes: LabeledBoxes,
    ranking: Floats,
    figure: str,
    truth: HiddenTruth | None,
) -> list[tuple[str, list[GalleryImage]]]:
    """Draw the worst, the median and the best masks.

    Args:
        layer: the layer.
        boxes: its boxes.
        ranking: (B,) what tells good masks from bad ones; NaN where a box is left out.
        figure: its name, for the captions.
        truth: true masks, drawn beside those of the layer; without them, the box is.
    """
    ranked = np.flatnonzero(~np.isnan(ranking))
    order = ranked[np.argsort(ranking[ranked], kind="stable")]
    third = min(OBJECTS, -(-len(order) // 3))  # no mask is in two groups
    middle = (len(order) - third) // 2
    groups = {
        "Worst": order[:third],
        "Median": order[middle : middle + third] if len(order) >= 3 * third else order[:0],
        "Best": order[third:][::-1][:third],
    }
    return [
        (heading, [_draw(layer, boxes, row, f"{figure} {ranking[row]:.3f}", truth) for row in rows])
        for heading, rows in groups.items()
    ]


def _draw(
    layer: ShardSet, boxes: LabeledBoxes, row: int, figure: str, truth: HiddenTruth | None
) -> GalleryImage:
    sample = layer.sample(int(boxes.image[row]), check_masks=True)
    segment = sample.segments[int(boxes.segment[row])]
    beside = replace(segment, mask=None, mask_from=None, score=None)
    if truth is not None:
        beside = replace(beside, mask=truth.objects(sample)[segment.source_id or ""].mask)
    image = background(layer, sample)
    name = layer.taxonomy.by_id[segment.class_id].name
    left, right = (data_uri(_picture(layer, image, sample, drawn)) for drawn in (beside, segment))
    return GalleryImage(f"{sample.id}, {name}: {figure}", left, right)


def _picture(layer: ShardSet, image: Picture, sample: Sample, segment: Segment) -> Picture:
    """One segment on the crop around its box."""
    x0, y0, x1, y1 = corners(segment.box)
    margin = max(MIN_CONTEXT, CONTEXT * max(segment.box[2:]))
    left, top = max(0, round(x0 - margin)), max(0, round(y0 - margin))
    right, bottom = min(sample.width, round(x1 + margin)), min(sample.height, round(y1 + margin))
    counts = None
    if segment.mask is not None:
        mask = rle.decode(segment.mask, sample.height, sample.width)
        counts = rle.encode(mask[top:bottom, left:right])
    box = (x0 - left, y0 - top, x1 - x0, y1 - y0)
    crop = np.ascontiguousarray(image[top:bottom, left:right])
    drawn = [replace(segment, mask=counts, box=box)]
    return enlarged_overlay(crop, drawn, layer.taxonomy, max_size=PAINTED_SIZE)
