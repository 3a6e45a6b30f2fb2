import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from segkit.criterion.merge import (
    NEGLIGIBLE,
    group_proposals,
    mask_weights,
    merge_all_masks,
    merge_classes,
    merge_masks,
    mergeable_classes,
)
from segkit.recipes.schema import MaskForm, ScoreForm

MASK_FORMS: tuple[MaskForm, ...] = get_args(MaskForm)
SCORE_FORMS: tuple[ScoreForm, ...] = get_args(ScoreForm)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def brute_groups(class_logits: Tensor, mergeable: list[bool], sure: float) -> dict[int, list[int]]:
    """First row of each group -> its rows; the winner's class of each row decides."""
    background = class_logits.shape[-1] - 1
    groups: dict[object, list[int]] = {}
    for row, logits in enumerate(class_logits):
        winner = int(logits.argmax())
        alone = (
            winner == background
            or not mergeable[winner]
            or float(logits.softmax(0)[winner]) <= sure
        )
        groups.setdefault(("alone", row) if alone else winner, []).append(row)
    return {rows[0]: rows if isinstance(key, int) else [] for key, rows in groups.items()}


def brute_mask(
    masks: Tensor, class_logits: Tensor, head: int, rows: list[int], form: MaskForm
) -> list[float]:
    """Probabilities of a group's mask; `rows` is empty for a proposal that is not merged."""
    winner = int(class_logits[head].argmax())
    claims = [float(logits.softmax(0)[winner]) for logits in class_logits]
    made = []
    for pixel in range(masks.shape[1]):
        inside = [sigmoid(float(mask[pixel])) for mask in masks]
        if not rows:
            made.append(inside[head])
        elif form == "max":
            made.append(max(inside[row] for row in rows))
        else:
            each = [p * s for p, s in zip(claims, inside, strict=True) if p >= NEGLIGIBLE]
            made.append(
                min(1.0, sum(each)) if form == "sum" else 1 - math.prod(1 - x for x in each)
            )
    return made


def brute_class(class_logits: Tensor, masks: Tensor, rows: list[int], form: ScoreForm) -> Tensor:
    if form == "mean":
        return torch.stack([class_logits[row] for row in rows]).mean(0)
    if form == "max":
        return class_logits[max(rows, key=lambda row: float(class_logits[row].softmax(0).max()))]
    mass = [sum(sigmoid(float(m)) for m in masks[row]) for row in rows]
    return sum(class_logits[row] * m for row, m in zip(rows, mass, strict=True)) / sum(mass)  # type: ignore[return-value]


