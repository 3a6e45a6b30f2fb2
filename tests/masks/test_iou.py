import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segkit.masks import rle
from segkit.masks.iou import box_iou, coco_iou, mask_iou, mask_iou_of_pairs
from segkit.masks.run_lengths import decode_runs, join

sides = st.integers(0, 40).map(float)
boxes = st.lists(st.tuples(sides, sides, sides, sides), max_size=6)
pairs = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: st.lists(st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape)), max_size=5)
)


@given(boxes, boxes)
def test_box_iou_is_that_of_pycocotools(first, second):
    iou = box_iou(first, second)
    assert iou.shape == (len(first), len(second))
    assert np.array_equal(
        iou, coco_iou([[*box] for box in first], [[*box] for box in second], [0] * len(second))
    )


@given(pairs)
def test_iou_of_run_lengths_is_that_of_dense_masks(stack):
    first, second = (
        decode_runs(*join([rle.encode(mask) for mask in masks]))
        for masks in (zip(*stack, strict=True) if stack else ([], []))
    )
    assert mask_iou_of_pairs(first, second).tolist() == [mask_iou(*pair) for pair in stack]


def test_a_crowd_is_measured_by_the_share_of_the_detection_inside_it():
    small, large = np.zeros((8, 8), bool), np.ones((8, 8), bool)
    small[:2] = True
    shapes = [{"size": [8, 8], "counts": rle.encode(mask)} for mask in (small, large)]
    assert coco_iou(shapes, shapes[1:], [1]).tolist() == [[1.0], [1.0]]
    assert coco_iou(shapes, shapes[1:], [0]).tolist() == [[0.25], [1.0]]
    assert coco_iou([], shapes, [0, 0]).shape == (0, 2)
    assert coco_iou(shapes, [], []).shape == (2, 0)
