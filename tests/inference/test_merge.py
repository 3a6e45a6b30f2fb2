"""MERGE at inference against a loop over pixels."""

import numpy as np
import pytest
import torch
from torch import Tensor

from segkit.data.augment import full_image_crop
from segkit.inference.postprocess import class_scores, panoptic, semantic
from segkit.recipes.schema import InferenceConfig

HEIGHT, WIDTH = 32, 48
CROP = full_image_crop(HEIGHT, WIDTH, size=WIDTH, multiple=16)
"""The full image, without padding or resizing."""


@pytest.fixture
def proposals() -> tuple[Tensor, Tensor]:
    """(10, 5) class logits, some of them confident, and (10, 32, 48) smooth mask logits."""
    generator = torch.Generator().manual_seed(7)
    coarse = torch.randn(1, 10, 4, 6, generator=generator) * 4
    masks = torch.nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bilinear")[0]
    return torch.randn(10, 5, generator=generator) * 3, masks


def test_class_scores_equal_brute_force(proposals: tuple[Tensor, Tensor]) -> None:
    probability, soft = proposals[0].softmax(-1)[:, :-1], proposals[1].sigmoid()[:, ::9, ::9]
    scores = class_scores(probability, soft)
    for index in range(4):
        for y, x in np.ndindex(*soft.shape[1:]):
            total = sum(float(p[index] * s[y, x]) for p, s in zip(probability, soft, strict=True))
            assert float(scores[index, y, x]) == pytest.approx(total, rel=1e-5, abs=1e-6)


def test_semantic_labels_are_the_best_class_scores(proposals: tuple[Tensor, Tensor]) -> None:
    classes, masks = proposals
    best = class_scores(classes.softmax(-1)[:, :-1], masks.sigmoid()).argmax(0).numpy()
    labels = np.full((HEIGHT, WIDTH), -1)
    for item in semantic(classes, masks, CROP):
        labels[np.asarray(item.mask)] = item.class_index
    assert (labels == best).all()


def expected_panoptic(
    classes: Tensor, masks: Tensor, is_thing: list[bool], config: InferenceConfig
) -> dict[int, np.ndarray]:
    """Score in millionths -> mask: every pixel decided by itself."""
    probability, soft = classes.softmax(-1), masks.sigmoid()
    segments: list[tuple[float, list[list[float]]]] = []
    merged: set[int] = set()
    for row in range(len(classes)):
        index = int(probability[row].argmax())
        if index == len(is_thing) or probability[row, index] <= config.score or row in merged:
            continue
        rows = [row]
        if not is_thing[index]:
            rows = [
                r
                for r in range(len(classes))
                if probability[r].argmax() == index and probability[r, index] > config.score
            ]
        merged.update(rows)
        score = max(float(probability[r, index]) for r in rows)
        mask = [
            [max(float(soft[r, y, x]) for r in rows) for x in range(WIDTH)] for y in range(HEIGHT)
        ]
        segments.append((score, mask))
    stacked = np.array([mask for _, mask in segments])
    owner = (np.array([score for score, _ in segments])[:, None, None] * stacked).argmax(0)
    masks_by_score = {}
    for index, (score, _) in enumerate(segments):
        full_mask = stacked[index] >= 0.5
        visible = (owner == index) & full_mask
        if visible.sum() >= max(1, config.overlap * full_mask.sum()):
            masks_by_score[round(score * 1e6)] = visible
    return masks_by_score


def test_panoptic_equals_brute_force(proposals: tuple[Tensor, Tensor]) -> None:
    classes, masks = proposals
    is_thing = [True, False, False, True]
    config = InferenceConfig(score=0.4, overlap=0.05)
    expected = expected_panoptic(classes, masks, is_thing, config)
    predictions = panoptic(classes, masks, CROP, torch.tensor(is_thing), config)
    assert len(predictions) == len(expected) > 2
    for item in predictions:
        nearest = min(expected, key=lambda score: abs(score - round(item.score * 1e6)))
        assert abs(nearest - item.score * 1e6) < 5
        assert (np.asarray(item.mask) != expected[nearest]).sum() <= 2, (
            "except ties within rounding"
        )
