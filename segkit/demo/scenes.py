"""Paint scenes from a seed: textured ground and sky (stuff) behind overlapping shapes (things)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.demo import shapes, textures
from segkit.sample import Kind

SIZE = 128
"""Pixels a side: the smallest size at which a stride-4 mask has enough pixels to tell the shapes
apart."""
MAX_THINGS = 5
MIN_VISIBLE = 0.45
"""Smallest visible share of a thing behind the things in front of it."""


@dataclass(frozen=True, slots=True)
class SceneClass:
    """A class of the scenes, with its name in each of the three data sets."""

    id: int
    kind: Kind
    panoptic: str
    """Name in the COCO panoptic set."""
    semantic: str
    """Name in the ADE-like set; synonyms are separated by semicolons, as in ADE20K's own table."""
    boxes: str | None
    """Name in the Objects365-like set; None for stuff, which has no boxes."""


CLASSES = (
    SceneClass(1, "thing", "circle", "circle", "Disc"),
    SceneClass(2, "thing", "square", "square", "Square Block"),
    SceneClass(3, "thing", "triangle", "triangle", "Triangular Shape"),
    SceneClass(4, "thing", "star", "star", "Five-pointed Star"),
    SceneClass(5, "thing", "ring", "ring;hoop", "Hoop"),
    SceneClass(6, "thing", "cross", "cross", "Cross Sign"),
    SceneClass(7, "thing", "crescent", "crescent;crescent moon", "Crescent Moon"),
    SceneClass(8, "stuff", "sky", "sky;blue sky", None),
    SceneClass(9, "stuff", "grass", "lawn;grass", None),
    SceneClass(10, "stuff", "water", "pond;water", None),
    SceneClass(11, "stuff", "sand", "sand;beach", None),
    SceneClass(12, "stuff", "brick wall", "brickwork;brick wall", None),
)
"""All classes; the package contains a text embedding of every name here."""
THINGS = tuple(entry for entry in CLASSES if entry.kind == "thing")
STUFF = tuple(entry for entry in CLASSES if entry.kind == "stuff")


def names() -> tuple[str, ...]:
    """List every name and synonym once, in lower case."""
    words = {
        word
        for entry in CLASSES
        for word in (entry.panoptic, *entry.semantic.split(";"), entry.boxes)
        if word
    }
    return tuple(sorted({word.lower() for word in words}))


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture and its true segments."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    ids: NDArray[np.int32]
    """(H, W) segment ids; no zeros, since every pixel belongs to a segment."""
    classes: dict[int, SceneClass]
    """Class of each segment id; one segment per stuff class and per thing."""


def make_scene(seed: int | tuple[int, ...], size: int = SIZE) -> Scene:
    """Paint the scene of a seed: two or three bands of stuff, then three to `MAX_THINGS` shapes."""
    rng = np.random.default_rng(seed)
    canvas, ids, classes = _paint_ground(rng, size)
    areas: dict[int, int] = {}
    for _ in range(int(rng.integers(3, MAX_THINGS + 1))):
        entry = THINGS[int(rng.integers(len(THINGS)))]
        alpha, radius = _place(rng, entry.panoptic, ids, areas)
        if alpha is None:
            continue
        number = len(STUFF) + 1 + len(areas)
        _paint_thing(rng, canvas, alpha, radius, hue(entry))
        covered = alpha >= 0.5
        ids[covered], areas[number], classes[number] = number, int(covered.sum()), entry
    image = np.asarray(np.clip(canvas, 0, 1) * 255 + 0.5, np.uint8)
    present = set(np.unique(ids).tolist())
    return Scene(
        image, ids, {number: entry for number, entry in classes.items() if number in present}
    )


def _paint_ground(
    rng: np.random.Generator, size: int
) -> tuple[textures.Picture, NDArray[np.int32], dict[int, SceneClass]]:
    """Split the picture by wavy borders into bands of different stuff.

    Returns:
        The canvas (H, W, 3) in 0-1, the segment ids (H, W), and the class of each id.
    """
    bands = int(rng.integers(2, 4))
    chosen = [STUFF[int(i)] for i in rng.permutation(len(STUFF))[:bands]]
    chosen.sort(key=lambda entry: entry.panoptic != "sky")
    angle = rng.normal(0, 0.35)
    y, x = np.mgrid[:size, :size] / size - 0.5
    height = y * np.cos(angle) + x * np.sin(angle) + 0.06 * textures.noise(rng, size, size, (3, 3))
    borders = np.linspace(-0.5, 0.5, bands + 1)[1:-1] + rng.uniform(-0.1, 0.1, bands - 1)
    band = np.searchsorted(borders, height)
    canvas = np.zeros((size, size, 3), np.float32)
    ids = np.zeros((size, size), np.int32)
    for index, entry in enumerate(chosen):
        region = band == index
        canvas[region] = textures.STUFF[entry.panoptic](rng, size, size)[region]
        ids[region] = 1 + index
    canvas *= rng.uniform(0.82, 1.12)
    return canvas, ids, {1 + index: entry for index, entry in enumerate(chosen)}


def _place(
    rng: np.random.Generator, shape: str, ids: NDArray[np.int32], areas: dict[int, int]
) -> tuple[NDArray[np.float32] | None, float]:
    """Find a place where a shape leaves enough of every earlier thing visible.

    Args:
        rng: source of positions, sizes and rotations.
        shape: a key of `shapes.SHAPES`.
        ids: (H, W) segment ids so far.
        areas: full area of each earlier thing.

    Returns:
        Alpha (H, W), or None without a place, and the radius in pixels.
    """
    size = ids.shape[0]
    for _ in range(12):
        radius = size * rng.uniform(0.13, 0.25)
        center = rng.uniform(0.12, 0.88, 2) * size
        alpha = shapes.coverage(
            shape, center, radius, rng.uniform(0, 360), rng.uniform(0.8, 1.0), size
        )
        left = ids[alpha < 0.5]
        if all(int((left == number).sum()) >= MIN_VISIBLE * area for number, area in areas.items()):
            return alpha, radius
    return None, 0.0


def hue(entry: SceneClass) -> float:
    """Return the usual hue of a class in degrees; the classes share the circle evenly."""
    return 360 * THINGS.index(entry) / len(THINGS)


def _paint_thing(
    rng: np.random.Generator,
    canvas: textures.Picture,
    alpha: NDArray[np.float32],
    radius: float,
    color: float,
) -> None:
    """Blend a lit, patterned surface into the canvas, with a soft shadow behind it."""
    import cv2

    size = canvas.shape[0]
    shadow = cv2.GaussianBlur(
        cv2.warpAffine(alpha, np.array([[1, 0, 2], [0, 1, 3]], np.float32), (size, size)),
        (0, 0),
        2.5,
    )
    canvas *= 1 - 0.4 * shadow[..., None]
    depth = cv2.distanceTransform((alpha >= 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    bevel = np.clip(depth / 3, 0, 1) * 0.3 + 0.75
    y, x = np.mgrid[:size, :size] / size
    light = 1 + 0.3 * (0.5 - (x + y) / 2) * size / (4 * radius)
    surface = textures.thing_surface(rng, size, size, color) * (bevel * light)[..., None]
    canvas += alpha[..., None] * (surface - canvas)
