import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.errors import InputError
from segkit.metrics.panoptic import PanopticQuality
from segkit.sample import Sample

from .scenes import (
    disturbed,
    panopticapi,
    random_sample,
    regions,
    sample,
    segment,
    taxonomy,
    updated,
)


def quality(pairs, names):
    return updated(PanopticQuality(names), [regions(pairs, names)])


def evaluate(pairs, names):
    return quality(pairs, names).compute()


def assert_equal(pairs, names):
    ours, reference = evaluate(pairs, names), panopticapi(pairs, names)
    for name, row in ours["per_class"].items():
        expected = reference["per_class"].get(name)
        if expected is None:
            assert row == {"pq": None, "sq": None, "rq": None, "tp": 0, "fp": 0, "fn": 0}
            continue
        assert (row["tp"], row["fp"], row["fn"]) == expected[3:]
        np.testing.assert_allclose(
            [row["pq"], row["sq"], row["rq"]], np.multiply(expected[:3], 100), rtol=1e-12
        )
    for group in ("all", "things", "stuff"):
        if reference[group] is None:
            assert ours[group] == {"pq": None, "sq": None, "rq": None, "n": 0}
        else:
            figures = [ours[group][key] for key in ("pq", "sq", "rq")]
            np.testing.assert_allclose(figures, np.multiply(reference[group], 100), rtol=1e-12)


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), images=st.integers(1, 6), crowd=st.sampled_from([0.0, 0.2, 0.9]))
def test_equals_the_reference_on_random_maps_with_void_and_crowds(seed, images, crowd):
    rng, names = np.random.default_rng(seed), taxonomy()
    truths = [random_sample(rng, names, str(i), 15 + i, 22, crowd) for i in range(images)]
    pairs = [
        (
            t,
            disturbed(rng, t, names)
            if rng.random() < 0.8
            else random_sample(rng, names, t.id, t.height, 22),
        )
        for t in truths
    ]
    assert_equal(pairs, names)


def test_truth_against_itself_is_perfect():
    rng, names = np.random.default_rng(0), taxonomy()
    pairs = [(t, t) for t in (random_sample(rng, names, str(i), crowd=0) for i in range(5))]
    assert evaluate(pairs, names)["all"] | {"n": 0} == {"pq": 100, "sq": 100, "rq": 100, "n": 0}


def test_no_stuff_classes_no_predictions_and_no_ground_truth():
    names = taxonomy(things=2, stuff=0)
    full, empty = np.ones((4, 5), int), Sample("1", "1.jpg", 5, 4)
    labeled = sample(full, {1: 2}, names)
    missed, invented, nothing = (
        evaluate([(labeled, empty)], names),
        evaluate([(empty, labeled)], names),
        evaluate([(empty, empty)], names),
    )
    assert missed["stuff"] == {"pq": None, "sq": None, "rq": None, "n": 0}
    assert missed["things"] == {"pq": 0, "sq": 0, "rq": 0, "n": 1}
    # all predictions are in void, which forgives them
    assert invented["all"]["n"] == 0 and nothing["all"]["n"] == 0


def test_iou_of_exactly_one_half_is_no_match_and_one_pixel_more_is():
    names = taxonomy()
    truth = sample(np.array([[1, 1, 1, 1, 2, 2]]), {1: 2, 2: 9}, names)
    half = sample(np.array([[1, 1, 0, 0, 2, 2]]), {1: 2, 2: 9}, names)
    more = sample(np.array([[1, 1, 1, 0, 2, 2]]), {1: 2, 2: 9}, names)
    row = evaluate([(truth, half)], names)["per_class"]["class 0"]
    assert (row["tp"], row["fp"], row["fn"]) == (0, 1, 1)
    row = evaluate([(truth, more)], names)["per_class"]["class 0"]
    assert (row["tp"], row["sq"]) == (1, pytest.approx(75))


def test_one_pixel_segments():
    names = taxonomy()
    truth = sample(np.array([[1, 2], [3, 0]]), {1: 2, 2: 2, 3: 30}, names)
    assert_equal([(truth, truth)], names)
    assert evaluate([(truth, truth)], names)["per_class"]["class 0"]["tp"] == 2


