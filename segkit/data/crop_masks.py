"""From run lengths to the mask of a crop, one segment at a time.

No dense (N, H, W) stack of full-size masks ever exists: only the columns of the crop that a mask
reaches are unrolled, sampled at the centers of the crop's pixels and forgotten.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.data.augment import Crop, Rectangle
from segkit.masks.run_lengths import Ints

Mask = NDArray[np.bool_]


def crop_mask(runs: Ints, height: int, width: int, crop: Crop) -> Mask:
    """The crop (canvas height, canvas width) of run lengths over (height, width), by nearest pixel;
    padding is False.

    Args:
        runs: as `segkit.masks.run_lengths.decode_counts` gives them.

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
    # the columns that both the mask (from its first run of ones to its last) and the crop reach
    low, high = sorted((int(columns[0]), int(columns[-1])))
    low = max(int(ends[0]) // height, low)
    high = min((int(ends[len(ends) // 2 * 2 - 1]) - 1) // height, high)
    reached = np.flatnonzero((columns >= low) & (columns <= high))
    if not reached.size:
        return mask
    strip = _unroll(ends, low * height, (high + 1) * height).reshape(-1, height)
    content = strip[columns[reached] - low].take(crop.rows(), axis=1)
    left = crop.content[0] + int(reached[0])
    # numpy turns a mask on its side ten times slower, which would be most of what a large crop
    # costs
    mask[crop.inside()[0], left : left + reached.size] = cv2.transpose(content.view(np.uint8)).view(
        np.bool_
    )
    return mask


def _unroll(ends: NDArray[np.int64], start: int, stop: int) -> Mask:
    """Pixels start..stop of the runs that end at `ends` (zeros first)."""
    low, high = np.searchsorted(ends, (start, stop - 1), side="right")
    bounds = np.clip(np.concatenate(([start], ends[low : high + 1])), start, stop)
    return np.repeat(np.arange(low, high + 1) % 2 == 1, np.diff(bounds))


def fill_box(rectangle: Rectangle, crop: Crop) -> Mask:
    """The pixels of the canvas whose centers lie in x0, y0, x1, y1 (which is clipped to the
    patch)."""
    mask = np.zeros(crop.padded_size, bool)
    x0, y0, x1, y1 = np.ceil(np.asarray(crop.clip(rectangle)) - 0.5).astype(int)
    mask[y0:y1, x0:x1] = True
    return mask
