from itertools import permutations

import pytest
import torch

from segkit.criterion.matcher import match, send_costs


def test_the_assignment_is_the_cheapest_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(25):
        costs = [torch.randn(2, 5, targets, generator=generator) for targets in (3, 0, 2)]
        found = match(send_costs(costs))
        for image, cost in enumerate(costs):
            for layer in range(2):
                rows = (found.image == image) & (found.layer == layer)
                total = cost[layer][found.proposal[rows], found.target[rows]].sum()
                choices = permutations(range(5), cost.shape[2])
                cheapest = min(
                    sum(float(cost[layer, p, t]) for t, p in enumerate(choice))
                    for choice in choices
                )
                assert rows.sum() == cost.shape[2]
                assert total.item() == pytest.approx(cheapest, abs=1e-5)


def test_forbidden_proposals_never_match_even_when_too_few_are_left() -> None:
    allowed = torch.tensor([[[True, False, False, True, False]]])
    found = match(send_costs([torch.randn(1, 5, 3).half()], allowed))
    assert sorted(found.proposal.tolist()) == [0, 3]
    assert len(found.target.unique()) == 2


def test_an_image_without_targets_has_no_pairs() -> None:
    assert len(match(send_costs([torch.zeros(3, 5, 0)])).target) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_costs_that_are_not_finite_are_taken_last(bad: float) -> None:
    cost = torch.zeros(1, 2, 2)
    cost[0, 1, 1] = bad
    found = match(send_costs([torch.zeros(1, 2, 1), cost]))
    pairs = {
        (int(p), int(t))
        for i, p, t in zip(found.image, found.proposal, found.target, strict=True)
        if i
    }
    assert pairs == {(0, 1), (1, 0)}
    lost = match(send_costs([torch.full((1, 3, 2), bad)]))
    assert sorted(lost.target.tolist()) == [0, 1], (
        "each target keeps a pair, whose loss tells that all is lost"
    )
