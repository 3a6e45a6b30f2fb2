"""Denoising: foreground queries at true boxes with noise (OpenSeeD, section 3.2; DN-DETR).

The target of each query is known, so nothing is matched: from the first step on, layers learn to
correct a box and to name and segment what it shows, while the matching still changes its mind.
Each query is a group of its own: it attends to no other, and no other attends to it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from segkit import distributed
from segkit.criterion.box_prompts import (
    at_most_boxes,
    jitter_boxes,
    prompt_indices,
    shared_prompts,
)
from segkit.criterion.known_classes import known_class_loss
from segkit.criterion.losses import dice_loss, focal_loss
from segkit.criterion.pooled_targets import PooledTargets, true_rows
from segkit.criterion.query_groups import box_losses
from segkit.data.batch import Batch
from segkit.model.box_coding import from_pixels
from segkit.model.box_prompt_encoder import BoxPrompts
from segkit.model.dataseg import Proposals
from segkit.recipes.schema import LossConfig

NOISE = 0.4
"""Largest shift of a side over the box's length, as OpenSeeD's noise of center and size allows."""


def sample_denoising(
    batch: Batch, config: LossConfig, generator: torch.Generator
) -> BoxPrompts | None:
    """The boxes of all things with noise, without labels; of the MAX_BOXES most central ones.

    Every process must call it: as with `sample_box_prompts`, one without things gets a placeholder
    where another process has some.

    Args:
        batch: images and targets.
        config: whether denoising is on.
        generator: source of the noise, on the CPU.

    Returns:
        None without any thing, without denoising, and in semantic sets, whose boxes are unions.
    """
    if config.denoising == 0 or batch.task == "semantic":
        return None
    rows = [
        at_most_boxes(t.boxes, torch.nonzero(t.is_thing & ~t.is_part)[:, 0], batch.images.shape[-1])
        for t in batch.targets
    ]
    boxes = [
        jitter_boxes(t.boxes[things], NOISE, generator)
        for t, things in zip(batch.targets, rows, strict=True)
    ]
    unknown = [torch.full_like(things, -1) for things in rows]
    prompts = BoxPrompts(boxes, unknown, rows)
    return shared_prompts(batch, prompts if len(prompts) else None, required=False)


def denoising_losses(
    outputs: Proposals,
    noised: BoxPrompts,
    batch: Batch,
    targets: Sequence[PooledTargets],
    config: LossConfig,
) -> dict[str, Tensor]:
    """Class and box losses of denoising queries, and mask losses where masks are known.

    Args:
        outputs: proposals of the denoising queries, with boxes; the mean over layers counts.
        noised: from `sample_denoising`, on the CPU.
        batch: the images.
        targets: one entry per image.
        config: weights, those of proposals; `denoising` is a factor on all.

    Returns:
        Weighted scalars `denoising_class`, `denoising_box_l1` and `denoising_box_giou`, and with
        masks `denoising_focal` and `denoising_dice`. Nothing for a placeholder.
    """
    assert outputs.boxes is not None
    device, layers = outputs.boxes.device, outputs.boxes.shape[1]
    rows = torch.cat(noised.targets)
    has_target = rows >= 0
    count = has_target.sum().float().to(device, non_blocking=True)
    count = distributed.mean_over_processes(count) * layers
    if not bool(has_target.any()):
        return {}
    pairs = list(zip(batch.targets, noised.targets, strict=True))
    labels = [target.labels[rows] for target, rows in pairs]
    annotated = [target.annotated for target in batch.targets]
    loss = known_class_loss(outputs.class_logits, labels, annotated, config)
    losses = {"class": config.classification * loss / count}
    image, query = prompt_indices(noised, device)
    true_boxes = torch.cat([target.boxes[rows] for target, rows in pairs])
    true_boxes = from_pixels(true_boxes, batch.images.shape[-2:]).to(device, non_blocking=True)
    boxes = outputs.boxes.transpose(0, 1)[:, image, query]  # (L, Q, 4)
    losses |= box_losses(boxes.flatten(0, 1), true_boxes.repeat(layers, 1), config, count)
    truth = [t.select(rows) for t, rows in zip(targets, noised.targets, strict=True)]
    trust = torch.cat([t.trust for t in truth])
    if bool((trust > 0).any()):
        chosen = true_rows(trust > 0, device)
        logits = outputs.mask_logits.transpose(0, 1)[:, image[chosen], query[chosen]].flatten(2)
        masks = torch.cat([t.masks for t in truth])[chosen].flatten(1).expand_as(logits)
        weight = torch.stack([t.weight for t in targets])[image[chosen]].flatten(1)
        sampled = logits, masks, weight.expand_as(logits)
        trust = trust[trust > 0].to(device, non_blocking=True)  # (Q,)
        losses["focal"] = config.focal * (trust * focal_loss(*sampled)).sum() / count
        losses["dice"] = config.dice * (trust * dice_loss(*sampled)).sum() / count
    return {f"denoising_{name}": config.denoising * loss for name, loss in losses.items()}
