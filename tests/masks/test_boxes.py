import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from segkit.masks import rle
from segkit.masks.boxes import (
    AREAS,
    clip_box,
    corners,
    filled_box,
    in_size,
    inscribed_ellipse,
    pixels_of_box,
    tight_box,
)
from segkit.masks.iou import mask_iou

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.booleans())


def test_an_area_at_a_bound_is_of_the_larger_size() -> None:
    areas = np.array([0, 32**2 - 1, 32**2, 96**2 - 1, 96**2, 1e6])
    sizes = {size: in_size(areas, size).tolist() for size in AREAS}
    assert sizes == {
        "all": [True] * 6,
        "small": [True, True, False, False, False, False],
        "medium": [False, False, True, True, False, False],
        "large": [False, False, False, False, True, True],
    }


@given(masks)
def test_the_tight_box_is_that_of_run_lengths(mask: np.ndarray) -> None:
    assert tight_box(mask) == rle.box(rle.encode(mask), *mask.shape)


@given(masks.filter(np.any))
def test_the_tight_box_equals_pycocotools(mask: np.ndarray) -> None:
    x, y, w, h = coco.toBbox(coco.encode(np.asfortranarray(mask.astype(np.uint8))))
    assert corners(tight_box(mask)) == (x, y, x + w, y + h)


def test_an_ellipse_has_its_area_and_stays_in_its_box() -> None:
    box = (10.0, 20.0, 61.0, 41.0)
    ellipse = inscribed_ellipse(box, 100, 100)
    assert ellipse.sum() == pytest.approx(math.pi * 30.5 * 20.5, rel=0.02)
    assert not (ellipse & ~filled_box(box, 100, 100)).any()


sides = st.floats(-1e8, 1e8)


@given(x=sides, y=sides, width=st.floats(1e-3, 1e9), height=st.floats(1e-3, 1e9))
def test_a_clipped_box_touches_the_same_pixels(
    x: float, y: float, width: float, height: float
) -> None:
    box = x, y, width, height
    left, top, w, h = clip_box(box, 20, 30)
    assert 0 <= left < left + w <= 30
    assert 0 <= top < top + h <= 20
    if filled_box(box, 20, 30).any():
        touched = pixels_of_box((left, top, w, h), 20, 30)
        assert touched == pixels_of_box(box, 20, 30)


def test_a_box_within_the_image_is_not_changed_by_clipping() -> None:
    for box in ((0.1, 0.2, 3.7, 9.8), (0.0, 0.0, 30.0, 20.0)):
        assert clip_box(box, 20, 30) == box
    assert clip_box((-5.0, 4.0, 8.0, 40.0), 20, 30) == (0.0, 4.0, 3.0, 16.0)


def test_a_box_beyond_the_image_is_clipped() -> None:
    assert filled_box((-5.0, -5.0, 8.0, 8.5), 10, 10).sum() == 3 * 4
    assert filled_box((20.0, 20.0, 5.0, 5.0), 10, 10).sum() == 0
    assert mask_iou(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 0
