import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from segkit.data.augment import full_image_crop
from segkit.inference import upscale
from segkit.inference.dense import dense_masks
from segkit.inference.mask2former import mask2former_masks
from segkit.inference.postprocess import instances, panoptic, postprocess, semantic, sum_by_label
from segkit.inference.upscale import bands, to_image
from segkit.masks.rle import box, decode
from segkit.recipes.schema import InferenceConfig
from segkit.shards.manifest import Task
from segkit.taxonomy import Category, Taxonomy


class Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor."""

    values = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.values = max(self.values, result.numel())
        return result


CROP = full_image_crop(32, 48, size=48, multiple=16)
"""The full image of 32 x 48 pixels, without padding or resizing."""
IS_THING = torch.tensor([True, False])
CONFIG = InferenceConfig(score=0.5, overlap=0.6)


def one_hot(*classes: int, confidence: float = 20.0) -> torch.Tensor:
    logits = torch.zeros(len(classes), 3)
    for row, index in enumerate(classes):
        logits[row, index] = confidence
    return logits


def rectangles(*boxes: tuple[int, int, int, int]) -> torch.Tensor:
    masks = torch.full((len(boxes), 32, 48), -20.0)
    for row, (x0, y0, x1, y1) in enumerate(boxes):
        masks[row, y0:y1, x0:x1] = 20.0
    return masks


def test_things_stay_separate_and_stuff_of_a_class_is_merged() -> None:
    masks = rectangles((0, 0, 10, 10), (20, 0, 30, 10), (0, 16, 24, 32), (24, 16, 48, 32))
    predictions = panoptic(one_hot(0, 0, 1, 1), masks, CROP, IS_THING, CONFIG)
    assert sorted((item.class_index, int(item.mask.sum())) for item in predictions) == [
        (0, 100),
        (0, 100),
        (1, 16 * 48),
    ]


def test_panoptic_masks_never_overlap_and_covered_ones_are_dropped() -> None:
    generator = torch.Generator().manual_seed(0)
    predictions = panoptic(
        torch.randn(12, 3, generator=generator) * 4,
        torch.randn(12, 8, 12, generator=generator) * 4,
        CROP,
        IS_THING,
        InferenceConfig(score=0.2, overlap=0.0),
    )
    assert len(predictions) > 2
    assert np.sum([item.mask for item in predictions], axis=0).max() == 1
    weaker = one_hot(0, 0)
    weaker[1] *= 0.1
    covered = panoptic(
        weaker,
        rectangles((0, 0, 20, 20), (0, 0, 20, 18)),
        CROP,
        IS_THING,
        InferenceConfig(score=0.1),
    )
    assert [int(item.mask.sum()) for item in covered] == [400]


def test_background_and_low_scores_are_void() -> None:
    masks = rectangles((0, 0, 10, 10), (20, 0, 30, 10))
    assert panoptic(one_hot(2, 2), masks, CROP, IS_THING, CONFIG) == []
    assert panoptic(one_hot(0, 0, confidence=0.0), masks, CROP, IS_THING, CONFIG) == []


def test_semantic_is_the_largest_sum_over_queries() -> None:
    generator = torch.Generator().manual_seed(1)
    classes, masks = (
        torch.randn(9, 6, generator=generator),
        torch.randn(9, 32, 48, generator=generator) * 3,
    )
    scores = np.zeros((5, 32, 48))
    for query in range(9):
        p = np.exp(classes[query].numpy())
        p /= p.sum()
        for index in range(5):
            scores[index] += p[index] / (1 + np.exp(-masks[query].numpy()))
    predictions = semantic(classes, masks, CROP)
    labels = np.full((32, 48), -1)
    for item in predictions:
        assert (labels[item.mask] == -1).all()
        labels[item.mask] = item.class_index
        assert 0 < item.score <= 1
    assert (labels == scores.argmax(0)).all()


def test_instances_are_the_best_pairs_of_proposal_and_thing() -> None:
    classes = torch.log(torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.9, 0.05, 0.05]]))
    masks = rectangles((0, 0, 10, 10), (20, 0, 30, 10), (0, 0, 0, 0))
    predictions = instances(classes, masks, CROP, IS_THING, CONFIG)
    assert [item.class_index for item in predictions] == [0, 0], (
        "stuff and empty masks are not instances"
    )
    assert [item.score for item in predictions] == pytest.approx([0.6, 0.2], abs=1e-4)
    assert len(instances(classes, masks, CROP, IS_THING, InferenceConfig(instances=1))) <= 1


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_masks_are_resized_to_the_image(task: Task) -> None:
    crop = full_image_crop(50, 83, size=96)
    logits = torch.full((1, 24, 24), -20.0)
    logits[0, :, :12] = 20.0
    predictions = postprocess(task, one_hot(0), logits, crop, IS_THING, InferenceConfig(score=0.1))
    mask = predictions[0].mask
    assert mask.shape == (50, 83)
    if task != "semantic":
        edge = 48 * 83 / crop.content[2]
        assert abs(int(mask[20].sum()) - edge) <= 1


def test_padding_does_not_reach_the_image() -> None:
    crop = full_image_crop(40, 40, size=48, multiple=64)
    assert crop.padded_size == (64, 64)
    logits = torch.zeros(1, 64, 64)
    logits[:, :48, :48] = 5.0
    logits[:, 48:] = -5.0
    assert torch.allclose(to_image(logits, crop), torch.full((1, 40, 40), 5.0))


def test_sigmoid_classes_rank_proposals_by_themselves() -> None:
    """Two plausible names take nothing from each other, as softmax would have it."""
    sigmoid = CONFIG.model_copy(update={"classes": "sigmoid"})
    both = torch.tensor([True, True])
    masks = rectangles((0, 0, 10, 10), (20, 0, 30, 10))
    logits = torch.tensor([[1.0, 1.0, 0.0], [0.5, -5.0, 0.0]])
    assert instances(logits, masks, CROP, both, CONFIG)[0].proposal == 1
    first, second, third, _ = instances(logits, masks, CROP, both, sigmoid)
    assert {first.proposal, second.proposal} == {0} and third.proposal == 1
    assert first.score == pytest.approx(torch.tensor(1.0).sigmoid().item(), abs=1e-4)
    assert not panoptic(logits[:1], masks[:1], CROP, both, CONFIG), "softmax: 0.42 each"
    (segment,) = panoptic(logits[:1], masks[:1], CROP, both, sigmoid)
    assert segment.score == pytest.approx(first.score, abs=1e-4)


@pytest.mark.parametrize(("least", "kept"), [(0.1, 2), (0.2, 1), (0.3, 0)])
def test_the_score_alone_decides_which_sigmoid_classes_count(least: float, kept: int) -> None:
    """Focal loss leaves probabilities far below 0.5, above which none would be left."""
    config = CONFIG.model_copy(update={"classes": "sigmoid", "score": least})
    probability = torch.tensor([[0.25, 0.02], [0.02, 0.15], [0.05, 0.05]])
    logits = torch.cat((probability.logit(), torch.zeros(3, 1)), dim=1)
    masks = rectangles((0, 0, 10, 10), (20, 0, 30, 10), (0, 20, 10, 30))
    segments = panoptic(logits, masks, CROP, IS_THING, config)
    assert [(s.class_index, round(s.score, 4)) for s in segments] == [(0, 0.25), (1, 0.15)][:kept]


def test_masks_convert_to_segments() -> None:
    taxonomy = Taxonomy("own", (Category(7, "cup", "thing"), Category(9, "floor", "stuff")))
    masks = panoptic(
        one_hot(0, 1), rectangles((3, 4, 13, 10), (0, 20, 48, 32)), CROP, IS_THING, CONFIG
    )
    cup, floor = (mask.to_segment(taxonomy) for mask in masks)
    assert (cup.class_id, cup.kind, floor.class_id, floor.kind) == (7, "thing", 9, "stuff")
    assert cup.box == (3.0, 4.0, 10.0, 6.0) and cup.area == 60 and cup.mask_from == "prediction"
    assert cup.mask is not None and box(cup.mask, 32, 48) == cup.box
    assert decode(cup.mask, 32, 48).sum() == 60


@pytest.mark.parametrize(
    ("height", "width", "size"), [(50, 83, 96), (301, 200, 96), (37, 20, 64), (40, 40, 48)]
)
def test_bands_equal_resizing_all_rows_twice(
    height: int, width: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    crop = full_image_crop(height, width, size=size)
    logits = torch.randn(
        3,
        crop.padded_size[0] // 4,
        crop.padded_size[1] // 4,
        generator=torch.Generator().manual_seed(2),
    )
    padded = F.interpolate(logits[None], size=crop.padded_size, mode="bilinear")
    content = padded[:, :, : crop.content[3], : crop.content[2]]
    full = F.interpolate(content, size=(height, width), mode="bilinear")[0]
    assert torch.allclose(to_image(logits, crop), full, atol=1e-4)
    monkeypatch.setattr(upscale, "BAND", 3 * width * 7)
    strips = list(bands(logits, crop))
    assert [rows.stop - rows.start for rows, _ in strips[:-1]] == [7] * (len(strips) - 1)
    assert torch.allclose(torch.cat([band for _, band in strips], 1), full, atol=1e-4)
    assert next(bands(logits, crop, depth=10**6))[1].shape == (3, 1, width), "at least one row"


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_large_images_are_read_in_bands(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands do not change the masks, and no tensor holds all of them at the image's size."""
    generator = torch.Generator().manual_seed(3)
    classes, masks = (
        torch.randn(20, 6, generator=generator) * 3,
        torch.randn(20, 12, 16, generator=generator) * 4,
    )
    crop, is_thing = (
        full_image_crop(180, 240, size=64),
        torch.tensor([True, True, True, False, False]),
    )
    config = InferenceConfig(score=0.2, overlap=0.1)
    full = postprocess(task, classes, masks, crop, is_thing, config)
    monkeypatch.setattr(upscale, "BAND", 30_000)
    with Largest() as largest:
        predictions = postprocess(task, classes, masks, crop, is_thing, config)
    assert largest.values < 3 * 180 * 240 < 20 * 180 * 240
    assert len(predictions) == len(full) > 1
    for ours, theirs in zip(predictions, full, strict=True):
        assert (ours.class_index, ours.score) == (
            theirs.class_index,
            pytest.approx(theirs.score, abs=1e-4),
        )
        assert (ours.mask != theirs.mask).sum() <= 3, "only rounding may differ"


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
@pytest.mark.parametrize("classes", [0, 2])
def test_without_classes_or_things_there_may_be_no_masks(task: Task, classes: int) -> None:
    """No class at all, or only stuff."""
    predictions = postprocess(
        task,
        torch.randn(4, classes + 1),
        torch.randn(4, 8, 12),
        CROP,
        torch.zeros(classes, dtype=torch.bool),
        CONFIG,
    )
    assert predictions == [] or (classes and task != "instance")


