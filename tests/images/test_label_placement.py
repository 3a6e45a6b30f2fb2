import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.images.label_placement import COLUMN_STEP, LabelPlacement

HEIGHT, WIDTH = 60, 90


def _square(top: int, left: int, side: int) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + side, left : left + side] = True
    return mask


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.integers(-10, 70),
            st.integers(-10, 90),
            st.integers(1, 60),
            st.integers(4, 40),
            st.integers(4, 14),
        ),
        max_size=25,
    )
)
def test_names_are_inside_the_picture_and_never_overlap(
    segments: list[tuple[bool, int, int, int, int, int]],
) -> None:
    placement = LabelPlacement((HEIGHT, WIDTH))
    covered = np.zeros((HEIGHT, WIDTH), int)
    for masked, top, left, side, wide, tall in segments:
        if masked:
            corner = placement.on_mask(_square(max(top, 0), max(left, 0), side), (wide, tall))
        else:
            corner = placement.at_box((left, top, side, side), (wide, tall))
        if corner is None:
            continue
        x, y = corner
        assert x >= 0 and y >= 0 and x + wide <= WIDTH and y + tall <= HEIGHT
        covered[y : y + tall, x : x + wide] += 1
    assert covered.max() <= 1


def test_a_name_stands_in_the_middle_of_a_square() -> None:
    x, y = LabelPlacement((HEIGHT, WIDTH)).on_mask(_square(10, 20, 41), (20, 10)) or (0, 0)
    assert (x + 10, y + 5) == pytest.approx((40, 30), abs=1)


def test_a_second_name_on_the_same_segment_moves_aside_until_none_fits() -> None:
    placement = LabelPlacement((HEIGHT, WIDTH))
    mask = _square(0, 0, 60)
    places = [placement.on_mask(mask, (30, 10)) for _ in range(12)]
    assert places[0] is not None and places[1] is not None
    assert places[-1] is None


def test_a_segment_smaller_than_its_name_gets_none() -> None:
    placement = LabelPlacement((HEIGHT, WIDTH))
    assert placement.on_mask(_square(10, 10, 5), (30, 10)) is None
    assert placement.on_mask(np.zeros((HEIGHT, WIDTH), bool), (30, 10)) is None


def test_a_name_larger_than_the_picture_gets_no_place() -> None:
    placement = LabelPlacement((HEIGHT, WIDTH))
    assert placement.at_box((0, 0, 90, 60), (200, 10)) is None
    assert placement.on_mask(np.ones((HEIGHT, WIDTH), bool), (10, 100)) is None


@settings(max_examples=60)
@given(st.integers(0, 40), st.integers(0, 200), st.integers(5, 60), st.integers(0, 10**6))
def test_places_are_the_same_when_only_a_part_of_the_picture_is_given(
    top: int, left: int, side: int, seed: int
) -> None:
    mask = np.zeros((HEIGHT, 3 * WIDTH), bool)
    area = mask[top : top + side, left : left + 2 * side]
    area[:] = np.random.default_rng(seed).random(area.shape) > 0.01
    first = left - left % COLUMN_STEP
    full, partly = LabelPlacement(mask.shape), LabelPlacement(mask.shape)
    part = mask[top : top + side, first : left + 2 * side]
    for _ in range(4):
        assert partly.on_mask(part, (20, 8), (first, top)) == full.on_mask(mask, (20, 8))
