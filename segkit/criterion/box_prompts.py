"""Train box prompts: sample boxes for a step, and score their masks (OpenSeeD, section 3.3).

The target of each box is known, so nothing is matched.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from segkit import distributed
from segkit.criterion.color_affinity import image_affinity, pairwise_losses
from segkit.criterion.known_classes import IGNORED, known_class_loss
from segkit.criterion.losses import (
    cross_entropy_loss,
    dice_loss,
    outline,
    projection_loss,
)
from segkit.criterion.pooled_targets import CellBoxes, PooledTargets, box_cover, true_rows
from segkit.data.augment import CROP_FACTOR, MAX_ZOOM
from segkit.data.batch import Batch
from segkit.model.box_prompt_encoder import CONTEXT, BoxPrompts, enlarge
from segkit.model.dataseg import MASK_STRIDE, Proposals
from segkit.recipes.schema import LossConfig

CROSS_ENTROPY = 5.0
"""Weight of the mask's cross-entropy beside dice's: Mask2Former's."""
OUTSIDE = -20.0
"""Logit outside a box's region, where masks are cut off."""
MIN_SIDE = 0.2
"""Least longer side of a prompt's box over the crop's: inference prompts with crops around the
boxes, in which they are that large, unless `MAX_ZOOM` limits their enlargement."""
MIN_OBJECT = 8.0
"""Longer side of the smallest objects worth a mask, image pixels: enlarged `MAX_ZOOM` times, to 64
pixels, their boxes are prompts in crops of any size."""

MAX_BOXES = 100
"""Maximum box prompts of a crop where `loss.max_box_prompts` is 0, and of its denoising queries. At
1024 pixels in bf16 a prompt takes 20 MiB for forward pass and losses (`estimate_memory`)."""


def sample_box_prompts(
    batch: Batch, config: LossConfig, generator: torch.Generator
) -> BoxPrompts | None:
    """Box prompts for a training step: the instances that fill enough of the crop.

    In semantic sets the connected parts replace the instances: the box of a union would not be
    the box of an object.

    Every process must call it. All processes must run the same layers of the model, since FSDP
    gathers weights layer by layer, and a model without learned queries needs a prompt to run at
    all. So a process without boxes gets one placeholder prompt, whose target is -1, where another
    process has boxes or the learned queries are not trained.

    Args:
        batch: images and targets; the prompts are made on the CPU.
        config: box noise and label dropout.
        generator: source of both, on the CPU.

    Returns:
        None without any box, or where the loss has no weight.
    """
    if config.box_prompts == 0 and config.matching:
        return None
    prompts = _instance_prompts(batch, config, generator) if config.box_prompts > 0 else None
    return shared_prompts(batch, prompts, required=not config.matching)


def shared_prompts(
    batch: Batch, prompts: BoxPrompts | None, *, required: bool
) -> BoxPrompts | None:
    """The prompts, or a placeholder where only other processes have some or one is required."""
    exists = required or distributed.any_process(prompts is not None)
    if prompts is not None:
        return prompts
    return _placeholder(batch) if exists else None


def prompted_rows(batch: Batch, config: LossConfig) -> list[Tensor]:
    """(R,) int64 for each image: rows of the targets whose boxes become prompts."""
    crop_size, maximum = batch.images.shape[-1], config.max_box_prompts
    targets = [torch.nonzero(chosen)[:, 0] for chosen in _large_instances(batch)]
    return [
        _most_central(t.boxes, rows, crop_size)[:maximum]
        if maximum
        else at_most_boxes(t.boxes, rows, crop_size)
        for t, rows in zip(batch.targets, targets, strict=True)
    ]


def _large_instances(batch: Batch) -> list[Tensor]:
    """(T,) bool for each image: the targets that are large enough for a prompt."""
    min_side = min(MIN_SIDE * batch.images.shape[-1], MIN_OBJECT * MAX_ZOOM)  # crop pixels
    is_large = [(t.boxes[:, 2:] - t.boxes[:, :2]).amax(-1) >= min_side for t in batch.targets]
    return [is_object & large for is_object, large in zip(_objects(batch), is_large, strict=True)]


