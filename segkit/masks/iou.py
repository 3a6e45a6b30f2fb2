"""Intersection over union of boxes and of masks, and the pixels that run lengths share."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.masks.run_lengths import Ints, Runs
from segkit.sample import Box

Floats = NDArray[np.float64]


def box_iou(first: Sequence[Box], second: Sequence[Box]) -> Floats:
    """(N, M) IoU, 0-1, of all pairs of boxes (x, y, width, height); 0 where both have no area."""
    x0, y0, w0, h0 = np.array(first, np.float64).reshape(-1, 4).T[:, :, None]  # (N, 1) each
    x1, y1, w1, h1 = np.array(second, np.float64).reshape(-1, 4).T[:, None]  # (1, M) each
    across = np.minimum(x0 + w0, x1 + w1) - np.maximum(x0, x1)  # (N, M)
    down = np.minimum(y0 + h0, y1 + h1) - np.maximum(y0, y1)
    common = np.maximum(across, 0.0) * np.maximum(down, 0.0)
    union = w0 * h0 + w1 * h1 - common
    iou: Floats = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return iou


def mask_iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """IoU of two (H, W) masks, 0-1; 0 where both are empty."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 0.0


def mask_iou_of_pairs(first: Runs, second: Runs) -> Floats:
    """(S,) IoU, 0-1, of mask k of `first` with mask k of `second`; 0 where both are empty.

    Args:
        first: runs of S masks, each counted from pixel 0.
        second: runs of S masks of the same sizes.
    """
    # mask k moves to a stretch of pixels of its own, so that one sweep compares all pairs
    size = int(first.total.max(initial=0))
    ours, _, pixels = intersect(_spread(first, size), _spread(second, size))
    masks = len(first.total)
    common = np.bincount(first.mask[ours], weights=pixels, minlength=masks).astype(np.int64)
    return np.asarray(common / np.maximum(first.area + second.area - common, 1), np.float64)


def coco_iou(
    detections: Sequence[Any], objects: Sequence[Any], crowd: Sequence[bool | int]
) -> Floats:
    """(D, G) IoU, 0-1, as pycocotools computes it.

    Args:
        detections: D boxes [x, y, width, height], or D masks {"size": [H, W], "counts": bytes}.
        objects: G boxes or masks.
        crowd: (G,) whether an object is a crowd: its value is the share of the detection inside it.
    """
    from pycocotools import mask as coco

    if not len(detections) or not len(objects):
        return np.zeros((len(detections), len(objects)))
    iou = coco.iou(list(detections), list(objects), [int(flag) for flag in crowd])
    return np.asarray(iou, np.float64)


def intersect(first: Runs, second: Runs) -> tuple[Ints, Ints, Ints]:
    """Where runs of two sides meet, from one sweep over the starts of all runs.

    Args:
        first: runs in pixel order that do not overlap each other.
        second: runs in pixel order that do not overlap each other.

    Returns:
        For each stretch from one start to the next: the index of the run of `first` and of the run
        of `second` that began last, and the pixels in which both are; 0 where one has ended before.
    """
    if not len(first.start) or not len(second.start):
        return (np.zeros(0, np.int64),) * 3
    keys = first.start << 1, second.start << 1 | 1
    starts = np.concatenate(keys)
    starts.sort(kind="stable")  # merges the two sorted halves
    lead = max(int(np.searchsorted(starts, key[0])) for key in keys)  # one side has not begun yet
    theirs = np.cumsum(starts & 1)[lead:]
    theirs -= 1
    # of i + 1 runs that have begun, theirs + 1 are of `second`
    ours = np.arange(lead - 1, len(starts) - 1) - theirs
    start = starts[lead:]
    start >>= 1
    pixels = np.minimum(first.end[ours], second.end[theirs])
    np.minimum(pixels[:-1], start[1:], out=pixels[:-1])
    pixels -= start
    return ours, theirs, np.maximum(pixels, 0, out=pixels)


def _spread(runs: Runs, size: int) -> Runs:
    """The runs with mask k moved by k x `size` pixels."""
    shift = runs.mask * size
    return replace(runs, start=runs.start + shift, end=runs.end + shift)
