import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from segkit.criterion.merge_proposals import (
    group_proposals,
    kept_rows,
    merge_all_masks,
    merge_classes,
    merge_masks,
    merge_proposals,
    mergeable_classes,
)
from segkit.model.dataseg import Proposals


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def brute_groups(
    class_logits: Tensor, mergeable: list[bool], threshold: float
) -> dict[int, list[int]]:
    """First row of each group -> its rows; the winner's class of each row decides."""
    background = class_logits.shape[-1] - 1
    groups: dict[object, list[int]] = {}
    for row, logits in enumerate(class_logits):
        winner = int(logits.argmax())
        unmerged = (
            winner == background
            or not mergeable[winner]
            or float(logits.softmax(0)[winner]) <= threshold
        )
        groups.setdefault(("unmerged", row) if unmerged else winner, []).append(row)
    return {rows[0]: rows for rows in groups.values()}


def brute_mask(masks: Tensor, rows: list[int]) -> list[float]:
    """Probabilities of a group's mask."""
    return [
        max(sigmoid(float(masks[row, pixel])) for row in rows) for pixel in range(masks.shape[1])
    ]


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_merged_masks_are_the_brute_force(threshold: float) -> None:
    generator = torch.Generator().manual_seed(1)
    merged_any = False
    for _ in range(8):
        class_logits = torch.randn(2, 3, 12, 5, generator=generator) * 2
        mask_logits = torch.randn(2, 3, 12, 9, generator=generator) * 2
        mergeable = torch.rand(4, generator=generator) > 0.5
        heads = group_proposals(class_logits, mergeable, threshold)
        kept = kept_rows(heads)
        masks = merge_all_masks(mask_logits, heads)
        rows = kept.flatten(0, 1).nonzero()[::3]
        selected = merge_masks(mask_logits.flatten(0, 1), heads.flatten(0, 1), rows)
        torch.testing.assert_close(selected, masks.flatten(0, 1)[rows[:, 0], rows[:, 1]])
        assert (masks[~kept] == 0).all()
        for image in range(2):
            for layer in range(3):
                logits = class_logits[image, layer]
                expected = brute_groups(logits, mergeable.tolist(), threshold)
                merged_any |= any(len(rows) > 1 for rows in expected.values())
                assert kept[image, layer].nonzero().flatten().tolist() == sorted(expected)
                for head, members in expected.items():
                    target = torch.tensor(brute_mask(mask_logits[image, layer], members))
                    torch.testing.assert_close(
                        masks[image, layer, head].sigmoid(), target, atol=2e-6, rtol=1e-5
                    )
    assert merged_any == (threshold < 1)


def test_merged_class_scores_are_the_brute_force() -> None:
    generator = torch.Generator().manual_seed(2)
    for _ in range(20):
        class_logits = torch.randn(3, 12, 4, generator=generator) * 3
        mergeable = torch.tensor([True, False, True])
        heads = group_proposals(class_logits, mergeable)
        merged = merge_classes(class_logits, heads)
        assert (merged[~kept_rows(heads)] == 0).all()
        for layer in range(3):
            groups = brute_groups(class_logits[layer], mergeable.tolist(), 0.5)
            for head, rows in groups.items():
                mean = torch.stack([class_logits[layer, row] for row in rows]).mean(0)
                torch.testing.assert_close(merged[layer, head], mean)


def first_group(class_logits: Tensor) -> Callable[[Tensor], Tensor]:
    """Masks -> the merged mask of the first row, groups being those of `class_logits`."""
    heads = group_proposals(class_logits[None], torch.tensor([True, True]))
    return lambda masks: merge_masks(masks[None], heads, torch.tensor([[0, 0]]))


