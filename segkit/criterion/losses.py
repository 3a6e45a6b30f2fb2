"""Losses and matching costs of masks and boxes: pure functions, one value per pair."""

import torch
from torch import Tensor
from torch.nn import functional as F

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
DICE_SMOOTH = 1.0
DILATION = 2
"""Of the 3x3 window of the pairwise term (BoxInst)."""


def focal_terms(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Focal loss of each pixel for target 1 and for target 0 (Lin et al. 2017, eq. 5)."""
    probability = logits.sigmoid()
    positive = FOCAL_ALPHA * (1 - probability) ** FOCAL_GAMMA * F.softplus(-logits)
    negative = (1 - FOCAL_ALPHA) * probability**FOCAL_GAMMA * F.softplus(logits)
    return positive, negative


def focal_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of the focal loss over pixels.

    Args:
        logits: (T, P).
        target: (T, P) in 0-1; a soft target mixes both terms.
        weight: (T, P) in 0-1, zero where a pixel is void.

    Returns:
        (T,).
    """
    positive, negative = focal_terms(logits)
    loss = target * positive + (1 - target) * negative
    return (loss * weight).sum(-1) / weight.sum(-1).clamp(min=1.0)


def cross_entropy_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of the binary cross-entropy over pixels; shapes as in `focal_loss`."""
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (loss * weight).sum(-1) / weight.sum(-1).clamp(min=1.0)


def outline(masks: Tensor) -> Tensor:
    """How far the 3x3 neighborhoods of cells differ: 1 on both sides of an outline, 0 elsewhere.

    Args:
        masks: (T, h, w) in 0-1.

    Returns:
        (T, h, w) in 0-1.
    """
    highest = F.max_pool2d(masks, kernel_size=3, stride=1, padding=1)
    lowest = -F.max_pool2d(-masks, kernel_size=3, stride=1, padding=1)
    return highest - lowest


def dice_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """1 - (2 sum(s t) + 1) / (sum s + sum t + 1) over pixels; shapes as in `focal_loss`."""
    probability = logits.sigmoid() * weight
    overlap = (probability * target).sum(-1)
    total = probability.sum(-1) + (target * weight).sum(-1)
    return 1 - (2 * overlap + DICE_SMOOTH) / (total + DICE_SMOOTH)


def focal_cost(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """`focal_loss` of every proposal against every target.

    Args:
        logits: (..., N, P).
        target: (T, P).
        weight: (P,), the same for all targets of the image.

    Returns:
        (..., N, T).
    """
    positive, negative = focal_terms(logits)
    share = weight / weight.sum().clamp(min=1.0)
    return positive @ (target * share).T + negative @ ((1 - target) * share).T


def dice_cost(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """`dice_loss` of every proposal against every target; shapes as in `focal_cost`."""
    probability = logits.sigmoid() * weight
    overlap = probability @ target.T
    total = probability.sum(-1)[..., None] + (target * weight).sum(-1)
    return 1 - (2 * overlap + DICE_SMOOTH) / (total + DICE_SMOOTH)


def profiles(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum of masks (..., h, w) along each axis: over rows (..., w), over columns (..., h)."""
    return masks.amax(-2), masks.amax(-1)


def squared_dice(x: Tensor, target: Tensor) -> Tensor:
    """1 - 2 sum(x t) / (sum x^2 + sum t^2 + 1e-5) over the last axis (BoxInst's dice)."""
    return 1 - 2 * (x * target).sum(-1) / (x.square().sum(-1) + target.square().sum(-1) + 1e-5)


def projection_loss(logits: Tensor, box_profiles: tuple[Tensor, Tensor]) -> Tensor:
    """Distance of a mask's projections from its box's (BoxInst, Tian et al. 2021, eq. 2).

    Args:
        logits: (T, h, w).
        box_profiles: (T, w) and (T, h) in 0-1, `CellBoxes.profiles` (a fraction where a box ends
            within a cell).

    Returns:
        (T,), 0 to 2.
    """
    # the sigmoid is monotonic: it follows the maximum, which is a thousandth of the map
    across, down = (x.sigmoid() for x in profiles(logits))
    box_across, box_down = box_profiles
    return squared_dice(across, box_across) + squared_dice(down, box_down)


def projection_cost(
    logit_profiles: tuple[Tensor, Tensor], box_profiles: tuple[Tensor, Tensor]
) -> Tensor:
    """`projection_loss` of every proposal and box.

    Args:
        logit_profiles: (..., N, w) and (..., N, h), `profiles` of the mask logits.
        box_profiles: (T, w) and (T, h).

    Returns:
        (..., N, T).
    """
    shape = (*logit_profiles[0].shape[:-1], len(box_profiles[0]))
    cost = logit_profiles[0].new_zeros(shape)
    for logits, target in zip(logit_profiles, box_profiles, strict=True):
        x = logits.sigmoid()
        total = x.square().sum(-1)[..., None] + target.square().sum(-1) + 1e-5
        cost = cost + 1 - 2 * (x @ target.T) / total
    return cost


def neighbors(maps: Tensor) -> Tensor:
    """The 8 neighbors of each cell in a dilated 3x3 window, zero beyond the border.

    Args:
        maps: (B, C, h, w).

    Returns:
        (B, C, 8, h, w).
    """
    batch, channels, height, width = maps.shape
    windows = F.unfold(maps, 3, dilation=DILATION, padding=DILATION)
    windows = windows.view(batch, channels, 9, height, width)
    return torch.cat((windows[:, :, :4], windows[:, :, 5:]), dim=2)