def _objects(batch: Batch) -> list[Tensor]:
    """(T,) bool for each image: the targets that are objects, or parts of a semantic class."""
    return [t.is_part if batch.task == "semantic" else t.is_thing for t in batch.targets]


def _instance_prompts(
    batch: Batch, config: LossConfig, generator: torch.Generator
) -> BoxPrompts | None:
    targets = prompted_rows(batch, config)
    if not any(len(rows) for rows in targets):
        return None
    pairs = list(zip(batch.targets, targets, strict=True))
    boxes = [jitter_boxes(t.boxes[rows], config.box_noise, generator) for t, rows in pairs]
    labels = [_drop_labels(t.labels[rows], config.label_dropout, generator) for t, rows in pairs]
    neighbors = []
    if config.max_box_prompts == 1:
        neighbors = [
            t.boxes[is_object.index_fill(0, rows, False)]
            for (t, rows), is_object in zip(pairs, _objects(batch), strict=True)
        ]
    return BoxPrompts(boxes, labels, targets, neighbors)


def at_most_boxes(boxes: Tensor, rows: Tensor, crop_size: int) -> Tensor:
    """The rows of boxes (T, 4) unchanged; of more than MAX_BOXES those that are most central."""
    if len(rows) <= MAX_BOXES:
        return rows
    return _most_central(boxes, rows, crop_size)[:MAX_BOXES]


def _most_central(boxes: Tensor, rows: Tensor, crop_size: int) -> Tensor:
    """Rows sorted by the likeness of their boxes (T, 4) to the prompts of inference.

    Those are in the center of a crop and 1 / CROP_FACTOR as large.
    """
    corners = boxes[rows] / crop_size
    center, size = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    scale = (size.amax(-1) * CROP_FACTOR).log().abs()
    distance = (center - 0.5).norm(dim=-1) + scale
    return rows[distance.argsort(stable=True)]


