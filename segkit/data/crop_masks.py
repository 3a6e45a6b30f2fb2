"""Decode run lengths to the mask of a crop, one segment at a time.

No dense (N, H, W) stack of full-size masks ever exists: only the columns that both the crop and the
mask reach are decoded, sampled at the centers of the crop's pixels and discarded.
"""

import cv2
import numpy as np

from segkit.data.augment import Crop
from segkit.masks.boxes import Corners, Mask
from segkit.masks.run_lengths import Ints


def crop_mask(runs: Ints, height: int, width: int, crop: Crop) -> Mask:
    """The crop of a mask, by nearest pixel; False in the padding.

    Args:
        runs: run lengths over (height, width), from `segkit.masks.run_lengths.decode_counts`.

    Returns:
        (padded height, padded width).

    Raises:
        ValueError: the run lengths do not fill height x width.
    """
    mask = np.zeros(crop.padded_size, bool)
    ends = np.cumsum(runs)
    if (ends[-1] if ends.size else 0) != height * width:
        raise ValueError(f"an RLE that does not fill {width} x {height} pixels")
    if len(ends) < 2:
        return mask
    columns = crop.columns()
    # the columns that both the crop and the mask (first run of ones to the last) reach
    low, high = sorted((int(columns[0]), int(columns[-1])))
    low = max(int(ends[0]) // height, low)
    high = min((int(ends[len(ends) // 2 * 2 - 1]) - 1) // height, high)
    reached = np.flatnonzero((columns >= low) & (columns <= high))
    if not reached.size:
        return mask
    strip = _decode_pixels(ends, low * height, (high + 1) * height)
    strip = strip.reshape(-1, height)  # (high - low + 1, H)
    content = strip[columns[reached] - low].take(crop.rows(), axis=1)  # (reached, content height)
    rows, _ = crop.content_slices()
    left = crop.content[0] + int(reached[0])
    # OpenCV transposes ten times faster than numpy, which would take most of a large crop's time
    transposed = cv2.transpose(content.view(np.uint8)).view(np.bool_)
    mask[rows, left : left + reached.size] = transposed
    return mask


def _decode_pixels(ends: Ints, start: int, stop: int) -> Mask:
    """Pixels start..stop of the runs that end at `ends`; the first run is of zeros."""
    low, high = np.searchsorted(ends, (start, stop - 1), side="right")
    bounds = np.clip(np.concatenate(([start], ends[low : high + 1])), start, stop)
    return np.repeat(np.arange(low, high + 1) % 2 == 1, np.diff(bounds))


def fill_box(corners: Corners, crop: Crop) -> Mask:
    """The pixels of a crop whose centers are inside a box, which is clipped to the content.

    Returns:
        (padded height, padded width).
    """
    mask = np.zeros(crop.padded_size, bool)
    x0, y0, x1, y1 = np.ceil(np.asarray(crop.clip(corners)) - 0.5).astype(int)
    mask[y0:y1, x0:x1] = True
    return mask
