"""Places for class names in a picture: on their segments and never over each other."""

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Corner = tuple[int, int]
"""x and y of the top left corner, in pixels."""
MARGIN = 2
"""Pixels around a name: the width of its dark stroke."""


class LabelPlacement:
    """Chooses places for names one after the other; each keeps clear of those before.

    Attributes:
        shape: height and width of the picture in pixels.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._rectangles: list[tuple[int, int, int, int]] = []

    def on_mask(self, visible: Mask, size: tuple[int, int]) -> Corner | None:
        """Place a name where its segment is widest.

        Args:
            visible: (H, W) the segment's pixels that no other segment covers.
            size: width and height of the name.

        Returns:
            The corner; None if the segment is too small or every place is taken.
        """
        import cv2

        wide, tall = size
        if visible.sum() < 0.8 * wide * tall:
            return None
        depth = cv2.distanceTransform(np.pad(visible, 1).astype(np.uint8), cv2.DIST_L2, 3)
        depth = np.where(self._centers(size), depth[1:-1, 1:-1], 0)
        if float(depth.max(initial=0)) < 0.55 * tall:
            return None
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        return self._keep((int(x) - wide // 2, int(y) - tall // 2), size)

    def at_box(
        self, box: tuple[float, float, float, float], size: tuple[int, int]
    ) -> Corner | None:
        """Place a name at a corner of a frame: inside at the top, above, or inside at the bottom.

        Args:
            box: x, y, width, height of the frame in pixels.
            size: width and height of the name.

        Returns:
            The corner; None if every place is taken.
        """
        wide, tall = size
        left, right = round(box[0]) + 3, round(box[0] + box[2]) - wide - 3
        top, bottom = round(box[1]) + 1, round(box[1] + box[3]) - tall - 3
        above, below = round(box[1]) - tall - 3, round(box[1] + box[3]) + 3
        places = [(left, top), (left, above), (right, top), (left, bottom), (left, below)]
        for x, y in places:
            corner = self._inside((x, y), size)
            if corner is not None and not self._collides(corner, size):
                return self._keep(corner, size)
        return None

    def _inside(self, corner: Corner, size: tuple[int, int]) -> Corner | None:
        """The corner moved so that the name is in the picture; None if the picture is too small."""
        height, width = self.shape
        right, bottom = width - size[0] - MARGIN, height - size[1] - MARGIN
        if right < MARGIN or bottom < MARGIN:
            return None
        return min(max(corner[0], MARGIN), right), min(max(corner[1], MARGIN), bottom)

    def _collides(self, corner: Corner, size: tuple[int, int]) -> bool:
        left, top = corner[0] - MARGIN, corner[1] - MARGIN
        right, bottom = corner[0] + size[0] + MARGIN, corner[1] + size[1] + MARGIN
        return any(
            left < other_right and other_left < right and top < other_bottom and other_top < bottom
            for other_left, other_top, other_right, other_bottom in self._rectangles
        )

    def _centers(self, size: tuple[int, int]) -> Mask:
        """(H, W) where the center of a name may be: in the picture, and clear of other names."""
        (height, width), (wide, tall) = self.shape, size
        x, y = wide // 2, tall // 2
        free = np.zeros(self.shape, bool)
        if height < tall + 2 * MARGIN or width < wide + 2 * MARGIN:
            return free
        bottom, right = height - tall - MARGIN + 1, width - wide - MARGIN + 1
        free[MARGIN + y : bottom + y, MARGIN + x : right + x] = True
        for left, top, right, bottom in self._rectangles:
            rows = slice(max(top - tall - MARGIN + 1 + y, 0), max(bottom + MARGIN + y, 0))
            columns = slice(max(left - wide - MARGIN + 1 + x, 0), max(right + MARGIN + x, 0))
            free[rows, columns] = False
        return free

    def _keep(self, corner: Corner, size: tuple[int, int]) -> Corner:
        left, top = corner
        right, bottom = left + size[0], top + size[1]
        self._rectangles.append((left - MARGIN, top - MARGIN, right + MARGIN, bottom + MARGIN))
        return corner