def jitter_boxes(boxes: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Shift each side by up to `noise` of the box's width or height."""
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    shift = torch.rand(boxes.shape, generator=generator) * 2 - 1
    return boxes + noise * shift * size


def _drop_labels(labels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Replace a share of the labels by -1, unknown."""
    return labels.masked_fill(torch.rand(labels.shape, generator=generator) < share, -1)


def _placeholder(batch: Batch) -> BoxPrompts:
    """One prompt without a target, in the first image."""
    height, width = batch.images.shape[-2:]
    counts = [1] + [0] * (len(batch.images) - 1)
    boxes = [torch.tensor([[0.0, 0.0, width, height]])[:count] for count in counts]
    unknown = [torch.full((count,), -1) for count in counts]
    return BoxPrompts(boxes, unknown, unknown)


def prompt_indices(prompts: BoxPrompts, device: torch.device) -> tuple[Tensor, Tensor]:
    """Image of each prompt and its row among the queries of that image: (Q,) int64 each."""
    image = torch.cat([torch.full_like(rows, i) for i, rows in enumerate(prompts.targets)])
    query = torch.cat([torch.arange(len(rows)) for rows in prompts.targets])
    return image.to(device, non_blocking=True), query.to(device, non_blocking=True)


def box_prompt_losses(
    outputs: Proposals,
    prompts: BoxPrompts,
    batch: Batch,
    targets: Sequence[PooledTargets],
    config: LossConfig,
) -> dict[str, Tensor]:
    """Mask or box losses in each box's region, and class losses of the prompts without a label.

    The refined masks, which are the model's output, count as much as those of all layers before
    them together. Pixels outside the region never count: inference clips masks to it, and a small
    object weighs as much as a large one.

    Args:
        outputs: proposals of the box prompts; the last layer holds the refined masks.
        prompts: from `sample_box_prompts`, on the CPU.
        batch: the images.
        targets: one entry per image.
        config: weights.

    Returns:
        Weighted scalars: `conditioned_mask` and `conditioned_dice` where masks are known,
        `conditioned_projection` and `conditioned_pairwise` where only boxes are, and
        `conditioned_class` where labels were dropped. Nothing for a placeholder.
    """
    device = outputs.mask_logits.device
    labels, rows = torch.cat(prompts.labels), torch.cat(prompts.targets)
    has_target = rows >= 0
    counts = torch.tensor([int(has_target.sum()), int((has_target & (labels < 0)).sum())])
    counts = distributed.mean_over_processes(counts.float().to(device, non_blocking=True))
    num_prompts, num_unlabeled = counts.unbind()
    if not bool(has_target.any()):
        return {}
    image, query = prompt_indices(prompts, device)
    masks = outputs.mask_logits.transpose(0, 1)[:, image, query]  # (L, Q, h, w)
    layers = len(masks)
    layer_weight = masks.new_full((layers, 1), 1 / max(1, layers - 1))
    layer_weight[-1] = 1.0
    truth = [t.select(rows) for t, rows in zip(targets, prompts.targets, strict=True)]
    trust = torch.cat([t.trust for t in truth])
    boxes = torch.cat(prompts.boxes).to(device, non_blocking=True)
    region = _region(boxes, targets[0].weight.shape)  # (Q, h, w)
    losses: dict[str, Tensor] = {}
    if bool((trust > 0).any()):
        chosen = true_rows(trust > 0, device)
        mask_weight = layer_weight * trust[trust > 0].to(device, non_blocking=True)  # (L, Q)
        mask = torch.cat([t.masks for t in truth])[chosen]
        weight = (region * torch.stack([t.weight for t in targets])[image])[chosen]
        emphasized = weight * (1 + config.outline * outline(mask)) if config.outline else weight
        logits = masks[:, chosen].flatten(2)  # (L, Q, h * w)
        target, weight, emphasized = (
            values.flatten(1).expand_as(logits) for values in (mask, weight, emphasized)
        )
        entropy = (mask_weight * cross_entropy_loss(logits, target, emphasized)).sum() / num_prompts
        dice = (mask_weight * dice_loss(logits, target, weight)).sum() / num_prompts
        losses["conditioned_mask"] = CROSS_ENTROPY * config.box_prompts * entropy
        losses["conditioned_dice"] = config.dice * config.box_prompts * dice
    if bool((trust < 1).any()):
        chosen = true_rows(trust < 1, device)
        box_weight = layer_weight * (1 - trust[trust < 1]).to(device, non_blocking=True)  # (L, Q)
        logits = torch.where(region[chosen] > 0, masks[:, chosen], OUTSIDE).flatten(0, 1)
        on_cells = CellBoxes.cat([t.boxes for t in truth])[chosen.repeat(layers)]
        corners = torch.cat([t.corners for t in truth])[trust < 1].repeat(layers, 1)
        weight, image_of_box = box_weight.flatten() / num_prompts, image[chosen].repeat(layers)
        losses |= _box_losses(logits, on_cells, corners, weight, batch, image_of_box, config)
    if bool((labels < 0).any()):
        pairs = zip(prompts.labels, batch.targets, prompts.targets, strict=True)
        unlabeled = [t.labels[rows].where(label < 0, IGNORED) for label, t, rows in pairs]
        annotated = [target.annotated for target in batch.targets]
        loss = known_class_loss(outputs.class_logits, unlabeled, annotated, config)
        losses["conditioned_class"] = config.box_prompts * loss / (num_unlabeled * layers)
    return losses


def _box_losses(
    logits: Tensor,
    boxes: CellBoxes,
    corners: Tensor,
    weight: Tensor,
    batch: Batch,
    image: Tensor,
    config: LossConfig,
) -> dict[str, Tensor]:
    """Projection and pairwise terms of boxes without a mask.

    Args:
        logits: (M, h, w).
        boxes: M boxes.
        corners: (M, 4), the same boxes in pixels, on the CPU.
        weight, image: (M,).
        batch: the images.
        config: weights.
    """
    projection = (weight * projection_loss(logits, boxes.profiles)).sum()
    losses = {"conditioned_projection": config.box_prompts * projection}
    if config.pairwise > 0:
        pairwise = pairwise_losses(logits, image_affinity(batch.images), image, corners)
        pairwise = (weight * pairwise).sum()
        losses["conditioned_pairwise"] = config.pairwise * config.box_prompts * pairwise
    return losses


def _region(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Cover (Q, h, w) of the boxes enlarged to the region that their queries attend to."""
    return box_cover(enlarge(boxes, CONTEXT), (size[0], size[1]), MASK_STRIDE)
