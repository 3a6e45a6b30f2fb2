import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segkit.metrics.detections import DetectionMatches

from .scenes import records, sample, segment, taxonomy, updated
from .test_instance import instance_ap, random_pairs


def matches(pairs, names, iou_type="mask", max_dets=100):
    """The metric after an update with all pairs, all classes taken for things."""
    truths, predictions = zip(*pairs, strict=True)
    batch = records(truths, predictions, names.index, iou_type)
    return updated(DetectionMatches(len(names.categories), iou_type, max_dets), [batch])


@settings(max_examples=30)
@example(
    seed=5343, images=6, iou_type="mask"
)  # 7 hits of 10 objects, and a recall of 0.7000000000000001
@given(
    seed=st.integers(0, 10**6), images=st.integers(1, 6), iou_type=st.sampled_from(["mask", "box"])
)
def test_average_precision_equals_that_of_pycocotools(seed, images, iou_type):
    pairs, names = random_pairs(seed, images, 30, 40)
    curves = instance_ap(pairs, names, "pycocotools", iou_type).curves()
    expected = curves.precision[:, :, :, 0, -1].mean(axis=1)
    precision = matches(pairs, names, iou_type).average_precision()
    np.testing.assert_allclose(np.nan_to_num(precision, nan=-1), expected, atol=1e-9)


def test_weights_are_repetitions_of_images():
    pairs, names = random_pairs(4, 5, 30, 40)
    metric = matches(pairs, names)
    drawn = [0, 0, 0, 2, 4, 4]
    weights = np.bincount(drawn, minlength=5).astype(float)
    repeated = matches([pairs[i] for i in drawn], names).average_precision()
    np.testing.assert_allclose(metric.average_precision(weights), repeated, atol=1e-9)


def test_batches_sum_up_and_no_batch_gives_undefined_figures():
    pairs, names = random_pairs(6, 4, 30, 40)
    first = records(*zip(*pairs[:1], strict=True), names.index, "mask", 1)
    rest = records(*zip(*pairs[1:], strict=True), names.index, "mask", 2)
    in_batches = updated(DetectionMatches(5, "mask", 100), [first, rest])
    np.testing.assert_array_equal(
        in_batches.average_precision(), matches(pairs, names).average_precision()
    )
    empty = DetectionMatches(2, "mask", 100)
    assert np.isnan(empty.average_precision()).all()
    assert empty.compute() == {"ap": None, "ap50": None, "ap75": None}


def test_best_iou_of_each_object():
    names = taxonomy()
    ids = np.repeat([[1] * 10 + [2] * 10 + [3] * 10], 8, axis=0)
    truth = sample(ids, {1: 2, 2: 2, 3: 9}, names, crowds=(2,))
    half = ids == 1
    half[:4] = False
    prediction = type(truth)(
        "1", "1", 30, 8, (segment(half, 2, score=0.5), segment(ids == 3, 2, score=0.9))
    )
    empty = type(truth)("2", "2", 30, 8)
    metric = matches([(truth, prediction), (empty, empty)], names)
    rows = metric.rows
    # the crowd is not an object; the third has no detection of its own class
    assert sorted(zip(rows.object_label.tolist(), rows.object_iou.tolist(), strict=True)) == [
        (0, 0.5),
        (1, 0.0),
    ]
    scores = metric.per_image()
    assert scores[0] == pytest.approx(0.25) and np.isnan(scores[1])
