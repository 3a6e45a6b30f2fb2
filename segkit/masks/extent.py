"""The box around a dense mask."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.sample import Box


def extent(mask: NDArray[Any]) -> Box:
    """x, y, width and height of the tight box of a (H, W) mask, in pixels; zeros where the mask is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    x, y = int(columns[0]), int(rows[0])
    return float(x), float(y), float(int(columns[-1]) + 1 - x), float(int(rows[-1]) + 1 - y)
