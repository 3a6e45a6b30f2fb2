"""Losses and matching costs of masks and boxes: pure functions, one value per pair."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
DICE_SMOOTH = 1.0
DILATION = 2
"""Of the 3x3 window of the pairwise term (BoxInst)."""
MAX_NEIGHBORS = 2**27
"""Neighbor pairs per chunk of the pairwise term: half a GiB in float32, and several copies of it
exist at a time."""


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


def projection_loss(logits: Tensor, boxes: Tensor) -> Tensor:
    """Distance of a mask's projections from its box's (BoxInst, Tian et al. 2021, eq. 2).

    Args:
        logits: (T, h, w).
        boxes: (T, h, w), filled boxes in 0-1 (a fraction where a box ends within a cell).

    Returns:
        (T,), 0 to 2.
    """
    (across, down), (box_across, box_down) = profiles(logits.sigmoid()), profiles(boxes)
    return squared_dice(across, box_across) + squared_dice(down, box_down)


def projection_cost(logits: Tensor, boxes: Tensor) -> Tensor:
    """`projection_loss` of every proposal (..., N, h, w) and box (T, h, w): (..., N, T)."""
    cost = logits.new_zeros((*logits.shape[:-2], len(boxes)))
    for x, target in zip(profiles(logits.sigmoid()), profiles(boxes), strict=True):
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


def pairwise_loss(logits: Tensor, affinity: Tensor, boxes: Tensor) -> Tensor:
    """Penalty for neighbors of similar color in the box with different labels (BoxInst, eq. 4).

    Args:
        logits: (T, h, w).
        affinity: (T, 8, h, w), `color_affinity` of each target's image.
        boxes: (T, h, w), filled boxes in 0-1.

    Returns:
        (T,): mean of -log(p p' + (1 - p)(1 - p')) over similar pairs, computed in log space.
    """
    inside, outside = F.logsigmoid(logits)[:, None], F.logsigmoid(-logits)[:, None]
    same = torch.logaddexp(inside + neighbors(inside)[:, 0], outside + neighbors(outside)[:, 0])
    weight = affinity * (boxes > 0.5).to(logits.dtype)[:, None]
    return -(same * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp(min=1.0)


def pairwise_losses(logits: Tensor, affinity: Tensor, image: Tensor, boxes: Tensor) -> Tensor:
    """`pairwise_loss` of any number of masks, in chunks that run again in the backward pass.

    Args:
        logits: (T, h, w).
        affinity: (B, 8, h, w), of the images.
        image: (T,) int64, each mask's image.
        boxes: (T, h, w).

    Returns:
        (T,).
    """

    def chunk_loss(logits: Tensor, image: Tensor, boxes: Tensor) -> Tensor:
        return pairwise_loss(logits, affinity[image], boxes)

    chunk = max(1, MAX_NEIGHBORS // affinity[0].numel())
    if len(logits) <= chunk:
        return chunk_loss(logits, image, boxes)
    chunks = zip(*(torch.split(x, chunk) for x in (logits, image, boxes)), strict=True)
    return torch.cat([checkpoint(chunk_loss, *part, use_reentrant=False) for part in chunks])
