import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from segkit.masks import rle
from segkit.masks.boxes import corners, filled_box, inscribed_ellipse, tight_box
from segkit.masks.iou import mask_iou

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.booleans())


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


def test_a_box_beyond_the_image_is_clipped() -> None:
    assert filled_box((-5.0, -5.0, 8.0, 8.5), 10, 10).sum() == 3 * 4
    assert filled_box((20.0, 20.0, 5.0, 5.0), 10, 10).sum() == 0
    assert mask_iou(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 0
