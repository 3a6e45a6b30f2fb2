import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.metrics.semantic import SemanticIoU, mean_scores, most_confused
from segkit.sample import Sample

from .scenes import (
    dense_confusion,
    disturbed,
    random_sample,
    regions,
    sample,
    taxonomy,
    updated,
)


def semantic_iou(pairs, names):
    return updated(SemanticIoU(names), [regions(pairs, names)])


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6), images=st.integers(1, 5))
def test_confusion_equals_the_dense_one(seed, images):
    rng, names = np.random.default_rng(seed), taxonomy()
    truths = [random_sample(rng, names, str(i), 12, 17 + i) for i in range(images)]
    pairs = [(t, disturbed(rng, t, names)) for t in truths]
    np.testing.assert_array_equal(
        semantic_iou(pairs, names).confusion(), dense_confusion(pairs, names)
    )


def test_figures_of_a_hand_computed_confusion():
    #                  predicted: a  b  c  nothing
    figures = mean_scores(np.array([[6.0, 2, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]]))
    # a: 6/8, b: 1/4, c absent (union 0, not counted)
    assert figures["miou"] == pytest.approx(100 * (6 / 8 + 1 / 4) / 2)
    assert figures["pixel_accuracy"] == pytest.approx(70)
    assert figures["mean_accuracy"] == pytest.approx(100 * (6 / 8 + 1 / 2) / 2)
    assert figures["fwiou"] == pytest.approx(100 * (0.8 * 6 / 8 + 0.2 * 1 / 4))


def painted(classes, names, image):
    ids = np.where(classes == 255, 0, classes + 1)
    return sample(ids, {k + 1: 7 * k + 2 for k in range(5) if (classes == k).any()}, names, image)


def test_equals_hotcoco_on_dense_maps():
    from hotcoco.semantic import SemanticEval

    rng, names = np.random.default_rng(5), taxonomy()
    reference = SemanticEval(5, ignore_index=255)
    pairs = []
    for i in range(8):
        maps = rng.integers(0, 5, (2, 20, 30)) if i else np.zeros((2, 20, 30), int)
        maps[0][rng.random((20, 30)) < 0.2] = 255
        reference.update(maps[0].astype(np.uint8), maps[1].astype(np.uint8))
        pairs.append([painted(classes, names, str(i)) for classes in maps])
    ours, theirs = semantic_iou(pairs, names).headline(), reference.results()
    for key, name in {
        "miou": "mIoU",
        "fwiou": "fwIoU",
        "mean_accuracy": "mAcc",
        "pixel_accuracy": "aAcc",
    }.items():
        assert ours[key] == pytest.approx(100 * theirs[name], rel=1e-12)


def test_absent_classes_do_not_count_but_invented_ones_do_and_the_rule_is_named():
    names = taxonomy()
    truth = sample(np.array([[1, 1, 1, 1]]), {1: 2}, names)
    invented = sample(np.array([[1, 1, 1, 2]]), {1: 2, 2: 9}, names)
    figures = semantic_iou([(truth, invented)], names).compute()
    assert figures["miou"] == pytest.approx((75 + 0) / 2)
    assert figures["classes_counted"] == 2 and "union > 0" in figures["absent_classes"]
    assert figures["per_class"] == {
        "class 0": 75,
        "class 1": 0,
        "class 2": None,
        "class 3": None,
        "class 4": None,
    }


def test_nothing_labeled_gives_null():
    names = taxonomy()
    void, prediction = Sample("1", "1", 4, 1), sample(np.array([[1, 1, 1, 2]]), {1: 2, 2: 9}, names)
    figures = semantic_iou([(void, prediction)], names).compute()
    assert (
        figures["miou"] is None
        and figures["pixel_accuracy"] is None
        and figures["classes_counted"] == 0
    )


def test_confused_classes_are_listed_by_pixels():
    #                 predicted: a  b  nothing
    pairs = most_confused(np.array([[6.0, 2, 0], [3, 1, 5]]), ["a", "b"])
    assert pairs == [
        {"true": "b", "predicted": None, "pixels": 5},
        {"true": "b", "predicted": "a", "pixels": 3},
        {"true": "a", "predicted": "b", "pixels": 2},
    ]
