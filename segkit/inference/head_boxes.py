"""Boxes of instances as the box head of foreground queries predicts them."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from segkit.data.augment import Crop
from segkit.inference.postprocess import LabeledMask
from segkit.masks.boxes import Corners
from segkit.model.box_coding import to_pixels
from segkit.sample import Box


def with_head_boxes(
    masks: Sequence[LabeledMask], boxes: Tensor, proposals: int, crop: Crop
) -> list[LabeledMask]:
    """The masks of one image, with the boxes of their queries.

    A mask keeps its tight box where a learned query made it, and where the query's box has no pixel
    in the image.

    Args:
        masks: instances.
        boxes: (F, 4) cx, cy, w, h in 0-1 across the crop, of the last F of the proposals.
        proposals: N, learned and foreground queries.
        crop: as of `postprocess`.
    """
    corners = to_pixels(boxes, crop.padded_size).tolist()
    first = proposals - len(corners)
    result = []
    for mask in masks:
        box = None
        if mask.proposal is not None and mask.proposal >= first:
            box = _in_image(corners[mask.proposal - first], crop)
        result.append(mask if box is None else replace(mask, region=replace(mask.region, box=box)))
    return result


def _in_image(corners: Corners, crop: Crop) -> Box | None:
    """Corners in the crop as a box in the image, clipped; None where it is below a pixel."""
    height, width = crop.image_size
    left, top, right, bottom = crop.to_source(corners)
    x0, x1 = (min(max(x, 0.0), width) for x in (left, right))
    y0, y1 = (min(max(y, 0.0), height) for y in (top, bottom))
    if x1 - x0 < 1 or y1 - y0 < 1:
        return None
    return x0, y0, x1 - x0, y1 - y0
