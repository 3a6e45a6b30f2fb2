import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from segkit.masks import rle
from segkit.masks.boxes import tight_boxes
from segkit.masks.run_lengths import decode_runs, join


def encode(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), masks=st.integers(0, 6))
def test_runs_are_those_of_the_dense_mask(seed, masks):
    rng = np.random.default_rng(seed)
    shapes = [(int(rng.integers(1, 90)), int(rng.integers(1, 90))) for _ in range(masks)]
    dense = [
        np.cumsum(rng.random(shape) < rng.choice([0.0, 0.02, 0.5]), axis=0) % 2 == 1
        for shape in shapes
    ]
    runs = decode_runs(*join([encode(mask) for mask in dense]))
    assert runs.total.tolist() == [mask.size for mask in dense]
    assert runs.area.tolist() == [int(mask.sum()) for mask in dense]
    for index, mask in enumerate(dense):
        painted = np.zeros(mask.size, bool)
        for start, end in zip(
            runs.start[runs.mask == index], runs.end[runs.mask == index], strict=True
        ):
            assert not painted[start:end].any()
            painted[start:end] = True
        assert (painted.reshape(mask.shape, order="F") == mask).all()


def test_long_counts_and_empty_and_full_masks():
    big = np.zeros((3000, 3000), bool)
    big[2999, 2999] = True
    runs = decode_runs(*join([encode(big), encode(np.zeros((2, 2))), encode(np.ones((2, 2)))]))
    assert runs.start.tolist() == [8_999_999, 0] and runs.end.tolist() == [9_000_000, 4]
    assert runs.total.tolist() == [9_000_000, 4, 4]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), masks=st.integers(0, 5))
def test_boxes_are_tight(seed, masks):
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(1, 40, 2))
    dense = [rng.random((height, width)) < rng.choice([0.0, 0.01, 0.3, 1.0]) for _ in range(masks)]
    boxes = tight_boxes(decode_runs(*join([encode(mask) for mask in dense])), height)
    assert boxes == [rle.box(encode(mask), height, width) for mask in dense]
