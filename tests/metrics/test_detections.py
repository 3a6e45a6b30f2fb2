import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segkit.metrics import detections

from .scenes import records, sample, segment, taxonomy
from .test_instance import run, some_pairs


def rows_of(pairs, names, by="mask"):
    truths, found = [t for t, _ in pairs], [p for _, p in pairs]
    return detections.match(records(truths, found, names.index, by, 1), by, 100)


@settings(max_examples=30, deadline=None)
@example(seed=5343, images=6, by="mask")  # 7 hits of 10 objects, and a recall of 0.7000000000000001
@given(seed=st.integers(0, 10**6), images=st.integers(1, 6), by=st.sampled_from(["mask", "box"]))
def test_average_precision_is_that_of_pycocotools(seed, images, by):
    pairs, names = some_pairs(seed, images, 30, 40)
    curves = run(pairs, names, "pycocotools", by)
    expected = curves.precision[:, :, :, 0, -1].mean(axis=1)
    found = detections.average_precision(rows_of(pairs, names, by), 5)
    np.testing.assert_allclose(np.nan_to_num(found, nan=-1), expected, atol=1e-9)


def test_weights_are_repetitions_of_images():
    pairs, names = some_pairs(4, 5, 30, 40)
    rows = rows_of(pairs, names)
    drawn = [0, 0, 0, 2, 4, 4]
    weights = np.bincount(drawn, minlength=5).astype(float)
    repeated = detections.average_precision(rows_of([pairs[i] for i in drawn], names), 5)
    np.testing.assert_allclose(detections.average_precision(rows, 5, weights), repeated, atol=1e-9)


def test_batches_join_and_nothing_is_something():
    pairs, names = some_pairs(6, 4, 30, 40)
    first = records([t for t, _ in pairs[:1]], [p for _, p in pairs[:1]], names.index, "mask", 1)
    rest = records([t for t, _ in pairs[1:]], [p for _, p in pairs[1:]], names.index, "mask", 2)
    joined = detections.DetectionRows.concatenate(
        [detections.match(b, "mask", 100) for b in (first, rest)], [1, 2, 3, 4]
    )
    whole = rows_of(pairs, names)
    np.testing.assert_array_equal(
        detections.average_precision(joined, 5), detections.average_precision(whole, 5)
    )
    assert np.isnan(
        detections.average_precision(detections.DetectionRows.concatenate([], []), 2)
    ).all()


def test_best_iou_of_each_object():
    names = taxonomy()
    ids = np.repeat([[1] * 10 + [2] * 10 + [3] * 10], 8, axis=0)
    truth = sample(ids, {1: 2, 2: 2, 3: 9}, names, crowds=(2,))
    half = ids == 1
    half[:4] = False
    found = type(truth)(
        "1", "1", 30, 8, (segment(half, 2, score=0.5), segment(ids == 3, 2, score=0.9))
    )
    rows = rows_of([(truth, found)], names)
    # the crowd is no object; the third has no detection of its own class
    assert sorted(zip(rows.object_label.tolist(), rows.object_iou.tolist(), strict=True)) == [
        (0, 0.5),
        (1, 0.0),
    ]
    assert detections.image_scores(rows, 2)[0] == pytest.approx(0.25) and np.isnan(
        detections.image_scores(rows, 2)[1]
    )
