"""Procedural surfaces of the demo scenes, which differ in structure as well as in color."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Rng = np.random.Generator
Picture = NDArray[np.float32]
"""(H, W, 3) RGB, 0-1 (a texture may leave the range slightly; painting clips)."""
Field = NDArray[np.float32]
"""(H, W), one value per pixel."""


def noise(rng: Rng, height: int, width: int, cells: tuple[int, int]) -> Field:
    """Generate smooth noise, about -1..1, from a grid of `cells` (rows, columns) random values."""
    import cv2

    grid = rng.uniform(-1, 1, (cells[0] + 2, cells[1] + 2)).astype(np.float32)
    return np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def tint(rng: Rng, red: float, green: float, blue: float) -> NDArray[np.float32]:
    """Vary a color slightly: (3,) float32."""
    return np.asarray(np.array([red, green, blue]) + rng.normal(0, 0.03, 3), np.float32)


def sky(rng: Rng, height: int, width: int) -> Picture:
    """Paint a gradient from deep to pale blue with soft clouds."""
    deep, pale = tint(rng, 0.33, 0.55, 0.88), tint(rng, 0.72, 0.86, 0.97)
    fall = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    clouds = noise(rng, height, width, (4, 3)) + 0.5 * noise(rng, height, width, (9, 6))
    cover = np.clip(clouds - 0.1, 0, 0.8)[..., None]
    return np.asarray((deep * (1 - fall) + pale * fall) * (1 - cover) + cover * 0.99, np.float32)


def grass(rng: Rng, height: int, width: int) -> Picture:
    """Paint green with fine upright blades."""
    blades = noise(rng, height, width, (height // 8, width // 2))
    blades += 0.6 * noise(rng, height, width, (height // 4, width))
    patches = noise(rng, height, width, (4, 4))
    shade = 1 + 0.24 * blades + 0.12 * patches
    return np.asarray(tint(rng, 0.33, 0.56, 0.2) * shade[..., None], np.float32)


def water(rng: Rng, height: int, width: int) -> Picture:
    """Paint teal with long level ripples and glints."""
    rows = np.arange(height, dtype=np.float32)[:, None]
    bend = noise(rng, height, width, (8, 3))
    ripples = np.sin(rows * rng.uniform(0.55, 0.8) + 2.6 * bend) + 0.5 * noise(
        rng, height, width, (height // 3, 5)
    )
    glints = np.clip(ripples - 0.75, 0, 1)
    return np.asarray(
        tint(rng, 0.1, 0.42, 0.52) * (1 + 0.2 * ripples[..., None]) + 0.5 * glints[..., None],
        np.float32,
    )


def sand(rng: Rng, height: int, width: int) -> Picture:
    """Paint pale ochre with grain in every pixel over wide dunes."""
    grain = rng.normal(0, 1, (height, width)).astype(np.float32)
    dunes = noise(rng, height, width, (6, 3))
    shade = 1 + 0.065 * grain + 0.09 * dunes
    return np.asarray(tint(rng, 0.85, 0.73, 0.5) * shade[..., None], np.float32)


def brick_wall(rng: Rng, height: int, width: int) -> Picture:
    """Paint courses of red bricks of different shades in pale mortar."""
    tall, joint = int(rng.integers(9, 13)), 2
    wide = 2 * tall
    y, x = np.mgrid[:height, :width]
    course = y // tall
    shifted = x + (course % 2) * (wide // 2) + int(rng.integers(wide))
    mortar = (y % tall < joint) | (shifted % wide < joint)
    shades = rng.uniform(0.76, 1.2, (height // tall + 1, width // wide + 3)).astype(np.float32)
    bricks = tint(rng, 0.63, 0.28, 0.2) * shades[course, shifted // wide][..., None]
    grain = 1 + 0.05 * rng.normal(0, 1, (height, width, 1)).astype(np.float32)
    return np.asarray(
        np.where(mortar[..., None], tint(rng, 0.78, 0.74, 0.68), bricks) * grain, np.float32
    )


STUFF: dict[str, Callable[[Rng, int, int], Picture]] = {
    "sky": sky,
    "grass": grass,
    "water": water,
    "sand": sand,
    "brick wall": brick_wall,
}
"""Surface of each stuff class, by its panoptic name."""


def _stripes(rng: Rng, height: int, width: int) -> Field:
    angle, period = rng.uniform(0, np.pi), rng.uniform(7, 13)
    y, x = np.mgrid[:height, :width]
    wave: Field = np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period))
    return np.clip(3 * wave, -1, 1)


def _checks(rng: Rng, height: int, width: int) -> Field:
    return np.asarray(_stripes(rng, height, width) * _stripes(rng, height, width), np.float32)


def _marble(rng: Rng, height: int, width: int) -> Field:
    return np.asarray(np.sin(5 * noise(rng, height, width, (6, 6))), np.float32)


def _speckle(rng: Rng, height: int, width: int) -> Field:
    return np.asarray(1.6 * noise(rng, height, width, (height // 3, width // 3)), np.float32)


def _plain(rng: Rng, height: int, width: int) -> Field:
    return np.asarray(0.4 * noise(rng, height, width, (3, 3)), np.float32)


_PATTERNS = (_plain, _stripes, _checks, _marble, _speckle)


HUE_SPREAD = 10.0
"""Standard deviation of a thing's hue around that of its class, in degrees."""
ODD_HUE = 0.1
"""Share of things whose hue is arbitrary."""


def thing_surface(rng: Rng, height: int, width: int, hue: float) -> Picture:
    """Paint a random pattern in two tones of a color near `hue` (degrees), sometimes of any hue.

    As with fruit or traffic signs, the color is a hint and the shape decides: a few minutes of
    training on a CPU from random weights are too short to learn from shapes only.
    """
    import cv2

    odd = rng.random() < ODD_HUE
    degrees = rng.uniform(0, 360) if odd else rng.normal(hue, HUE_SPREAD) % 360
    saturation, value = rng.uniform(0.55, 0.95), rng.uniform(0.6, 1.0)
    color = cv2.cvtColor(
        np.asarray([[[degrees, saturation, value]]], np.float32), cv2.COLOR_HSV2RGB
    )[0, 0]
    pattern = _PATTERNS[int(rng.integers(len(_PATTERNS)))](rng, height, width)
    return np.asarray(color * (1 + rng.uniform(0.12, 0.3) * pattern[..., None]), np.float32)
