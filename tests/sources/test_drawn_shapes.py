"""Shapes beside their equations, and numbers that no person draws."""

import math

import numpy as np
import pytest

from segkit.masks import rle
from segkit.masks.boxes import tight_box
from segkit.sources import drawn_shapes
from segkit.sources.ledger import AnnotationError

WIDTH, HEIGHT = 60, 50


def mask_of(draw: drawn_shapes.Draw) -> np.ndarray:
    return rle.decode(draw(WIDTH, HEIGHT).mask or b"", HEIGHT, WIDTH)


@pytest.mark.parametrize("angle", [0, 30, 90, 137.5, -400])
def test_rotation_keeps_lengths_and_turns_clockwise(angle: float) -> None:
    center = (7.0, 3.0)
    (point,) = drawn_shapes.rotate([(17.0, 3.0)], center, angle)
    assert math.dist(point, center) == pytest.approx(10)
    turn = math.degrees(math.atan2(point[1] - 3, point[0] - 7))
    assert (turn - angle) % 360 == pytest.approx(0, abs=1e-9) or (
        turn - angle
    ) % 360 == pytest.approx(360)


@pytest.mark.parametrize("seed", range(10))
def test_ellipses_have_the_pixels_inside(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, a, b = rng.uniform((20, 20, 3, 3), (40, 30, 25, 25))
    angle = rng.uniform(0, 180)
    mask = mask_of(drawn_shapes.ellipse((x, y), a, b, angle))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    turn = math.radians(angle)
    u = (columns - x) * math.cos(turn) + (rows - y) * math.sin(turn)
    v = -(columns - x) * math.sin(turn) + (rows - y) * math.cos(turn)
    level = np.hypot(u / a, v / b)
    margin = 1 / min(a, b)  # a pixel
    assert mask[level < 1 - margin].all() and not mask[level > 1 + margin].any()


def test_a_rotated_box_lies_in_the_upright_one_and_touches_its_sides() -> None:
    drawing = drawn_shapes.turned_box((30, 25), 20, 8, 33)(WIDTH, HEIGHT)
    x, y, width, height = drawing.box
    turn = math.radians(33)
    assert width == pytest.approx(20 * math.cos(turn) + 8 * math.sin(turn))
    assert height == pytest.approx(20 * math.sin(turn) + 8 * math.cos(turn))
    assert (x + width / 2, y + height / 2) == pytest.approx((30, 25))
    assert (drawing.mask, drawing.warning) == (None, "rotated-box")
    assert drawn_shapes.turned_box((30, 25), 20, 8, 0)(WIDTH, HEIGHT).warning is None


@pytest.mark.parametrize("left", [-3, 0, 55, 70])
@pytest.mark.parametrize("top", [-3, 10, 48])
def test_crops_are_cut_at_the_edge(left: int, top: int) -> None:
    crop = np.random.default_rng(0).random((6, 9)) > 0.3
    whole = np.zeros((HEIGHT + 100, WIDTH + 100), bool)
    whole[50 + top : 56 + top, 50 + left : 59 + left] = crop
    expected = whole[50 : 50 + HEIGHT, 50 : 50 + WIDTH]
    draw = drawn_shapes.mask_crop(lambda: crop, (9, 6), left, top)
    if expected.any():
        assert draw(WIDTH, HEIGHT).mask == rle.encode(expected)
        assert draw(WIDTH, HEIGHT).box == tight_box(expected)
    else:
        with pytest.raises(AnnotationError, match="outside of the image"):
            draw(WIDTH, HEIGHT)


def test_crops_of_the_whole_height_have_the_runs_of_the_mask() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.02, 0.5, 0.98, 1.0):
        crop = rng.random((HEIGHT, 7)) < share
        crop[0, 0] = crop[:, 3] = crop[:, 4] = True
        expected = np.zeros((HEIGHT, WIDTH), bool)
        expected[:, 11:18] = crop
        draw = drawn_shapes.mask_crop(crop.copy, (7, HEIGHT), 11, 0)
        assert draw(WIDTH, HEIGHT).mask == rle.encode(expected)


def test_masks_larger_than_the_image_are_not_decoded() -> None:
    def decode() -> np.ndarray:
        raise AssertionError("decoded")

    for draw in (
        drawn_shapes.mask_crop(decode, (WIDTH + 1, 1), 0, 0),
        drawn_shapes.mask_crop(decode, (1, 10**5), 0, 0),
        drawn_shapes.full_mask(decode, (WIDTH, HEIGHT + 1)),
    ):
        with pytest.raises(AnnotationError, match="its image 60 x 50"):
            draw(WIDTH, HEIGHT)


@pytest.mark.parametrize("text", ["1", "-1.5", "+.5", "2.", "1e-3", " 7 ", "1E+2"])
def test_numbers(text: str) -> None:
    assert drawn_shapes.number(text) == float(text)


@pytest.mark.parametrize(
    "text", [None, "", "nan", "inf", "1_0", "0x1", "1,5", "\u0661", "1e", "--1", "1e999"]
)
def test_texts_that_are_not_numbers(text: str | None) -> None:
    with pytest.raises(AnnotationError, match="is not a number"):
        drawn_shapes.number(text)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e12])
def test_impossible_coordinates(bad: float) -> None:
    for draw in (
        lambda: drawn_shapes.box(bad, 0, 1, 1),
        lambda: drawn_shapes.corner_box(0, 0, bad, 1),
        lambda: drawn_shapes.turned_box((bad, 0), 1, 1, 5),
        lambda: drawn_shapes.turned_box((0, 0), 1, 1, bad),
        lambda: drawn_shapes.ellipse((0, 0), bad, 1),
        lambda: drawn_shapes.polygons([[0, 0, bad, 1, 1, 1]])(WIDTH, HEIGHT),
    ):
        with pytest.raises(AnnotationError):
            draw()


def test_a_box_far_out_in_an_object_of_masks_is_malformed() -> None:
    mask = drawn_shapes.mask_crop(lambda: np.ones((2, 2), bool), (2, 2), 1, 1)
    parts = (mask, drawn_shapes.box(1, 1, 1e8, 5))
    with pytest.raises(AnnotationError, match="out of range") as error:
        drawn_shapes.union(parts)(32, 24)
    assert error.value.code == "malformed-annotation"
