"""Outlines of the demo's things and the pixels that they cover."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Outline = NDArray[np.float64]
"""(P, 2) x, y of a closed polygon inside the unit circle."""
SUBPIXELS = 4
"""Sub-pixels per pixel side when measuring coverage."""


def _arc(radius: float, first: float, last: float, points: int = 48) -> Outline:
    """Return points on a circle about the origin, from angle `first` to `last` in degrees."""
    angles = np.radians(np.linspace(first, last, points))
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star() -> Outline:
    """Return a five-pointed star.

    It is plumper than a pentagram (0.42, not 0.382) to keep its arms when small.
    """
    radii = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    return radii[:, None] * _arc(1, 0, 324, 10)


def _cross() -> Outline:
    """Return a plus sign with arms 0.6 wide."""
    a, b = 0.3, 0.95
    quarter = np.array([(b, -a), (b, a), (a, a)])
    turn = np.array([[0, -1], [1, 0]])
    arms = [quarter]
    for _ in range(3):
        arms.append(arms[-1] @ turn.T)
    return np.concatenate(arms)


def _crescent() -> Outline:
    """Return the unit disc without a disc of radius 0.8 whose center is 0.5 to the right."""
    x = (1 + 0.5**2 - 0.8**2) / (2 * 0.5)  # where the two circles meet
    outer, inner = np.degrees(np.arccos(x)), np.degrees(np.arctan2(np.sqrt(1 - x * x), x - 0.5))
    bite = _arc(0.8, 360 - inner, inner) + np.array([0.5, 0])
    return np.concatenate([_arc(1, outer, 360 - outer), bite])


SHAPES: dict[str, Callable[[], tuple[Outline, ...]]] = {
    "circle": lambda: (_arc(1, 0, 360),),
    "square": lambda: (_arc(1, 0, 270, 4),),
    "triangle": lambda: (_arc(1, 0, 240, 3),),
    "star": lambda: (_star(),),
    "ring": lambda: (_arc(1, 0, 360), _arc(0.58, 0, 360)),
    "cross": lambda: (_cross(),),
    "crescent": lambda: (_crescent(),),
}
"""Outlines of each thing by its panoptic name; a second outline is a hole."""


def coverage(
    shape: str,
    center: NDArray[np.float64],
    radius: float,
    degrees: float,
    squeeze: float,
    size: int,
) -> NDArray[np.float32]:
    """Return the share of every pixel that a shape covers: (size, size) float32 in 0-1.

    Args:
        shape: a key of `SHAPES`.
        center: (2,) x, y in pixels.
        radius: radius of the circle around the shape, in pixels.
        degrees: rotation.
        squeeze: height divided by width before the rotation.
        size: pixels a side.
    """
    import cv2

    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[cos, -sin], [sin, cos]])
    outlines = [(outline * (1, squeeze)) @ turn.T * radius + center for outline in SHAPES[shape]()]
    fine = np.zeros((size * SUBPIXELS, size * SUBPIXELS), np.uint8)
    cv2.fillPoly(
        fine, [np.rint(outline * SUBPIXELS - 0.5).astype(np.int32) for outline in outlines], 1
    )
    return np.asarray(
        cv2.resize(fine.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA), np.float32
    )
