"""Dense loss: cross-entropy of cells, on masks by their classes and in boxes by a partial label.

A cell's labeled pixels fall into three shares:

- on masks: the cross-entropy of the masks' classes, each by its share of the cell;
- in boxes without a mask: the cell shows one of the boxes' classes or background, so the loss is
  -log of the sum of their probabilities. In the core of a box (its middle half in either direction,
  at least the cell that holds its center) background and larger boxes are left out: an object in
  front of another is usually the smaller one. A mask of trust t counts by t, and its box by 1 - t;
- elsewhere, in sets of instances only: background. In images that are not exhaustive such pixels
  are void, and count in no share.

A class that an image is not annotated for is no negative: on masks and in cores it is left out of
the softmax, elsewhere its probability counts as background (`segkit.criterion.partial_labels`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from segkit import distributed
from segkit.criterion.partial_labels import (
    mask_unannotated_logits,
    merge_unannotated_into_background,
)
from segkit.criterion.pooled_targets import PooledTargets, box_cover, true_rows
from segkit.data.batch import Batch, Targets
from segkit.model.dataseg import MASK_STRIDE

CORE = 0.5
"""Side of a box's core over the box's."""


def dense_loss(
    cells: Sequence[Tensor], batch: Batch, targets: Sequence[PooledTargets], background: float
) -> Tensor:
    """Mean loss of all labeled cells of a scale; the mean over the scales.

    Args:
        cells: class logits of each scale, (B, h, w, K + 1), background last.
        batch: the images.
        targets: one entry per image.
        background: weight of the background share.
    """
    with torch.autocast(cells[0].device.type, enabled=False):  # sums of cells exceed fp16's range
        return torch.stack([_scale_loss(x, batch, targets, background) for x in cells]).mean()


def _scale_loss(
    logits: Tensor, batch: Batch, pooled: Sequence[PooledTargets], background: float
) -> Tensor:
    annotated = [target.annotated for target in batch.targets]
    logits = logits.float()
    sure = mask_unannotated_logits(logits, annotated).log_softmax(-1)  # (B, h, w, K + 1)
    partial = sure
    if any(classes is not None for classes in annotated):
        partial = merge_unannotated_into_background(logits, annotated).log_softmax(-1)
    has_background = batch.task == "instance"
    sums = [
        _image_loss(*image, background if has_background else 0.0)
        for image in zip(sure, partial, batch.targets, pooled, strict=True)
    ]
    loss, weight = torch.stack(sums).sum(0).unbind()
    return loss / distributed.mean_over_processes(weight.detach()).clamp(min=1.0)


def _image_loss(
    sure: Tensor, partial: Tensor, target: Targets, pooled: PooledTargets, background: float
) -> Tensor:
    """Sums (2,) of the losses and weights of the cells of one image.

    Args:
        sure: (h, w, K + 1) log-probabilities without the classes that are not annotated.
        partial: (h, w, K + 1) log-probabilities with those added to background.
        target, pooled: of the image.
        background: weight of the background share; 0 where there is no background.
    """
    size = (sure.shape[0], sure.shape[1])
    device = sure.device
    masked = true_rows((pooled.trust > 0) & ~target.is_part, device)
    trust = pooled.trust.to(device, non_blocking=True)  # (T,)
    labeled = _pool(pooled.weight, size)  # (h, w)
    on_mask = _pool(pooled.masks[masked] * pooled.weight, size)  # (T, h, w)
    total = on_mask.sum(0)
    on_mask = on_mask * (labeled / total.clamp(min=1e-6)).clamp(max=1.0)  # instances may overlap
    rest = (labeled - total).clamp(min=0)
    doubtful = on_mask * (1 - trust[masked, None, None])
    on_mask = on_mask - doubtful
    loss = -torch.einsum("thw,hwt->", on_mask, sure[..., pooled.labels[masked]])
    weight = on_mask.sum()
    boxed = torch.nonzero((pooled.trust < 1) & ~target.is_part)[:, 0]
    off_mask = torch.zeros_like(rest)  # in boxes
    if len(boxed):
        boxes, doubt = (
            x[boxed].to(device, non_blocking=True) for x in (target.boxes, 1 - pooled.trust)
        )
        stride = MASK_STRIDE * pooled.weight.shape[1] // size[1]
        cover = box_cover(boxes, size, stride)
        off_mask = rest * (1 - (1 - cover * doubt[:, None, None]).prod(0))
        in_box = off_mask + doubtful.sum(0)
        near = (cover > 0) * doubt[:, None, None]
        near = near / near.amax(0).clamp(min=1e-6)
        core = near * box_core(boxes, size, stride)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)[:, None, None]
        front = near * (area <= (area * (core > 0)).amax(0))
        log_allowed = _log_allowed(sure, partial, target.labels[boxed], near, core, front)
        loss = loss - (in_box * log_allowed).sum()
        weight = weight + in_box.sum()
    if background > 0:
        outside = background * (rest - off_mask)
        loss = loss - (outside * partial[..., -1]).sum()
        weight = weight + outside.sum()
    return torch.stack((loss, weight))


def _log_allowed(
    sure: Tensor, partial: Tensor, labels: Tensor, near: Tensor, core: Tensor, front: Tensor
) -> Tensor:
    """Log of the probability of the classes that boxes allow in each cell.

    Args:
        sure, partial: as in `_image_loss`.
        labels: (T,) int64, on the CPU.
        near: (T, h, w) in 0-1: doubt of each box that touches a cell over the greatest there, so
            that a mask that is all but trusted hardly allows its class.
        core: the same, 0 beyond the cores of boxes.
        front: the same, 0 except in cells of a core of that box or of a larger one.

    Returns:
        (h, w); 0 in cells that no box touches.
    """
    classes, row = torch.unique(labels, return_inverse=True)  # two boxes of a class count once
    index = row.to(sure.device, non_blocking=True)[:, None, None].expand_as(near)
    no_share = near.new_zeros(len(classes), *near.shape[1:])
    in_front, in_box = (
        no_share.scatter_reduce(0, index, share, "amax").movedim(0, -1) for share in (front, near)
    )  # (h, w, C)
    classes = classes.to(sure.device, non_blocking=True)
    on_object = _log_sum(sure[..., classes], in_front)
    allowed = torch.cat((in_box, in_box.amax(-1, keepdim=True).sign()), dim=-1)  # (h, w, C + 1)
    on_box = _log_sum(torch.cat((partial[..., classes], partial[..., -1:]), dim=-1), allowed)
    certain = core.amax(0)
    return certain * on_object + (1 - certain) * on_box


def _log_sum(log_probability: Tensor, shares: Tensor) -> Tensor:
    """Log of the sum of shares (..., C) of probabilities, (...); 0 where all shares are 0."""
    terms = log_probability + shares.clamp(min=1e-6).log()
    total = terms.masked_fill(shares <= 0, -torch.inf).logsumexp(-1)
    return torch.where(shares.amax(-1) > 0, total, 0.0)


def box_core(boxes: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """Cells in the cores of boxes.

    A cell belongs to a core if the box covers half of it at least, and its center is in the middle
    CORE of the box in either direction, or within half a cell of the box's center.

    Args:
        boxes: (T, 4) x0, y0, x1, y1 in pixels.
        size: height and width of the map, in cells.
        stride: pixels per cell.

    Returns:
        (T, height, width) bool.
    """
    center, side = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    reach = (side * CORE / 2).clamp(min=stride / 2)  # (T, 2)
    x, y = ((torch.arange(n, device=boxes.device) + 0.5) * stride for n in (size[1], size[0]))
    across = (x - center[:, :1]).abs() <= reach[:, :1]  # (T, width)
    down = (y - center[:, 1:]).abs() <= reach[:, 1:]  # (T, height)
    return down[:, :, None] & across[:, None] & (box_cover(boxes, size, stride) >= 0.5)


def _pool(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean of each cell, from stride 4: (..., H/4, W/4) -> (..., h, w)."""
    factor = maps.shape[-1] // size[1]
    return maps.reshape(*maps.shape[:-2], size[0], factor, size[1], factor).mean((-1, -3))
