import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_cdt

from segkit.masks import rle
from segkit.metrics.boundary import BoundaryAP, BoundaryPanopticQuality, boundary
from segkit.metrics.overlap import overlap

from .files import figures, sets
from .scenes import (
    decode,
    disturbed,
    id_map,
    random_sample,
    records,
    regions,
    sample,
    segment,
    taxonomy,
    updated,
)


def outline(mask, depth):
    """By distance: the pixels of the mask at most `depth` away from a pixel outside it."""
    inside = distance_transform_cdt(np.pad(mask, 1), metric="chessboard")[1:-1, 1:-1]
    return mask & (inside <= depth)


def depth_of(height, width):
    return max(1, round(0.02 * float(np.hypot(height, width))))


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), height=st.integers(3, 160), width=st.integers(3, 200))
def test_the_boundary_holds_the_pixels_near_the_outside(seed, height, width):
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < 0.02
    mask = (
        distance_transform_cdt(~mask, metric="chessboard") < rng.integers(2, 9)
        if mask.any()
        else mask
    )
    pixels = rle.decode(boundary(rle.encode(mask), height, width), height, width)
    np.testing.assert_array_equal(pixels, outline(mask, depth_of(height, width)))


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_iou_of_pairs_equals_brute_force(seed):
    rng, names = np.random.default_rng(seed), taxonomy()
    truth = random_sample(rng, names, "1", 60, 90, crowd=0)
    prediction = disturbed(rng, truth, names)
    sides = regions([(truth, prediction)], names)
    pairs = overlap(*sides)
    ious = BoundaryPanopticQuality(names).max_iou(pairs, *sides)
    labeled, depth = id_map(truth) > 0, depth_of(60, 90)
    for t, p, iou in zip(pairs.truth, pairs.prediction, ious, strict=True):
        a, b = (outline(decode(s.segments[i], s), depth) for s, i in ((truth, t), (prediction, p)))
        union = (a | (b & labeled)).sum()
        assert iou == pytest.approx((a & b).sum() / union if union else 0)


def test_a_large_sloppy_mask_loses_and_a_perfect_one_does_not():
    names = taxonomy()
    disc = np.hypot(*np.mgrid[-100:100, -150:150]) < 80
    sloppy = np.hypot(*np.mgrid[-100:100, -150:150]) < 72
    truth = sample(disc.astype(int), {1: 2}, names)
    counts, ap50 = {}, {}
    for name, mask in (("good", disc), ("bad", sloppy)):
        prediction = type(truth)("1", "1", 300, 200, (segment(mask, 2, score=0.9),))
        batch = regions([(truth, prediction)], names)
        counts[name] = updated(BoundaryPanopticQuality(names), [batch]).counts()
        batch = records([truth], [prediction], names.index, "mask")
        ap50[name] = updated(BoundaryAP(names.names, (1, 10, 100)), [batch]).compute()["ap50"]
    assert counts["good"].iou[0] == 1 and counts["bad"].tp[0] == 0 and counts["bad"].fn[0] == 1
    assert ap50["good"] == pytest.approx(100) and ap50["bad"] == 0


def test_boundary_figures_are_beside_the_others_and_not_larger(tmp_path):
    truth, predictions = sets(tmp_path, images=4)
    metrics = figures(truth, predictions, "panoptic", boundary=True)
    assert metrics["boundary"]["all"]["pq"] <= metrics["all"]["pq"]
    assert figures(truth, predictions, "panoptic")["all"] == metrics["all"]
    masks = figures(truth, predictions, "instance", boundary=True)
    assert masks["boundary"]["ap"] <= masks["ap"]
    assert masks["boundary"]["per_class"].keys() == masks["per_class"].keys()
