from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.errors import InputError
from segkit.metrics.box_to_mask import score_masks_of_boxes
from segkit.metrics.given_boxes import mask_quality
from segkit.sample import Sample
from segkit.taxonomy import Category, Taxonomy

from .scenes import decode, random_sample, rle, segment, taxonomy


def numbered(sample):
    return replace(
        sample, segments=tuple(replace(s, source_id=str(i)) for i, s in enumerate(sample.segments))
    )


def moved(rng, sample):
    """A mask for most objects: the true one, moved; in another order."""
    segments = []
    for s in sample.segments:
        mask = np.roll(decode(s, sample), rng.integers(-3, 4, 2), (0, 1))
        segments.append(
            replace(s, mask=rle(mask), area=float(mask.sum()))
            if rng.random() < 0.8
            else replace(s, mask=None)
        )
    return replace(sample, segments=tuple(segments[::-1]))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_equals_the_dense_computation(seed):
    rng, names = np.random.default_rng(seed), taxonomy()
    truths = [numbered(random_sample(rng, names, str(i), 40 + i, 60)) for i in range(3)]
    made = [moved(rng, t) for t in truths]
    if all(s.is_crowd for t in truths for s in t.segments):
        return
    found, dense = (
        mask_quality(zip(truths, made, strict=True), names),
        score_masks_of_boxes(truths, made),
    )
    assert (found["boxes"], found["masked"]) == (dense.boxes, dense.masked)
    assert found["mean_iou"] == pytest.approx(dense.mean_iou, abs=1e-12)
    if found["masked"]:
        assert found["mean_iou_masked"] == pytest.approx(
            dense.mean_iou * dense.boxes / dense.masked, abs=1e-12
        )
    for name, value in found["per_class"].items():
        of_class = [
            replace(
                t, segments=tuple(s for s in t.segments if names.by_id[s.class_id].name == name)
            )
            for t in truths
        ]
        assert value == pytest.approx(score_masks_of_boxes(of_class, made).mean_iou, abs=1e-12)
    counts = [
        sum(lo <= s.area < hi for t in truths for s in t.segments if not s.is_crowd)
        for lo, hi in ((0, 1024), (1024, 9216))
    ]
    means = [found["per_size"][size] or 0 for size in ("small", "medium")]
    assert np.dot(counts, means) / sum(counts) == pytest.approx(dense.mean_iou, abs=1e-12)


def test_a_mask_that_is_its_box_is_counted_and_ids_are_needed():
    names = taxonomy()
    rng = np.random.default_rng(1)
    truth = numbered(random_sample(rng, names, "im4", 30, 30, crowd=0))
    box = np.zeros((30, 30), bool)
    box[5:15, 5:25] = True
    made = replace(
        truth,
        segments=(
            replace(truth.segments[0], mask=rle(box), area=200.0, box=(5.0, 5.0, 20.0, 10.0)),
        ),
    )
    assert mask_quality([(truth, made)], names)["filled"] == 1
    bare = replace(truth, segments=(replace(truth.segments[0], source_id=None),))
    with pytest.raises(InputError, match="image im4: an object has no id"):
        mask_quality([(bare, made)], names)
    small = replace(made, segments=(replace(made.segments[0], mask=rle(np.ones((2, 2)))),))
    strange = replace(made, segments=(replace(made.segments[0], source_id=None),))
    with pytest.raises(
        InputError,
        match="predictions: no mask has the id of an object of the ground truth; give the",
    ):
        mask_quality([(truth, strange)], names)
    assert mask_quality([(truth, replace(made, segments=()))], names)["mean_iou"] == 0
    with pytest.raises(InputError, match="a mask of 4 pixels for an image of 900"):
        mask_quality([(truth, small)], names)


def test_classes_of_one_name_are_kept_apart():
    names = Taxonomy("zoo", (Category(3, "bat", "thing"), Category(5, "bat", "thing")))
    square = np.zeros((20, 20), bool)
    square[:8, :8] = True
    truth = Sample(
        "1", "1.jpg", 20, 20, (segment(square, 3, source_id="a"), segment(square[::-1], 5, source_id="b"))
    )  # fmt: skip
    made = replace(truth, segments=truth.segments[:1])
    assert mask_quality([(truth, made)], names)["per_class"] == {"bat [3]": 1, "bat [5]": 0}
