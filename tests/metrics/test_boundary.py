import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_cdt

from segkit.masks import rle
from segkit.metrics import boundary, instance, panoptic
from segkit.metrics.evaluate import EvalOptions, measure
from segkit.metrics.overlap import overlap
from segkit.metrics.regions import regions_of

from .files import sets
from .scenes import decode, disturbed, id_map, random_sample, records, sample, segment, taxonomy


def outline(mask, depth):
    """By distance: a pixel belongs to the boundary if a pixel outside (or beyond the image) is at
    most `depth` away."""
    inside = distance_transform_cdt(np.pad(mask, 1), metric="chessboard")[1:-1, 1:-1]
    return mask & (inside <= depth)


def depth_of(height, width):
    return max(1, round(0.02 * float(np.hypot(height, width))))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(3, 160), width=st.integers(3, 200))
def test_boundary_is_what_lies_near_the_outside(seed, height, width):
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < 0.02
    mask = (
        distance_transform_cdt(~mask, metric="chessboard") < rng.integers(2, 9)
        if mask.any()
        else mask
    )
    found = rle.decode(boundary.boundary(rle.encode(mask), height, width), height, width)
    np.testing.assert_array_equal(found, outline(mask, depth_of(height, width)))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_iou_of_pairs_by_brute_force(seed):
    rng, names = np.random.default_rng(seed), taxonomy()
    truth = random_sample(rng, names, "1", 60, 90, crowd=0)
    found = disturbed(rng, truth, names)
    sides = [regions_of([s], names.index, what="x") for s in (truth, found)]
    shared = overlap(*sides)
    ious = boundary.iou_of_pairs(shared, *sides)
    labeled, depth = id_map(truth) > 0, depth_of(60, 90)
    for t, p, iou in zip(shared.truth, shared.prediction, ious, strict=True):
        a, b = (outline(decode(s.segments[i], s), depth) for s, i in ((truth, t), (found, p)))
        union = (a | (b & labeled)).sum()
        assert iou == pytest.approx((a & b).sum() / union if union else 0)


def test_a_large_sloppy_mask_loses_and_a_perfect_one_does_not(tmp_path):
    names = taxonomy()
    disc = np.hypot(*np.mgrid[-100:100, -150:150]) < 80
    sloppy = np.hypot(*np.mgrid[-100:100, -150:150]) < 72
    truth = sample(disc.astype(int), {1: 2}, names)
    answers = {
        name: type(truth)("1", "1", 300, 200, (segment(mask, 2, score=0.9),))
        for name, mask in (("good", disc), ("bad", sloppy))
    }
    found = {}
    for name, answer in answers.items():
        sides = [regions_of([s], names.index, what="x") for s in (truth, answer)]
        shared = overlap(*sides)
        limit = boundary.iou_of_pairs(shared, *sides)
        found[name] = panoptic.count(panoptic.match_overlap(shared, *sides, limit), 5)
        record = records([truth], [answer], names.index, "mask", 1)
        found[name + " ap"] = instance.summarize(
            boundary.curves([record], 5, (1, 10, 100)), names.names
        )["ap50"]
    assert found["good"].iou[0] == 1 and found["bad"].tp[0] == 0 and found["bad"].fn[0] == 1
    assert found["good ap"] == pytest.approx(100) and found["bad ap"] == 0


def test_boundary_figures_stand_beside_the_others_and_are_no_larger(tmp_path):
    truth, found = sets(tmp_path, images=4)
    metrics = measure(truth, found, "panoptic", EvalOptions(boundary=True)).metrics
    assert metrics["boundary"]["all"]["pq"] <= metrics["all"]["pq"]
    assert measure(truth, found, "panoptic").metrics["all"] == metrics["all"]
    masks = measure(truth, found, "instance", EvalOptions(boundary=True)).metrics
    assert (
        masks["boundary"]["ap"] <= masks["ap"]
        and masks["boundary"]["per_class"].keys() == masks["per_class"].keys()
    )
