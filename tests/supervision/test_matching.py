from itertools import permutations

import pytest
import torch

from segkit.errors import SegkitError
from segkit.supervision.matching import match


def test_the_assignment_is_the_cheapest_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(25):
        cost = torch.randn(2, 5, 3, generator=generator)
        found = match(cost)
        for layer in range(2):
            rows = found.layer == layer
            total = cost[layer][found.proposal[rows], found.target[rows]].sum()
            cheapest = min(sum(cost[layer, p, t] for t, p in enumerate(choice)) for choice in permutations(range(5), 3))
            assert total.item() == pytest.approx(float(cheapest), abs=1e-5)


def test_forbidden_proposals_never_match_even_when_too_few_are_left() -> None:
    allowed = torch.tensor([[True, False, False, True, False]])
    found = match(torch.randn(1, 5, 3), allowed)
    assert sorted(found.proposal.tolist()) == [0, 3]
    assert len(found.target.unique()) == 2


def test_an_image_without_targets_has_no_pairs() -> None:
    assert len(match(torch.zeros(3, 5, 0)).target) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_diverged_model_is_reported(bad: float) -> None:
    cost = torch.zeros(1, 4, 2)
    cost[0, 1, 1] = bad
    with pytest.raises(SegkitError, match="diverged"):
        match(cost)
