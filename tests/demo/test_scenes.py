import math

import numpy as np
import pytest

from segkit.demo import shapes
from segkit.demo.scenes import CLASSES, MIN_VISIBLE, STUFF, THINGS, make_scene
from segkit.demo.textures import STUFF as SURFACES
from segkit.masks.boxes import tight_box


def _lens(r: float, s: float, d: float) -> float:
    """Area that two discs of radii r and s share at distance d (the textbook formula)."""
    a = (d * d + r * r - s * s) / (2 * d * r)
    b = (d * d + s * s - r * r) / (2 * d * s)
    kite = math.sqrt((-d + r + s) * (d + r - s) * (d - r + s) * (d + r + s)) / 2
    return r * r * math.acos(a) + s * s * math.acos(b) - kite


CLOSED_FORM = {
    "circle": math.pi,
    "square": 2.0,
    "triangle": 3 * math.sqrt(3) / 4,
    "star": 10 * 0.5 * 1.0 * 0.42 * math.sin(math.pi / 5),
    "ring": math.pi * (1 - 0.58**2),
    "cross": 4 * 0.6 * 0.65 + 0.6 * 0.6,
    "crescent": math.pi - _lens(1.0, 0.8, 0.5),
}


@pytest.mark.parametrize("shape", shapes.SHAPES)
@pytest.mark.parametrize("degrees", [0.0, 33.0, 200.0])
def test_a_shape_covers_its_closed_form_area(shape: str, degrees: float) -> None:
    radius, squeeze = 30.0, 0.9
    covered = shapes.coverage(shape, np.array([64.0, 64.0]), radius, degrees, squeeze, 128)
    assert covered.sum() == pytest.approx(CLOSED_FORM[shape] * radius**2 * squeeze, rel=0.03)


def test_a_rotation_by_a_half_turn_mirrors_the_shape() -> None:
    upright = shapes.coverage("crescent", np.array([64.0, 64.0]), 30, 20, 1, 128)
    turned = shapes.coverage("crescent", np.array([64.0, 64.0]), 30, 200, 1, 128)
    assert np.abs(upright[::-1, ::-1] - turned).mean() < 0.01


def test_every_class_can_be_painted() -> None:
    assert {entry.panoptic for entry in THINGS} == set(shapes.SHAPES)
    assert {entry.panoptic for entry in STUFF} == set(SURFACES)
    painted = {
        entry.id for number in range(30) for entry in make_scene((5, number)).classes.values()
    }
    assert painted == {entry.id for entry in CLASSES}


def test_the_seed_decides_the_scene() -> None:
    first, same, different = make_scene((1, 2)), make_scene((1, 2)), make_scene((1, 3))
    assert np.array_equal(first.image, same.image)
    assert np.array_equal(first.ids, same.ids)
    assert first.classes == same.classes
    assert not np.array_equal(first.image, different.image)


@pytest.mark.parametrize("number", range(12))
def test_segments_cover_the_picture_once_and_stay_visible(number: int) -> None:
    scene = make_scene((2, number), size=96)
    assert scene.image.shape == (96, 96, 3)
    assert set(np.unique(scene.ids).tolist()) == set(scene.classes)
    assert 0 not in scene.classes
    stuff = [entry.id for entry in scene.classes.values() if entry.kind == "stuff"]
    assert len(stuff) == len(set(stuff))
    smallest = CLOSED_FORM["crescent"] * (0.13 * 96) ** 2 * 0.8 * MIN_VISIBLE
    for segment, entry in scene.classes.items():
        if entry.kind == "thing":
            # At least a quarter of a thing at the corner is inside the picture.
            assert (scene.ids == segment).sum() > smallest / 4


def test_boxes_and_ellipses_are_poor_masks_of_the_things() -> None:
    filled, inscribed = [], []
    for number in range(60):
        scene = make_scene((3, number))
        y, x = np.mgrid[: scene.ids.shape[0], : scene.ids.shape[1]] + 0.5
        for segment in (s for s, entry in scene.classes.items() if entry.kind == "thing"):
            mask = scene.ids == segment
            left, top, width, height = tight_box(mask)
            filled.append(mask.sum() / (width * height))
            ellipse = ((x - left - width / 2) * 2 / width) ** 2 + (
                (y - top - height / 2) * 2 / height
            ) ** 2 <= 1
            inscribed.append((mask & ellipse).sum() / (mask | ellipse).sum())
    assert np.mean(filled) < 0.57
    assert np.mean(inscribed) < 0.65
