import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn import functional as F

from segkit.criterion.losses import (
    cross_entropy_loss,
    dice_cost,
    dice_loss,
    focal_cost,
    focal_loss,
    neighbors,
    outline,
    profiles,
    projection_cost,
    projection_loss,
)

LossFunction = Callable[[Tensor, Tensor, Tensor], Tensor]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_focal_loss_of_a_single_pixel_is_the_papers_formula() -> None:
    for logit, target in ((0.3, 1.0), (-2.0, 1.0), (1.7, 0.0)):
        p = 1 / (1 + math.exp(-logit))
        pt, alpha = (p, 0.25) if target else (1 - p, 0.75)
        expected = -alpha * (1 - pt) ** 2 * math.log(pt)
        loss = focal_loss(torch.tensor([[logit]]), torch.tensor([[target]]), torch.ones(1, 1))
        assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_dice_of_hard_masks_is_two_overlaps_over_the_sum() -> None:
    target = torch.zeros(1, 100)
    target[0, :40] = 1
    predicted = torch.full((1, 100), -50.0)
    predicted[0, 20:50] = 50.0
    loss = dice_loss(predicted, target, torch.ones(1, 100))
    assert loss.item() == pytest.approx(1 - (2 * 20 + 1) / (30 + 40 + 1), abs=1e-6)


@pytest.mark.parametrize("loss", [focal_loss, dice_loss, cross_entropy_loss])
def test_void_pixels_count_for_nothing(loss: LossFunction, generator: torch.Generator) -> None:
    logits, target = torch.randn(3, 20, generator=generator), torch.rand(3, 20, generator=generator)
    weight = torch.ones(3, 20)
    weight[:, 12:] = 0
    changed = logits.clone()
    changed[:, 12:] += 7
    assert torch.equal(loss(logits, target, weight), loss(changed, target, weight))
    torch.testing.assert_close(
        loss(logits, target, weight), loss(logits[:, :12], target[:, :12], weight[:, :12])
    )


@pytest.mark.parametrize("loss", [focal_loss, dice_loss, cross_entropy_loss])
def test_gradients_of_mask_losses_are_finite_differences(
    loss: LossFunction, generator: torch.Generator
) -> None:
    logits = torch.randn(2, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    target, weight = (
        torch.rand(2, 6, generator=generator).double(),
        torch.rand(2, 6, generator=generator).double(),
    )
    assert gradcheck(lambda x: loss(x, target, weight), (logits,))


def test_an_outline_is_where_the_cells_around_differ(generator: torch.Generator) -> None:
    masks = torch.rand(3, 7, 5, generator=generator).round(decimals=1)
    found = outline(masks)
    for index in torch.cartesian_prod(torch.arange(3), torch.arange(7), torch.arange(5)).tolist():
        t, y, x = index
        around = masks[t, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        assert found[t, y, x] == around.max() - around.min()
    assert not outline(torch.ones(1, 4, 4)).any(), "no outline at the end of the map"


def test_costs_are_the_losses_of_every_pair(generator: torch.Generator) -> None:
    logits, target = torch.randn(4, 50, generator=generator), torch.rand(3, 50, generator=generator)
    weight = torch.rand(50, generator=generator)
    for cost, loss in ((focal_cost, focal_loss), (dice_cost, dice_loss)):
        expected = torch.stack(
            [loss(logits, target[t].expand(4, -1), weight.expand(4, -1)) for t in range(3)], dim=1
        )
        torch.testing.assert_close(cost(logits, target, weight), expected, rtol=1e-4, atol=1e-5)
    maps, boxes = (
        torch.randn(4, 6, 7, generator=generator),
        torch.rand(3, 6, 7, generator=generator),
    )
    expected = torch.stack(
        [projection_loss(maps, profiles(boxes[t].expand(4, -1, -1))) for t in range(3)], dim=1
    )
    cost = projection_cost(profiles(maps), profiles(boxes))
    torch.testing.assert_close(cost, expected, rtol=1e-4, atol=1e-5)


def test_projection_sees_only_the_extent() -> None:
    box = torch.zeros(1, 12, 12)
    box[0, 2:9, 3:10] = 1
    cross = torch.full((1, 12, 12), -50.0)
    cross[0, 5, 3:10] = 50.0
    cross[0, 2:9, 6] = 50.0
    assert projection_loss(cross, profiles(box)).item() == pytest.approx(0.0, abs=1e-5), (
        "a cross fills its box's projections"
    )
    half = torch.full((1, 12, 12), -50.0)
    half[0, 2:9, 3:7] = 50.0
    across = 1 - 2 * 4 / (4 + 7)
    assert projection_loss(half, profiles(box)).item() == pytest.approx(across, abs=1e-5)


def test_gradients_of_box_losses_are_finite_differences(generator: torch.Generator) -> None:
    logits = torch.randn(2, 5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    boxes = torch.zeros(2, 5, 6, dtype=torch.float64)
    boxes[:, 1:4, 1:5] = 1
    assert gradcheck(lambda x: projection_loss(x, profiles(boxes)), (logits,))


def test_neighbors_are_the_dilated_window() -> None:
    maps = torch.arange(30.0).view(1, 1, 5, 6)
    result = neighbors(maps)
    offsets = [(dy, dx) for dy in (-2, 0, 2) for dx in (-2, 0, 2) if (dy, dx) != (0, 0)]
    for k, (dy, dx) in enumerate(offsets):
        for y in range(5):
            for x in range(6):
                inside = 0 <= y + dy < 5 and 0 <= x + dx < 6
                assert result[0, 0, k, y, x] == (maps[0, 0, y + dy, x + dx] if inside else 0)


def test_cross_entropy_is_torchs(generator: torch.Generator) -> None:
    logits, target = torch.randn(2, 30, generator=generator), torch.rand(2, 30, generator=generator)
    expected = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)
    torch.testing.assert_close(cross_entropy_loss(logits, target, torch.ones(2, 30)), expected)
