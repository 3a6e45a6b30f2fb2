"""The box around a dense mask, and the pixels of a box."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.sample import Box


def extent(mask: NDArray[Any]) -> Box:
    """x, y, width and height of the tight box of a (H, W) mask, in pixels; zeros where the mask is
    empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    x, y = int(columns[0]), int(rows[0])
    return float(x), float(y), float(int(columns[-1]) + 1 - x), float(int(rows[-1]) + 1 - y)


def pixels_of_box(box: Box, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the pixels that a box touches, within the image."""
    x0, y0 = max(0, int(np.floor(box[0]))), max(0, int(np.floor(box[1])))
    x1, y1 = min(width, int(np.ceil(box[0] + box[2]))), min(height, int(np.ceil(box[1] + box[3])))
    return slice(y0, max(y0, y1)), slice(x0, max(x0, x1))
