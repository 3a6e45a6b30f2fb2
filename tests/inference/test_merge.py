"""MERGE at inference against a loop over pixels."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from segkit.criterion.merge import class_claims
from segkit.data.augment import evaluation_window
from segkit.inference.postprocess import panoptic, semantic
from segkit.recipes.schema import InferenceConfig, MaskForm, ScoreForm

HEIGHT, WIDTH = 32, 48
WINDOW = evaluation_window(HEIGHT, WIDTH, size=WIDTH, multiple=16)
"""The canvas is the image."""
FORMS: tuple[MaskForm, ...] = get_args(MaskForm)


def joined(claims: list[float], form: MaskForm) -> float:
    return {
        "max": max(claims),
        "sum": sum(claims),
        "noisy-or": 1 - math.prod(1 - claim for claim in claims),
    }[form]


@pytest.fixture
def proposals() -> tuple[Tensor, Tensor]:
    """(10, 5) class logits, some of them sure, and (10, 32, 48) smooth mask logits."""
    generator = torch.Generator().manual_seed(7)
    coarse = torch.randn(1, 10, 4, 6, generator=generator) * 4
    masks = torch.nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bilinear")[0]
    return torch.randn(10, 5, generator=generator) * 3, masks


@pytest.mark.parametrize("form", FORMS)
def test_claims_of_classes_are_the_brute_force(
    form: MaskForm, proposals: tuple[Tensor, Tensor]
) -> None:
    probability, soft = proposals[0].softmax(-1)[:, :-1], proposals[1].sigmoid()[:, ::9, ::9]
    found = class_claims(probability, soft, form)
    for index in range(4):
        for y, x in np.ndindex(*soft.shape[1:]):
            claims = [float(p[index] * s[y, x]) for p, s in zip(probability, soft, strict=True)]
            assert float(found[index, y, x]) == pytest.approx(
                joined(claims, form), rel=1e-5, abs=1e-6
            )


@pytest.mark.parametrize("form", FORMS)
def test_class_maps_follow_the_form(form: MaskForm, proposals: tuple[Tensor, Tensor]) -> None:
    classes, masks = proposals
    best = class_claims(classes.softmax(-1)[:, :-1], masks.sigmoid(), form).argmax(0).numpy()
    labels = np.full((HEIGHT, WIDTH), -1)
    for item in semantic(classes, masks, WINDOW, InferenceConfig(merge_semantic=form)):
        labels[np.asarray(item.mask)] = item.class_index
    assert (labels == best).all()


def expected_panoptic(
    classes: Tensor, masks: Tensor, is_thing: list[bool], config: InferenceConfig
) -> dict[int, np.ndarray]:
    """Score in millionths -> mask: every pixel decided by itself."""
    probability, soft = classes.softmax(-1), masks.sigmoid()
    segments: list[tuple[float, list[list[float]]]] = []
    done: set[int] = set()
    for row in range(len(classes)):
        index = int(probability[row].argmax())
        if index == len(is_thing) or probability[row, index] <= config.score or row in done:
            continue
        rows = [row]
        if not is_thing[index]:
            rows = [
                r
                for r in range(len(classes))
                if probability[r].argmax() == index and probability[r, index] > config.score
            ]
        done.update(rows)
        if config.merge_scores == "mean":
            score = float(classes[rows].mean(0).softmax(-1)[index])
        else:
            score = max(float(probability[r, index]) for r in rows)
        weights = [(1.0, r) for r in rows]
        if not is_thing[index] and config.merge_masks != "max":
            weights = [(float(p[index]), r) for r, p in enumerate(probability) if p[index] >= 0.01]
        made = [
            [
                min(1.0, joined([w * float(soft[r, y, x]) for w, r in weights], config.merge_masks))
                for x in range(WIDTH)
            ]
            for y in range(HEIGHT)
        ]
        segments.append((score, made))
    stacked = np.array([made for _, made in segments])
    owner = (np.array([score for score, _ in segments])[:, None, None] * stacked).argmax(0)
    found = {}
    for place, (score, _) in enumerate(segments):
        whole = stacked[place] >= 0.5
        left = (owner == place) & whole
        if left.sum() >= max(1, config.overlap * whole.sum()):
            found[round(score * 1e6)] = left
    return found


@pytest.mark.parametrize("scores", ["mean", "max"])
@pytest.mark.parametrize("form", FORMS)
def test_panoptic_output_is_the_brute_force(
    form: MaskForm, scores: ScoreForm, proposals: tuple[Tensor, Tensor]
) -> None:
    classes, masks = proposals
    is_thing = [True, False, False, True]
    config = InferenceConfig(score=0.4, overlap=0.05, merge_masks=form, merge_scores=scores)
    expected = expected_panoptic(classes, masks, is_thing, config)
    found = panoptic(classes, masks, WINDOW, torch.tensor(is_thing), config)
    assert len(found) == len(expected) > 2
    for item in found:
        near = min(expected, key=lambda score: abs(score - round(item.score * 1e6)))
        assert abs(near - item.score * 1e6) < 5
        assert (np.asarray(item.mask) != expected[near]).sum() <= 2, "but for ties within rounding"
