"""Losses of box-conditioned queries: each box knows its target, so nothing is matched (OpenSeeD,
section 3.3)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.criterion.color_affinity import affinity_of_cells
from segkit.criterion.losses import (
    cross_entropy_loss,
    dice_loss,
    pairwise_losses,
    projection_loss,
)
from segkit.criterion.set_criterion import PooledTargets, box_cover, places
from segkit.data.batch import Batch
from segkit.model.box_prompt_encoder import CONTEXT, BoxPrompts, enlarged
from segkit.model.dataseg import MASK_STRIDE, Proposals
from segkit.recipes.schema import LossConfig

CROSS_ENTROPY = 5.0
"""Weight of the mask's cross-entropy beside dice's: Mask2Former's."""
OUTSIDE = -20.0
"""Logit of what lies outside a box's region, where masks are cut off."""
MIN_SIDE = 0.2
"""Longer side of a box over the crop's, at least: boxes are asked for on crops around them, where
all are as large."""


def sample_box_prompts(
    batch: Batch, config: LossConfig, generator: torch.Generator
) -> BoxPrompts | None:
    """Boxes of the instances that fill enough of the crop; None where there are none, or the loss
    has no weight.

    In semantic sets the connected parts stand for the instances: the box of a union is no object's
    box.
    """
    if config.conditioned == 0:
        return None
    least = MIN_SIDE * batch.images.shape[-1]
    of_kind = [t.is_part if batch.task == "semantic" else t.is_thing for t in batch.targets]
    large = [(t.boxes[:, 2:] - t.boxes[:, :2]).amax(-1) >= least for t in batch.targets]
    chosen = [torch.nonzero(kind & size)[:, 0] for kind, size in zip(of_kind, large, strict=True)]
    if not any(len(rows) for rows in chosen):
        return None
    pairs = list(zip(batch.targets, chosen, strict=True))
    boxes = [_jitter(t.boxes[rows], config.box_noise, generator) for t, rows in pairs]
    labels = [_withhold(t.labels[rows], config.label_dropout, generator) for t, rows in pairs]
    return BoxPrompts(boxes, labels, chosen)


def _jitter(boxes: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Shift each side by up to `noise` of the box's width or height."""
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    shift = torch.rand(boxes.shape, generator=generator) * 2 - 1
    return boxes + noise * shift * size


def _withhold(labels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    return labels.masked_fill(torch.rand(labels.shape, generator=generator) < share, -1)


def count_given(given: BoxPrompts | None, device: torch.device) -> Tensor:
    """(2,) float: how many boxes are given, and for how many of them the label is withheld."""
    labels = torch.cat(given.labels) if given else torch.zeros(0)
    return (
        torch.tensor([len(labels), int((labels < 0).sum())]).float().to(device, non_blocking=True)
    )


def conditioned_losses(
    made: Proposals,
    given: BoxPrompts,
    batch: Batch,
    cells: Sequence[PooledTargets],
    config: LossConfig,
    counts: Tensor,
) -> dict[str, Tensor]:
    """Mask or box losses inside each box's region, and the class of boxes whose label was withheld.

    The corrected masks, which are the answer, count as much as those of all layers before them
    together. Pixels outside the region never count: masks of given boxes are clipped to them, and a
    small object weighs as much as a large one.

    Args:
        made: proposals of the conditioned queries; those of the last layer are the corrected ones.
        given: what they were asked.
        batch: the images.
        cells: the targets pooled to cells, one an image.
        config: weights.
        counts: (2,), as `count_given` counts, over all that the losses are means of.

    Returns:
        Weighted scalars `conditioned_mask` and `conditioned_dice` where masks are known,
        `conditioned_projection` and `conditioned_pairwise` where only boxes are,
        `conditioned_class` where labels were withheld.
    """
    device = made.mask_logits.device
    images = torch.cat([torch.full_like(rows, i) for i, rows in enumerate(given.targets)])
    slots = torch.cat([torch.arange(len(rows)) for rows in given.targets])
    images, slots = (each.to(device, non_blocking=True) for each in (images, slots))
    masks = made.mask_logits.transpose(0, 1)[:, images, slots]
    layers = len(masks)
    asked = [cell.only(rows) for cell, rows in zip(cells, given.targets, strict=True)]
    region = _region(torch.cat(given.boxes).to(device, non_blocking=True), cells[0].weight.shape)
    boxes, withheld = counts.unbind()
    share = masks.new_full((layers, 1), 1 / max(1, layers - 1))
    share[-1] = 1.0
    known = torch.cat([c.has_mask for c in asked])
    losses: dict[str, Tensor] = {}
    if bool(known.any()):
        some = places(known, device)
        target = torch.cat([c.masks for c in asked])[some].flatten(1)
        weight = (region * torch.stack([c.weight for c in cells])[images])[some].flatten(1)
        logits = masks[:, some].flatten(2)
        of = target.expand_as(logits), weight.expand_as(logits)
        by_cell, by_overlap = (
            (share * loss(logits, *of)).sum() / boxes for loss in (cross_entropy_loss, dice_loss)
        )
        losses["conditioned_mask"] = CROSS_ENTROPY * config.conditioned * by_cell
        losses["conditioned_dice"] = config.dice * config.conditioned * by_overlap
    if not bool(known.all()):
        some = places(~known, device)
        cover = torch.cat([c.boxes for c in asked])[some]
        logits = torch.where(region[some] > 0, masks[:, some], OUTSIDE).flatten(0, 1)
        weight = share.expand(-1, len(cover)).flatten() / boxes
        losses |= _box_losses(
            logits, cover.repeat(layers, 1, 1), batch, images[some], config, weight
        )
    hidden = torch.cat(given.labels) < 0
    if bool(hidden.any()):
        some = places(hidden, device)
        logits = made.class_logits.transpose(0, 1)[:, images[some], slots[some]]
        labels = torch.cat([c.labels for c in asked])[some]
        loss = F.cross_entropy(logits.flatten(0, 1), labels.repeat(layers), reduction="sum")
        losses["conditioned_class"] = config.conditioned * loss / (withheld * layers)
    return losses


def _box_losses(
    logits: Tensor, cover: Tensor, batch: Batch, images: Tensor, config: LossConfig, weight: Tensor
) -> dict[str, Tensor]:
    """Projection and pairwise terms of boxes alone: logits and cover (L Q, h, w), images (Q,),
    weight (L Q,)."""
    losses = {
        "conditioned_projection": config.conditioned
        * (weight * projection_loss(logits, cover)).sum()
    }
    if config.pairwise > 0:
        of = images.repeat(len(logits) // len(images))
        alike = pairwise_losses(logits, affinity_of_cells(batch.images), of, cover)
        losses["conditioned_pairwise"] = (
            config.pairwise * config.conditioned * (weight * alike).sum()
        )
    return losses


def _region(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Cover (Q, h, w) of the boxes enlarged to the region that their queries see."""
    return box_cover(enlarged(boxes, CONTEXT), (size[0], size[1]), MASK_STRIDE)