def test_only_the_last_listed_crowd_forgives_and_what_all_would_forgive_is_counted():
    names = taxonomy()
    ids = np.array([[1, 1, 1, 2, 2, 2, 3, 3]])
    truth = sample(ids, {1: 2, 2: 2, 3: 9}, names, crowds=(1, 2))
    first = sample(np.array([[1, 1, 1, 0, 0, 0, 0, 0]]), {1: 2}, names)
    last = sample(np.array([[0, 0, 0, 1, 1, 1, 0, 0]]), {1: 2}, names)
    assert_equal([(truth, first)], names)
    assert_equal([(truth, last)], names)
    assert evaluate([(truth, first)], names)["per_class"]["class 0"]["fp"] == 1
    assert evaluate([(truth, last)], names)["per_class"]["class 0"]["fp"] == 0
    assert quality([(truth, first)], names).several_crowds == 1
    assert quality([(truth, last)], names).several_crowds == 0


def test_all_crowd_and_all_void():
    names = taxonomy()
    ids = np.array([[1, 1, 2, 2]])
    prediction = sample(ids, {1: 2, 2: 9}, names)
    assert_equal([(sample(ids, {1: 2, 2: 9}, names, crowds=(1, 2)), prediction)], names)
    void = Sample("1", "1.jpg", 4, 1)
    assert evaluate([(void, prediction)], names)["all"]["n"] == 0


def test_ignored_ground_truth_is_void():
    names = taxonomy()
    ids = np.array([[1, 1, 2, 2]])
    ignored = sample(ids, {1: 2, 2: 9}, names, ignored=(1,))
    void = sample(np.array([[0, 0, 2, 2]]), {2: 9}, names)
    prediction = sample(ids, {1: 2, 2: 9}, names)
    assert evaluate([(ignored, prediction)], names) == evaluate([(void, prediction)], names)


def test_area_in_the_record_is_never_trusted():
    names = taxonomy()
    truth = sample(np.array([[1, 1, 2, 2]]), {1: 2, 2: 9}, names)
    from dataclasses import replace

    liar = replace(truth, segments=tuple(replace(s, area=1.0) for s in truth.segments))
    assert evaluate([(liar, truth)], names)["all"]["pq"] == 100


def test_overlapping_segments_are_refused_with_their_ids():
    names = taxonomy()
    good = sample(np.array([[1, 1, 2, 2]]), {1: 2, 2: 9}, names, image="a7")
    mask = np.array([[1, 1, 1, 0]])
    bad = Sample("a7", "a7.jpg", 4, 1, (segment(mask, 2), segment(np.array([[0, 0, 1, 1]]), 9)))
    with pytest.raises(InputError, match=r"image a7, segment 0 and image a7, segment 1 overlap"):
        evaluate([(good, bad)], names)


def test_a_mask_of_another_image_size_is_refused():
    names = taxonomy()
    good = sample(np.array([[1, 1, 2, 2]]), {1: 2, 2: 9}, names, image="a7")
    small = Sample("a7", "a7.jpg", 4, 1, (segment(np.array([[1, 1]]), 2),))
    with pytest.raises(InputError, match=r"mask of 2 pixels, the image has 4"):
        evaluate([(good, small)], names)


def test_batches_sum_up_and_weights_draw_images():
    rng, names = np.random.default_rng(3), taxonomy()
    truths = [random_sample(rng, names, str(i)) for i in range(6)]
    pairs = [(t, disturbed(rng, t, names)) for t in truths]
    batches = [regions(pairs[:2], names), regions(pairs[2:], names)]
    in_batches = updated(PanopticQuality(names), batches)
    np.testing.assert_allclose(in_batches.counts().iou, quality(pairs, names).counts().iou)
    twice = in_batches.counts(np.array([2.0, 0, 0, 0, 0, 1]))
    expected = quality([pairs[0], pairs[0], pairs[5]], names).counts()
    np.testing.assert_allclose(twice.fp, expected.fp)
    np.testing.assert_allclose(twice.iou, expected.iou)
