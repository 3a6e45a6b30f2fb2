import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from segkit.masks import rle
from segkit.masks.boxes import tight_box


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.booleans()))
def test_the_tight_box_is_that_of_run_lengths(mask: np.ndarray) -> None:
    assert tight_box(mask) == rle.box(rle.encode(mask), *mask.shape)