def test_gradients_of_merged_masks_are_finite_differences() -> None:
    generator = torch.Generator().manual_seed(4)
    classes = torch.tensor(
        [[3.0, 0.0, 0.0], [4.0, 1.0, 0.0], [0.0, 3.0, 0.0], [0.5, 0.0, 0.4]]
    ).double()
    masks = torch.randn(4, 6, generator=generator, dtype=torch.float64) * 2 - 1.5
    masks.requires_grad_()
    merged = first_group(classes)
    assert gradcheck(merged, (masks,))
    merged(masks).sum().backward()
    assert masks.grad is not None
    assert (masks.grad != 0).any(1).tolist() == [True, True, False, False]


def test_gradients_of_merged_scores_are_finite_differences() -> None:
    classes = torch.tensor(
        [[3.0, 0.0], [4.0, 0.0], [0.0, 1.0]], dtype=torch.float64, requires_grad=True
    )
    heads = group_proposals(classes.detach(), torch.tensor([True]))
    assert gradcheck(lambda logits: merge_classes(logits, heads), (classes,))
    merge_classes(classes, heads)[0, 0].backward()
    assert classes.grad is not None
    assert classes.grad[:, 0].tolist() == pytest.approx([0.5, 0.5, 0.0], abs=1e-3)


def test_the_maximum_passes_a_pixels_gradient_to_the_proposal_that_claims_it() -> None:
    classes = torch.tensor([[3.0, 0.0, 0.0], [4.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    masks = torch.tensor([[1.0, -1.0], [0.0, 2.0], [5.0, 5.0]], requires_grad=True)
    first_group(classes)(masks).sum().backward()
    assert masks.grad is not None
    assert masks.grad.tolist() == [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]


def test_extreme_logits_stay_finite() -> None:
    classes = torch.tensor([[90.0, 0.0, 0.0], [90.0, 0.0, 0.0], [0.0, 0.0, 90.0]])
    masks = torch.tensor([[200.0, -200.0], [200.0, -200.0], [5.0, 5.0]], requires_grad=True)
    merged = first_group(classes)(masks)
    merged.sum().backward()
    assert torch.isfinite(merged).all() and merged[0, 0] > 10 and merged[0, 1] < -10
    assert masks.grad is not None and torch.isfinite(masks.grad).all()


def test_mergeable_classes_depend_on_the_task() -> None:
    is_thing = torch.tensor([True, False, True])
    assert mergeable_classes("panoptic", is_thing).tolist() == [False, True, False]
    assert mergeable_classes("semantic", is_thing).tolist() == [True, True, True]
    assert mergeable_classes("instance", is_thing) is None


def test_background_and_things_are_never_merged() -> None:
    background, thing, stuff = [0.0, 0.0, 9.0], [9.0, 0.0, 0.0], [0.0, 9.0, 0.0]
    logits = torch.tensor([background, background, thing, thing, stuff, stuff])
    heads = group_proposals(logits, torch.tensor([False, True]))
    assert heads.tolist() == [0, 1, 2, 3, 4, 4]


def test_proposals_are_grouped_by_their_annotated_classes() -> None:
    classes = torch.tensor([[5.0, 9.0, 0.0], [9.0, 0.0, 0.0], [0.0, 9.0, 0.0]])[None, None]
    masks = torch.randn(1, 1, 3, 4, 4)
    mergeable, partly = torch.tensor([True, True]), torch.tensor([True, False])
    proposals = Proposals(classes, masks)
    merged = merge_proposals(proposals, mergeable, [None], 0.5, "softmax")
    assert merged.heads.tolist() == [[[0, 1, 0]]]
    assert merged.kept.tolist() == [[[True, True, False]]]
    merged = merge_proposals(proposals, mergeable, [partly], 0.5, "softmax")
    assert merged.heads.tolist() == [[[0, 0, 2]]], "without class 1, the first two show class 0"
    torch.testing.assert_close(merged.class_logits[0, 0, 0], torch.tensor([7.0, 4.5, 0.0]))
    assert merged.mask_logits is masks, "masks are merged where they are needed"
