from dataclasses import fields, replace

import pytest
import torch

from segkit.data.augment import Crop
from segkit.data.batch import Batch, PackedMasks, Targets, collate, uncollate
from segkit.data.targets import build_targets
from segkit.sample import Sample, Segment
from tests.data.scenes import TAXONOMY, disc, instance_sample, segment

CROP = Crop((10, 0, 60, 60), (0, 0, 90, 90), (96, 96))


def scored(score: float | None) -> Sample:
    """An exhaustive image of two objects; the second has a pseudo-mask smaller than its box."""
    sample = instance_sample("a", 0)
    human = segment(disc(80, 100, 30, 25, 12), 5)
    pseudo = segment(disc(80, 100, 50, 40, 9), 9, mask_from="pseudo", score=score)
    x, y, width, height = pseudo.box
    pseudo = replace(pseudo, box=(x - 3, y - 3, width + 6, height + 6))
    return replace(sample, segments=(human, pseudo))


def build(sample: Sample, trust_scores: bool = True) -> Targets:
    return build_targets(
        sample, CROP, taxonomy=TAXONOMY, task="instance", policies={}, trust_scores=trust_scores
    )


def assert_equal(a: Targets, b: Targets, *, without: set[str]) -> None:
    for name in {field.name for field in fields(Targets)} - without:
        x, y = getattr(a, name), getattr(b, name)
        if isinstance(x, PackedMasks):
            x, y = x.dense(), y.dense()
        assert x is y is None or torch.equal(x, y), name


def without_mask(pseudo: Segment) -> Segment:
    return replace(pseudo, mask=None, mask_from=None, score=None)


def test_a_score_of_zero_counts_as_no_mask() -> None:
    sample = scored(0.0)
    human, pseudo = sample.segments
    assert_equal(
        build(sample), build(replace(sample, segments=(human, without_mask(pseudo)))), without=set()
    )


@pytest.mark.parametrize("score", [1.0, None])
def test_a_score_of_one_counts_as_a_human_mask(score: float | None) -> None:
    sample = scored(score)
    targets = build(sample)
    assert targets.trust is not None and targets.trust.tolist() == [1.0, 1.0]
    assert_equal(targets, build(sample, trust_scores=False), without={"trust"})
    assert build(sample, trust_scores=False).trust is None


def test_a_doubtful_mask_keeps_the_box_that_it_was_made_from() -> None:
    sample = scored(0.25)
    human, pseudo = sample.segments
    targets = build(sample)
    boxes_only = build(replace(sample, segments=(human, without_mask(pseudo))))
    assert targets.has_mask.tolist() == [True, True]
    assert targets.trust is not None and targets.trust.tolist() == [1.0, 0.25]
    assert torch.equal(targets.boxes, boxes_only.boxes)
    assert torch.equal(targets.masks.bits, build(scored(1.0)).masks.bits)


def test_weights_survive_collation() -> None:
    targets = (build(scored(0.25)), build(scored(0.5)))
    batch = Batch(torch.zeros(2, 3, 96, 96), targets, "set", "instance", ("a", "b"))
    for before, after in zip(targets, uncollate(collate(batch)).targets, strict=True):
        assert_equal(before, after, without={"annotated"})
