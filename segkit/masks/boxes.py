"""Tight boxes of masks, and the pixels, corners and simple masks of a box."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.masks.run_lengths import Ints, Runs
from segkit.sample import Box

Mask = NDArray[np.bool_]
MARGIN = 0.05
"""Margin around a box, as a share of its width and height, to which masks for the box are clipped:
annotated boxes are rarely exact, and SAM's masks may leave their boxes altogether."""
MIN_MARGIN = 1.0
"""Pixels of that margin, at least."""
AREAS = {
    "all": (0, 1e5**2),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e5**2),
}
"""COCO's size classes, in pixels of area. COCO's AP counts an area at a bound in both classes,
`in_size` in the larger one only."""
Corners = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels, the far edges included."""


def in_size(areas: NDArray[np.float64], size: str) -> NDArray[np.bool_]:
    """(N,) whether areas (N,) in pixels are of a size of `AREAS`, its upper bound excluded."""
    low, high = AREAS[size]
    return (areas >= low) & (areas < high)


def tight_box(mask: NDArray[Any]) -> Box:
    """The tight box (x, y, width, height) of a (H, W) mask in pixels; zeros where it is empty."""
    return box_of_projections(np.asarray(mask.any(axis=1)), np.asarray(mask.any(axis=0)))


def tightness(mask: Mask) -> float:
    """IoU of the tight box of a mask (h, w) with the full array; 1 where it touches all sides."""
    _, _, width, height = tight_box(mask)
    return width * height / mask.size


def box_of_projections(rows: NDArray[Any], columns: NDArray[Any]) -> Box:
    """The tight box of a mask that has pixels in these of its rows (H,) and columns (W,)."""
    across, down = np.flatnonzero(columns), np.flatnonzero(rows)
    if not len(down):
        return 0.0, 0.0, 0.0, 0.0
    x, y = int(across[0]), int(down[0])
    return float(x), float(y), float(int(across[-1]) + 1 - x), float(int(down[-1]) + 1 - y)


def boxes_of_runs(start: Ints, end: Ints, first: NDArray[np.integer[Any]], height: int) -> Ints:
    """Tight boxes of groups of run lengths.

    Args:
        start: (R,) first column-major pixel of each run, group after group.
        end: (R,) one past each run's last pixel; no run is empty.
        first: (G,) index of each group's first run; no group is empty.
        height: of the image, pixels.

    Returns:
        (G, 4) x, y, width, height.
    """
    last = end - 1
    left, right = start // height, last // height
    top, bottom = start - left * height, last - right * height  # faster than %
    # a run over several columns has a pixel in the bottom row and in the top row
    wraps = left < right
    x = np.minimum.reduceat(left, first)
    y = np.minimum.reduceat(np.where(wraps, 0, top), first)
    width = np.maximum.reduceat(right, first) - x + 1
    bottom_row = np.maximum.reduceat(np.where(wraps, height - 1, bottom), first)
    return np.stack((x, y, width, bottom_row - y + 1), axis=1)


def tight_boxes(runs: Runs, height: int) -> list[Box]:
    """(S,) tight boxes of masks of images of this height in pixels; zeros where a mask is empty."""
    boxes = np.zeros((len(runs.total), 4))
    if len(runs.mask):
        first = np.flatnonzero(np.diff(runs.mask, prepend=-1))
        boxes[runs.mask[first]] = boxes_of_runs(runs.start, runs.end, first, height)
    return [(x, y, w, h) for x, y, w, h in boxes.tolist()]


def corners(box: Box) -> Corners:
    """x0, y0, x1, y1 of a box (x, y, width, height)."""
    x, y, width, height = box
    return x, y, x + width, y + height


def with_margin(box: Box) -> Box:
    """A box (x, y, width, height) enlarged on each side by `MARGIN`, `MIN_MARGIN` at least."""
    x, y, width, height = box
    across, down = max(MARGIN * width, MIN_MARGIN), max(MARGIN * height, MIN_MARGIN)
    return x - across, y - down, width + 2 * across, height + 2 * down


def pixels_of_box(box: Box, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the pixels that a box touches, within the image."""
    x0, y0, x1, y1 = corners(box)
    left, top = max(0, int(np.floor(x0))), max(0, int(np.floor(y0)))
    right, bottom = min(width, int(np.ceil(x1))), min(height, int(np.ceil(y1)))
    return slice(top, max(top, bottom)), slice(left, max(left, right))


def clip_box(box: Box, height: int, width: int) -> Box:
    """The part of a box within the image; of a box beside it, an edge of the closest pixels."""
    x, y, w, h = box
    left, clipped_width = _clip_side(x, w, width)
    top, clipped_height = _clip_side(y, h, height)
    return left, top, clipped_width, clipped_height


def _clip_side(start: float, length: float, limit: int) -> tuple[float, float]:
    """Start and length of the part within 0 to `limit`; a side within it stays exactly as it is."""
    end = start + length
    if start >= 0 and end <= limit:
        return start, length
    first, last = min(max(start, 0.0), limit), min(max(end, 0.0), limit)
    return (first, last - first) if last > first else (min(first, limit - 1.0), 1.0)


def touches_image(box: Box, height: int, width: int) -> bool:
    """Whether a box touches a pixel of the image."""
    rows, columns = pixels_of_box(box, height, width)
    return bool(rows.start < rows.stop and columns.start < columns.stop)


def filled_box(box: Box, height: int, width: int) -> Mask:
    """(H, W) mask of every pixel that the box (x, y, width, height) touches."""
    mask = np.zeros((height, width), bool)
    mask[pixels_of_box(box, height, width)] = True
    return mask


def inscribed_ellipse(box: Box, height: int, width: int) -> Mask:
    """(H, W) mask of the ellipse in a box (x, y, width, height), to within a pixel.

    OpenCV draws it from its center and half axes without their fractions, so it may reach a pixel
    beyond the box. The baseline of the stand-in's notes (mean IoU 0.636) is drawn in this way; an
    ellipse that is exact at the centers of pixels has 0.643 there.
    """
    import cv2

    x, y, w, h = box
    canvas = np.zeros((height, width), np.uint8)
    center = int(x + w / 2), int(y + h / 2)
    axes = int(w / 2), int(h / 2)
    cv2.ellipse(canvas, center, axes, 0, 0, 360, 1, -1)
    return canvas.astype(bool)