def test_sums_of_scores_do_not_depend_on_the_order() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (200, 300), generator=generator)
    scores = torch.rand(200, 300, generator=generator)
    sums = sum_by_label(labels, scores, 4)
    for _ in range(5):
        order = torch.randperm(labels.numel(), generator=generator)
        shuffled = sum_by_label(labels.flatten()[order], scores.flatten()[order], 4)
        assert torch.equal(shuffled, sums)
    for label in range(4):
        exact = math.fsum(scores[labels == label].tolist())
        assert float(sums[label]) == pytest.approx(exact, rel=1e-9)


def test_a_large_image_of_sure_pixels_does_not_overflow() -> None:
    pixels = 2**22
    sums = sum_by_label(torch.zeros(pixels, dtype=torch.int16), torch.ones(pixels), 1)
    assert sums.tolist() == [pixels]


def test_no_scores_are_summed_by_a_kernel_of_changing_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`bincount` with weights and `index_add` of floats have no fixed order on GPUs."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        pytest.fail("adds floats in no fixed order on a GPU")

    monkeypatch.setattr(torch, "bincount", refuse)
    monkeypatch.setattr(torch.Tensor, "index_add_", refuse)
    generator = torch.Generator().manual_seed(1)
    classes = torch.randn(4, 3, generator=generator)
    masks = torch.randn(4, 32, 48, generator=generator)
    cells = torch.rand(2, 32, 48, generator=generator)
    assert semantic(classes, masks, CROP)
    config = InferenceConfig(dense=0.5)
    is_thing = torch.tensor([True, False])
    assert dense_masks("semantic", classes, masks, cells, CROP, is_thing, config)
    assert mask2former_masks("semantic", classes, masks, CROP, is_thing, config)
