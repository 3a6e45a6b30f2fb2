"""Scenes of shapes whose classes are combinations of attributes, for `experiment_pading.py`.

A class is a shape, a color and a pattern, such as "red striped circle". Held out are combinations
of which every pair of attributes occurs among the seen classes: the color with the pattern on
another shape, and so on. A model that has learned the attributes, and a text encoder that names
them, have all they need.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.demo import shapes, textures
from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from segkit.taxonomy import Category, Taxonomy

SIZE = 64
"""Pixels a side."""
SHAPES = ("circle", "square", "triangle", "star")
COLORS = {"red": 0, "yellow": 55, "green": 125, "blue": 225}
"""Color -> hue in degrees."""
PATTERNS = ("plain", "striped")
GROUNDS = ("grass", "sand", "water", "sky")
THINGS = tuple(product(SHAPES, COLORS, PATTERNS))
TAXONOMY = Taxonomy(
    "compositions",
    (
        *(
            Category(number, f"{color} {pattern} {shape}", "thing")
            for number, (shape, color, pattern) in enumerate(THINGS, 1)
        ),
        *(Category(101 + number, name, "stuff") for number, name in enumerate(GROUNDS)),
    ),
)
UNSEEN = tuple(
    TAXONOMY.by_id[number].name
    for number, (shape, color, pattern) in enumerate(THINGS, 1)
    if list(COLORS).index(color) == (SHAPES.index(shape) + 2 * PATTERNS.index(pattern)) % 4
)
"""A quarter of the combinations: each shape, color and pattern loses the same number."""
MAX_THINGS = 3
MIN_VISIBLE = 0.6
"""Smallest visible share of a thing behind the things in front of it."""


def write_scenes(folder: Path, count: int, seed: int) -> ShardSet:
    """Publish `count` scenes as a panoptic set."""
    header = Header(
        name=folder.name,
        kind="panoptic",
        taxonomy=TAXONOMY,
        command="experiment",
        arguments={"count": count, "seed": seed},
    )
    return write_set(folder, (_record(seed, number) for number in range(count)), header)


def _record(seed: int, number: int) -> tuple[Sample, bytes]:
    picture, ids = paint_scene(seed, number)
    segments = tuple(_segments(ids))
    name = f"{number:06d}.png"
    sample = Sample(f"{number:06d}", name, SIZE, SIZE, segments)
    return sample, cv2.imencode(".png", picture[..., ::-1])[1].tobytes()


def _segments(ids: NDArray[np.int64]) -> Iterator[Segment]:
    """Segments of a map of 1000 * place + class id."""
    for value, region in rle.regions(ids).items():
        category = TAXONOMY.by_id[value % 1000]
        mask_from = "human"  # of the ground truth
        yield Segment(
            category.id,
            category.kind,
            region.box,
            region.counts,
            float(region.area),
            mask_from=mask_from,
        )


def paint_scene(seed: int, number: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A picture (SIZE, SIZE, 3) RGB, and 1000 * place + class id of each pixel."""
    rng = np.random.default_rng((seed, number))
    ground = int(rng.integers(len(GROUNDS)))
    canvas = 0.85 * textures.STUFF[GROUNDS[ground]](rng, SIZE, SIZE)
    ids = np.full((SIZE, SIZE), 101 + ground, np.int64)
    areas: dict[int, int] = {}
    for place in range(1, int(rng.integers(2, MAX_THINGS + 1)) + 1):
        chosen = int(rng.integers(len(THINGS)))
        shape, color, pattern = THINGS[chosen]
        alpha = _place(rng, shape, ids, areas)
        if alpha is None:
            continue
        surface = _surface(rng, COLORS[color], pattern)
        canvas += alpha[..., None] * (surface - canvas)
        value, covered = 1000 * place + chosen + 1, alpha >= 0.5
        ids[covered] = value
        areas[value] = int(covered.sum())
    return np.asarray(np.clip(canvas, 0, 1) * 255 + 0.5, np.uint8), ids


def _place(
    rng: np.random.Generator, shape: str, ids: NDArray[np.int64], areas: dict[int, int]
) -> NDArray[np.float32] | None:
    """Alpha of a shape that leaves enough of every earlier thing visible; None without a place."""
    for _ in range(12):
        radius, center = SIZE * rng.uniform(0.19, 0.3), rng.uniform(0.18, 0.82, 2) * SIZE
        alpha = shapes.coverage(shape, center, radius, rng.uniform(0, 360), 1.0, SIZE)
        left = ids[alpha < 0.5]
        if all(int((left == value).sum()) >= MIN_VISIBLE * area for value, area in areas.items()):
            return alpha
    return None


def _surface(rng: np.random.Generator, hue: float, pattern: str) -> NDArray[np.float32]:
    """(SIZE, SIZE, 3): one tone, or stripes of a light and a dark tone."""
    saturation, value = rng.uniform(0.75, 1.0), rng.uniform(0.7, 1.0)
    degrees = (hue + rng.normal(0, 5)) % 360
    hsv = np.asarray([[[degrees, saturation, value]]], np.float32)
    color = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]
    shade = 1 + 0.05 * textures.noise(rng, SIZE, SIZE, (6, 6))
    if pattern == "striped":
        angle, period = rng.uniform(0, np.pi), rng.uniform(5, 8)
        y, x = np.mgrid[:SIZE, :SIZE]
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period))
        shade = shade * np.where(wave > 0, 1.0, 0.35)
    return np.asarray(color * shade[..., None], np.float32)
