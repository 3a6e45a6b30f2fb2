"""Places for class names in a picture: on their segments and never over each other."""

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Corner = tuple[int, int]
"""x and y of the top left corner, in pixels."""
MARGIN = 2
"""Pixels around a name: the width of its dark stroke."""

COLUMN_STEP = 64
"""OpenCV sums distances in blocks of columns, each block with its rounding errors: a part of a
picture that begins at a multiple of these pixels has exactly the distances of the picture."""


class LabelPlacement:
    """Chooses places for names one after the other; each keeps clear of those before.

    Attributes:
        shape: height and width of the picture in pixels.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._rectangles: list[tuple[int, int, int, int]] = []

    def on_mask(
        self, visible: Mask, size: tuple[int, int], corner: Corner = (0, 0)
    ) -> Corner | None:
        """Place a name where its segment is widest.

        Args:
            visible: (h, w) the segment's pixels that no other segment covers, in a part of the
                picture that holds them all.
            size: width and height of the name.
            corner: of that part in the picture; its x is a multiple of `COLUMN_STEP`.

        Returns:
            The corner; None if the segment is too small or every place is taken.
        """
        import cv2

        wide, tall = size
        if visible.sum() < 0.8 * wide * tall:
            return None
        depth = cv2.distanceTransform(np.pad(visible, 1).astype(np.uint8), cv2.DIST_L2, 3)
        free = self._centers(size, corner, visible.shape)
        depth = np.where(free, depth[1:-1, 1:-1], 0)
        if float(depth.max(initial=0)) < 0.55 * tall:
            return None
        y, x = divmod(int(depth.argmax()), depth.shape[1])
        return self._keep((corner[0] + x - wide // 2, corner[1] + y - tall // 2), size)

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

    def _centers(self, size: tuple[int, int], corner: Corner, part: tuple[int, ...]) -> Mask:
        """(h, w) where the center of a name may be: in the picture, and clear of other names.

        Args:
            size: width and height of the name.
            corner: of the part of the picture that is asked for.
            part: height and width of that part.
        """
        (height, width), (wide, tall) = self.shape, size
        x, y = wide // 2 - corner[0], tall // 2 - corner[1]
        free = np.zeros(part, bool)
        if height < tall + 2 * MARGIN or width < wide + 2 * MARGIN:
            return free

        def fill(left: int, top: int, right: int, bottom: int, value: bool) -> None:
            rows = slice(max(top + y, 0), max(bottom + y, 0))
            free[rows, max(left + x, 0) : max(right + x, 0)] = value

        fill(MARGIN, MARGIN, width - wide - MARGIN + 1, height - tall - MARGIN + 1, True)
        for left, top, right, bottom in self._rectangles:
            first = left - wide - MARGIN + 1, top - tall - MARGIN + 1
            fill(*first, right + MARGIN, bottom + MARGIN, False)
        return free

    def _keep(self, corner: Corner, size: tuple[int, int]) -> Corner:
        left, top = corner
        right, bottom = left + size[0], top + size[1]
        self._rectangles.append((left - MARGIN, top - MARGIN, right + MARGIN, bottom + MARGIN))
        return corner
