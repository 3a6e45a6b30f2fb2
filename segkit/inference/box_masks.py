"""Box prompts of an image, and the masks that a teacher answers. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.masks.boxes import Mask
from segkit.sample import Box


@dataclass(frozen=True)
class ImagePrompts:
    """The box prompts of one image."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    boxes: Sequence[Box]
    """(Q,) x, y, width, height in pixels."""
    labels: Sequence[int]
    """(Q,) index of each box's class in the taxonomy, or -1 where it is not known."""
    neighbors: Sequence[Box] = ()
    """Boxes of further objects in the image, which need no mask."""


@dataclass(frozen=True)
class BoxMask:
    """The mask for one box.

    Only the pixels at the box are stored, so that thousands fit in memory.
    """

    size: tuple[int, int]
    """Height and width of the image."""
    place: tuple[slice, slice]
    """Rows and columns of the image that hold the mask: those that the box touches, or a margin
    more."""
    inside: Mask
    """The mask at these pixels; may be empty."""
    score: float
    """0-1; of a calibrated run's box prompts, the IoU to expect."""
    class_index: int
    """Index of the class: that of the prompt or, without one, the model's own (-1 where there are
    no classes)."""
    raw_score: float | None = None
    """The score before calibration, where the score is the IoU to expect; else None."""

    @property
    def mask(self) -> Mask:
        """(H, W), False outside `place`."""
        full_mask = np.zeros(self.size, bool)
        full_mask[self.place] = self.inside
        return full_mask