@pytest.mark.parametrize("sure", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("form", MASK_FORMS)
def test_merged_masks_are_the_brute_force(form: MaskForm, sure: float) -> None:
    generator = torch.Generator().manual_seed(1)
    merged_any = False
    for _ in range(8):
        class_logits = torch.randn(2, 3, 12, 5, generator=generator) * 2
        mask_logits = torch.randn(2, 3, 12, 9, generator=generator) * 2
        mergeable = torch.rand(4, generator=generator) > 0.5
        groups = group_proposals(class_logits, mergeable, sure)
        weights = mask_weights(class_logits, groups, form)
        masks = merge_all_masks(mask_logits, weights, form)
        chosen = groups.alive.flatten(0, 1).nonzero()[::3]
        some = merge_masks(mask_logits.flatten(0, 1), weights.flatten(0, 1), chosen, form)
        torch.testing.assert_close(some, masks.flatten(0, 1)[chosen[:, 0], chosen[:, 1]])
        assert (masks[~groups.alive] == 0).all()
        for image in range(2):
            for layer in range(3):
                logits = class_logits[image, layer]
                expected = brute_groups(logits, mergeable.tolist(), sure)
                merged_any |= any(len(rows) > 1 for rows in expected.values())
                assert groups.alive[image, layer].nonzero().flatten().tolist() == sorted(expected)
                for head, rows in expected.items():
                    wanted = torch.tensor(
                        brute_mask(mask_logits[image, layer], logits, head, rows, form)
                    )
                    torch.testing.assert_close(
                        masks[image, layer, head].sigmoid(), wanted, atol=2e-6, rtol=1e-5
                    )
    assert merged_any == (sure < 1)


@pytest.mark.parametrize("form", SCORE_FORMS)
def test_merged_class_scores_are_the_brute_force(form: ScoreForm) -> None:
    generator = torch.Generator().manual_seed(2)
    for _ in range(20):
        class_logits = torch.randn(3, 12, 4, generator=generator) * 3
        mask_logits = torch.randn(3, 12, 9, generator=generator) * 3
        mergeable = torch.tensor([True, False, True])
        groups = group_proposals(class_logits, mergeable)
        found = merge_classes(class_logits, mask_logits, groups, form)
        assert (found[~groups.alive] == 0).all()
        for layer in range(3):
            for head, rows in brute_groups(class_logits[layer], mergeable.tolist(), 0.5).items():
                wanted = brute_class(class_logits[layer], mask_logits[layer], rows or [head], form)
                torch.testing.assert_close(found[layer, head], wanted)


def group(class_logits: Tensor) -> Callable[[Tensor, Tensor, MaskForm], Tensor]:
    """The merged mask of the first row, groups being those of `class_logits`."""
    groups = group_proposals(class_logits[None], torch.tensor([True, True]))

    def merged(classes: Tensor, masks: Tensor, form: MaskForm) -> Tensor:
        return merge_masks(
            masks[None], mask_weights(classes[None], groups, form), torch.tensor([[0, 0]]), form
        )

    return merged


@pytest.mark.parametrize("form", MASK_FORMS)
def test_gradients_of_merged_masks_are_finite_differences(form: MaskForm) -> None:
    generator = torch.Generator().manual_seed(4)
    classes = torch.tensor(
        [[3.0, 0.0, 0.0], [4.0, 1.0, 0.0], [0.0, 3.0, 0.0], [0.5, 0.0, 0.4]]
    ).double()
    masks = torch.randn(4, 6, generator=generator, dtype=torch.float64) * 2 - 1.5
    classes.requires_grad_(), masks.requires_grad_()
    merged = group(classes.detach())
    assert gradcheck(lambda c, m: merged(c, m, form), (classes, masks))
    merged(classes, masks, form).sum().backward()
    assert masks.grad is not None
    reached = (masks.grad != 0).any(1).tolist()
    assert reached == ([True, True, False, False] if form == "max" else [True] * 4)


@pytest.mark.parametrize("form", SCORE_FORMS)
def test_gradients_of_merged_scores_are_finite_differences(form: ScoreForm) -> None:
    classes = torch.tensor(
        [[3.0, 0.0], [4.0, 0.0], [0.0, 1.0]], dtype=torch.float64, requires_grad=True
    )
    masks = torch.tensor([[5.0, -9.0], [5.0, 5.0], [0.0, 0.0]], dtype=torch.float64)
    groups = group_proposals(classes.detach(), torch.tensor([True]))
    assert gradcheck(lambda c: merge_classes(c, masks, groups, form), (classes,))
    merge_classes(classes, masks, groups, form)[0, 0].backward()
    assert classes.grad is not None
    share = {"mean": [0.5, 0.5], "max": [0.0, 1.0], "mass": [1 / 3, 2 / 3]}[form]
    assert classes.grad[:, 0].tolist() == pytest.approx([*share, 0.0], abs=1e-3)


def test_the_maximum_hands_a_pixel_to_the_proposal_that_claims_it() -> None:
    classes = torch.tensor([[3.0, 0.0, 0.0], [4.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    masks = torch.tensor([[1.0, -1.0], [0.0, 2.0], [5.0, 5.0]], requires_grad=True)
    group(classes)(classes, masks, "max").sum().backward()
    assert masks.grad is not None
    assert masks.grad.tolist() == [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]


@pytest.mark.parametrize("form", MASK_FORMS)
def test_extreme_logits_stay_finite(form: MaskForm) -> None:
    classes = torch.tensor(
        [[90.0, 0.0, 0.0], [90.0, 0.0, 0.0], [0.0, 0.0, 90.0]], requires_grad=True
    )
    masks = torch.tensor([[200.0, -200.0], [200.0, -200.0], [5.0, 5.0]], requires_grad=True)
    merged = group(classes.detach())(classes, masks, form)
    merged.sum().backward()
    assert torch.isfinite(merged).all() and merged[0, 0] > 10 and merged[0, 1] < -10
    assert masks.grad is not None and torch.isfinite(masks.grad).all()


def test_what_is_merged_depends_on_the_task() -> None:
    is_thing = torch.tensor([True, False, True])
    assert mergeable_classes("panoptic", is_thing).tolist() == [False, True, False]
    assert mergeable_classes("semantic", is_thing).tolist() == [True, True, True]
    assert mergeable_classes("instance", is_thing).tolist() == [False, False, False]


def test_background_and_things_stay_alone() -> None:
    logits = torch.tensor(
        [[0.0, 0.0, 9.0], [0.0, 0.0, 9.0], [9.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 9.0, 0.0]]
    )
    groups = group_proposals(logits, torch.tensor([False, True]))
    assert groups.heads.tolist() == [0, 1, 2, 3, 4]
    assert groups.grouped.tolist() == [False, False, False, False, True]
