"""Resolve overlaps between the masks of an image's boxes, as panoptic labels need it."""

from collections.abc import Sequence
from dataclasses import replace

from segkit.inference.box_masks import BoxMask
from segkit.masks import rle
from segkit.masks.boxes import Mask
from segkit.sample import Sample


def resolve_overlaps(masks: Sequence[BoxMask | None], occupied: Mask) -> list[BoxMask | None]:
    """Give each pixel to one mask: to the smallest of those that contain it.

    A small object in front of a large one is common, the reverse rarely visible. Of masks of equal
    size, the first has the pixel.

    Args:
        masks: (Q,) masks of the boxes of one image, or None.
        occupied: (H, W) pixels that belong to none of them.

    Returns:
        (Q,) the masks without the pixels of others, perhaps empty; scores stay.
    """
    claimed = occupied.copy()
    resolved = list(masks)
    by_area = sorted(
        ((int(mask.inside.sum()), index, mask) for index, mask in enumerate(masks) if mask),
        key=lambda row: row[:2],
    )
    for _, index, mask in by_area:
        region = claimed[mask.place]  # a view
        resolved[index] = replace(mask, inside=mask.inside & ~region)
        region |= mask.inside
    return resolved


def occupied_pixels(sample: Sample) -> Mask:
    """(H, W) pixels of the masks that a sample has already, which keep them."""
    size = sample.height, sample.width
    known = [segment.mask for segment in sample.segments if segment.mask is not None]
    return rle.decode(rle.union(known, *size), *size)
