"""Pixels that the segments of two label maps share, computed from run lengths without painting."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from segkit.errors import InputError
from segkit.masks.iou import intersect
from segkit.masks.run_lengths import Ints, Runs
from segkit.metrics.regions import Regions
from segkit.metrics.sides import GROUND_TRUTH, PREDICTIONS, Side, size_mismatch


@dataclass(frozen=True)
class Overlap:
    """Where two sets of segments meet; pixels in no segment are void."""

    truth: Ints
    prediction: Ints
    """(P,) segment indices of each pair with at least one common pixel, ascending."""
    pixels: Ints
    """(P,) common pixels."""
    truth_area: Ints
    prediction_area: Ints
    """(S,) pixels of each segment."""


@lru_cache(maxsize=1)
def overlap(truth: Regions, prediction: Regions) -> Overlap:
    """Common pixels of all pairs of segments of the same images.

    The last result is kept, because several metrics ask for that of the same batch.

    Raises:
        InputError: segments of one image overlap each other, on either side; or the sides differ in
            an image's size.
    """
    _check_sizes(truth, prediction)
    first = _in_pixel_order(truth, GROUND_TRUTH)
    second = _in_pixel_order(prediction, PREDICTIONS)
    row, column = _pair_numbers(truth, prediction)
    true_run, predicted_run, pixels = intersect(first, second)
    pair = row[first.mask][true_run]
    pair += column[second.mask][predicted_run]
    shared = np.bincount(pair, weights=pixels).astype(np.int64)
    meeting = np.flatnonzero(shared)
    a = np.searchsorted(row, meeting, side="right") - 1
    b = meeting - row[a] + _first_of_image(prediction)[truth.image[a]]
    return Overlap(a, b, shared[meeting], first.area, second.area)


def _check_sizes(truth: Regions, prediction: Regions) -> None:
    wrong = np.flatnonzero((truth.height != prediction.height) | (truth.width != prediction.width))
    if len(wrong):
        i = int(wrong[0])
        sizes = [f"{side.width[i]} x {side.height[i]}" for side in (prediction, truth)]
        raise size_mismatch(truth.ids[i], *sizes)


def _in_pixel_order(regions: Regions, source: Side) -> Runs:
    """The runs of all segments sorted by pixel; segments of an image must not overlap."""
    runs = regions.decode(source)
    bits = max(len(runs.start).bit_length(), 1)
    # Sorting packed keys is several times faster than argsort, which cannot use vector
    # instructions.
    key = np.sort((runs.start << bits) | np.arange(len(runs.start)))
    order = key & ((1 << bits) - 1)
    start, end, mask = key >> bits, runs.end[order], runs.mask[order]
    clash = np.flatnonzero(start[1:] < end[:-1])
    if len(clash):
        raise _overlapping(regions, mask, clash, source)
    return replace(runs, start=start, end=end, mask=mask)


def _overlapping(regions: Regions, mask: Ints, clash: Ints, source: Side) -> InputError:
    images = sorted({regions.ids[regions.image[mask[place]]] for place in clash})
    place = clash[0]
    pair = f"{regions.name(int(mask[place]))} and {regions.name(int(mask[place + 1]))} overlap"
    more = f" (images: {', '.join(images[:5])}{', ...' if len(images) > 5 else ''})"
    hint = (
        "panoptic and semantic maps give each pixel to one segment; "
        "evaluate overlapping masks as instances"
    )
    return InputError(pair + more, file=source, hint=hint)


def _pair_numbers(truth: Regions, prediction: Regions) -> tuple[Ints, Ints]:
    """Rows (T + 1,) and columns (P,) that number the pairs of segments of the same image.

    The sum of a row and a column is a dense number.
    """
    width = np.bincount(prediction.image, minlength=len(truth.ids))
    row = np.concatenate(([0], np.cumsum(width[truth.image])))
    return row, np.arange(len(prediction)) - _first_of_image(prediction)[prediction.image]


def _first_of_image(regions: Regions) -> Ints:
    """(I + 1,) index of each image's first segment."""
    return np.concatenate(([0], np.cumsum(np.bincount(regions.image, minlength=len(regions.ids)))))
