from dataclasses import replace
from itertools import permutations
from typing import Literal

import pytest
import torch
from torch import Tensor

from segkit.criterion.losses import dice_loss, focal_loss, projection_loss
from segkit.criterion.matcher import HungarianMatcher, Indices, send_costs
from segkit.criterion.merge_proposals import MergedProposals
from segkit.criterion.pooled_targets import PooledTargets
from tests.criterion.scenes import CONFIG, rectangles


def assign(costs: list[Tensor], heads: Tensor | None = None) -> Indices:
    """The assignment by costs (L, N, T); heads (B, L, N) of MERGE remove proposals."""
    logits = torch.zeros(len(costs), *costs[0].shape[:2], 1)
    proposals = MergedProposals(logits, logits[..., None], heads)
    return HungarianMatcher.finish(send_costs(costs, proposals, proposals.kept))


def test_the_assignment_is_the_cheapest_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(25):
        costs = [torch.randn(2, 5, targets, generator=generator) for targets in (3, 0, 2)]
        indices = assign(costs)
        for image, cost in enumerate(costs):
            for layer in range(2):
                rows = (indices.image == image) & (indices.layer == layer)
                total = cost[layer][indices.query[rows], indices.target[rows]].sum()
                choices = permutations(range(5), cost.shape[2])
                cheapest = min(
                    sum(float(cost[layer, q, t]) for t, q in enumerate(choice))
                    for choice in choices
                )
                assert rows.sum() == cost.shape[2]
                assert total.item() == pytest.approx(cheapest, abs=1e-5)


def test_invalid_proposals_never_match_even_when_too_few_are_left() -> None:
    heads = torch.tensor([[[0, 0, 0, 3, 3]]])
    indices = assign([torch.randn(1, 5, 3).half()], heads)
    assert sorted(indices.query.tolist()) == [0, 3]
    assert len(indices.target.unique()) == 2


def test_an_image_without_targets_has_no_pairs() -> None:
    assert len(assign([torch.zeros(3, 5, 0)]).target) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_pairs_with_nonfinite_costs_match_last(bad: float) -> None:
    cost = torch.zeros(1, 2, 2)
    cost[0, 1, 1] = bad
    indices = assign([torch.zeros(1, 2, 1), cost])
    pairs = {
        (int(query), int(target))
        for image, query, target in zip(indices.image, indices.query, indices.target, strict=True)
        if image
    }
    assert pairs == {(0, 1), (1, 0)}
    diverged = assign([torch.full((1, 3, 2), bad)])
    assert sorted(diverged.target.tolist()) == [0, 1], (
        "each target keeps a pair, whose loss reports the divergence"
    )


def test_a_pair_costs_the_losses_that_its_targets_annotation_allows() -> None:
    boxes = (4, 8, 32, 40), (36, 0, 64, 20), (0, 32, 30, 64)
    image = rectangles(*boxes, labels=(1, 0, 2))
    targets = PooledTargets.from_targets(replace(image, has_mask=torch.tensor([True, False, True])))
    generator = torch.Generator().manual_seed(0)
    class_logits = torch.randn(1, 1, 5, 4, generator=generator)
    mask_logits = torch.randn(1, 1, 5, 16, 16, generator=generator)
    proposals = MergedProposals(class_logits, mask_logits, torch.arange(5).view(1, 1, 5))
    costs = HungarianMatcher(CONFIG).start(proposals, [targets], [None], generator)
    costs_of_pairs = costs.values.reshape(5, 3)
    pairs = zip(class_logits[0, 0], mask_logits[0, 0], strict=True)
    for row, (classes, mask) in enumerate(pairs):
        for column, label in enumerate((1, 0, 2)):
            flat = mask.flatten()[None], targets.masks[column].flatten()[None], torch.ones(1, 256)
            expected = -2.0 * classes.softmax(0)[label]
            one = torch.tensor([column])
            if column == 1:
                expected += 5.0 * projection_loss(mask[None], targets.boxes[one].profiles)[0]
            else:
                expected += 20.0 * focal_loss(*flat)[0] + 5.0 * dice_loss(*flat)[0]
            assert costs_of_pairs[row, column].item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("classes", ["softmax", "sigmoid"])
def test_equal_masks_are_matched_by_class(classes: Literal["softmax", "sigmoid"]) -> None:
    """Three proposals of one mask, two targets of another: nothing else tells them apart."""
    image = rectangles((4, 8, 32, 40), (4, 8, 32, 40), labels=(0, 1))
    targets = PooledTargets.from_targets(image)
    matcher = HungarianMatcher(CONFIG.model_copy(update={"classes": classes}))
    for named in permutations(range(3), 2):  # the proposals with the names of the targets
        class_logits = torch.zeros(1, 1, 3, 4)
        for label, query in enumerate(named):
            class_logits[0, 0, query, label] = 2.0
        proposals = MergedProposals(class_logits, torch.zeros(1, 1, 3, 16, 16), None)
        indices = matcher.finish(
            matcher.start(proposals, [targets], [None], torch.default_generator)
        )
        assert dict(zip(indices.target.tolist(), indices.query.tolist(), strict=True)) == dict(
            enumerate(named)
        )


@pytest.mark.parametrize("trust", [0.0, 0.01, 0.7, 1.0])
def test_trust_divides_the_cost_as_it_divides_the_loss(trust: float) -> None:
    image = rectangles((4, 8, 32, 40), (36, 0, 64, 20), labels=(1, 0))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, 5, 4, generator=generator)
    masks = torch.randn(1, 1, 5, 16, 16, generator=generator)

    def costs(has_mask: bool, trust: float) -> Tensor:
        flags, weights = torch.tensor([has_mask, True]), torch.tensor([trust, 1.0])
        targets = PooledTargets.from_targets(replace(image, has_mask=flags, trust=weights))
        proposals = MergedProposals(logits, masks, None)
        matcher = HungarianMatcher(CONFIG)
        return matcher.start(proposals, [targets], [None], generator).values

    by_mask, by_box = costs(True, 1.0), costs(False, 0.0)
    assert not torch.allclose(by_mask, by_box)
    torch.testing.assert_close(costs(True, trust), trust * by_mask + (1 - trust) * by_box)


def test_void_is_that_of_merged_masks_whatever_the_order_of_their_proposals() -> None:
    """A small proposal on void and a large one on labels are one mask, mostly on labels."""
    void = torch.zeros(64, 64, dtype=torch.bool)
    void[:8] = True
    targets = PooledTargets.from_targets(replace(rectangles(), void=void))
    masks = torch.full((2, 16, 16), -9.0)
    masks[0, :2], masks[1, 2:] = 9.0, 9.0
    generator = torch.Generator()
    for order in ([0, 1], [1, 0]):
        mask_logits, logits = masks[order][None, None], torch.zeros(1, 1, 2, 4)
        merged = MergedProposals(logits, mask_logits, torch.zeros(1, 1, 2, dtype=torch.int64))
        costs = HungarianMatcher(CONFIG).start(merged, [targets], [None], generator)
        assert costs.background.tolist() == [[[True, False]]]
        unmerged = MergedProposals(logits, mask_logits, None)
        costs = HungarianMatcher(CONFIG).start(unmerged, [targets], [None], generator)
        assert costs.background[0, 0].tolist() == [row == 1 for row in order]
