"""Losses of box-conditioned queries: each box knows its target, so nothing is matched (OpenSeeD, section 3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.data.batch import Batch
from segkit.model.conditioned import CONTEXT
from segkit.model.dataseg import MASK_STRIDE, Proposals
from segkit.supervision.config import LossConfig
from segkit.supervision.criterion import CellTargets, box_cover
from segkit.supervision.losses import cross_entropy_loss, dice_loss


@dataclass(frozen=True)
class GivenBoxes:
    """What conditioned queries are asked in a training step; one entry an image."""

    boxes: list[Tensor]
    """(Q_b, 4) x0, y0, x1, y1 in pixels, noise added."""
    labels: list[Tensor]
    """(Q_b,) int64, -1 where the label is withheld."""
    targets: list[Tensor]
    """(Q_b,) int64: which target of the image each box belongs to."""


def give_boxes(batch: Batch, config: LossConfig, generator: torch.Generator) -> GivenBoxes | None:
    """Boxes of the instances whose masks are known; None where there are none, or where the loss has no weight.

    Semantic sets give none: their masks are unions of objects, whose boxes are not objects' boxes.
    """
    if config.conditioned == 0 or batch.task == "semantic":
        return None
    chosen = [torch.nonzero(t.has_mask & t.is_thing)[:, 0] for t in batch.targets]
    if not any(len(rows) for rows in chosen):
        return None
    pairs = list(zip(batch.targets, chosen, strict=True))
    boxes = [_jitter(t.boxes[rows], config.box_noise, generator) for t, rows in pairs]
    labels = [_withhold(t.labels[rows], config.label_dropout, generator) for t, rows in pairs]
    return GivenBoxes(boxes, labels, chosen)


def _jitter(boxes: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Shift each side by up to `noise` of the box's width or height."""
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    shift = (torch.rand(boxes.shape, generator=generator) * 2 - 1).to(boxes.device)
    return boxes + noise * shift * size


def _withhold(labels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    hidden = (torch.rand(labels.shape, generator=generator) < share).to(labels.device)
    return labels.masked_fill(hidden, -1)


def count_given(given: GivenBoxes | None, device: torch.device) -> Tensor:
    """(2,) float: how many boxes are given, and for how many of them the label is withheld."""
    if given is None:
        return torch.zeros(2, device=device)
    labels = torch.cat(given.labels)
    return torch.stack((torch.ones_like(labels).sum(), (labels < 0).sum())).float()


def conditioned_losses(
    layers: Sequence[Proposals], given: GivenBoxes, cells: Sequence[CellTargets], config: LossConfig, counts: Tensor
) -> dict[str, Tensor]:
    """Mask losses inside each box's region, and the class of boxes whose label was withheld.

    Pixels outside the region never count: masks of given boxes are clipped to them, and a small object weighs as much
    as a large one.

    Args:
        layers: proposals of the conditioned queries at the start and after each decoder layer.
        given: what they were asked.
        cells: the targets pooled to cells, one an image.
        config: weights.
        counts: (2,), as `count_given` counts, over all that the losses are means of.

    Returns:
        Weighted scalars `conditioned_mask`, `conditioned_dice`, `conditioned_class`.
    """
    images = torch.cat([torch.full_like(rows, i) for i, rows in enumerate(given.targets)])
    slots = torch.cat([torch.arange(len(rows), device=images.device) for rows in given.targets])
    masks = torch.stack([layer.mask_logits[images, slots] for layer in layers]).flatten(2)
    wanted = torch.cat([c.masks[rows] for c, rows in zip(cells, given.targets, strict=True)])
    weight = torch.cat(
        [
            _region(boxes, (c.weight.shape[0], c.weight.shape[1])) * c.weight
            for c, boxes in zip(cells, given.boxes, strict=True)
        ]
    )
    target, weight = wanted.flatten(1).expand_as(masks), weight.flatten(1).expand_as(masks)
    boxes, withheld = (counts * len(layers)).unbind()
    losses = {
        "conditioned_mask": 5.0 * config.conditioned * cross_entropy_loss(masks, target, weight).sum() / boxes,
        "conditioned_dice": config.dice * config.conditioned * dice_loss(masks, target, weight).sum() / boxes,
    }
    asked = torch.cat(given.labels) < 0
    if bool(asked.any()):
        logits = torch.stack([layer.class_logits[images[asked], slots[asked]] for layer in layers])
        labels = torch.cat([c.labels[rows] for c, rows in zip(cells, given.targets, strict=True)])[asked]
        loss = F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(layers)), reduction="sum")
        losses["conditioned_class"] = config.conditioned * loss / withheld
    return losses


def _region(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Cover (Q, h, w) of the boxes enlarged to the region that their queries see."""
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * CONTEXT
    return box_cover(torch.cat((centre - half, centre + half), dim=1), size, MASK_STRIDE)
