"""Masks that assist the training on boxes: the averaged model segments the boxes of a batch.

OpenSeeD (Zhang et al. 2023, section 3.3) lets such masks assist the matching. As pseudo-masks they
are weighted by their quality, as BoxTeacher (Cheng et al. 2023, section 3.2) does.
"""

import torch
from torch import Tensor, nn

from segkit.criterion.box_prompts import prompted_rows, shared_prompts
from segkit.criterion.pooled_targets import AssistMasks, box_cover
from segkit.data.batch import Batch
from segkit.model.box_prompt_encoder import BoxPrompts
from segkit.model.dataseg import MASK_STRIDE, Proposals
from segkit.recipes.schema import LossConfig


@torch.no_grad()
def predict_assist_masks(
    model: nn.Module, batch: Batch, text: Tensor, config: LossConfig
) -> list[AssistMasks] | None:
    """Segment the boxes of a batch that have no mask; every process must call it.

    Args:
        model: DataSeg in evaluation mode, with box prompts that have been trained.
        batch: on the model's device.
        text: (K, D_T) text embeddings of the classes.
        config: its maximum of box prompts.

    Returns:
        One entry per image; None where no process has such a box.
    """
    prompts = shared_prompts(batch, _boxes_without_mask(batch, config), required=False)
    if prompts is None:
        return None
    outputs = model(batch.images, text, prompts, learned_queries=False, aux_outputs=False)
    return assist_masks(outputs.box_prompts, prompts, batch)


def _boxes_without_mask(batch: Batch, config: LossConfig) -> BoxPrompts | None:
    """The boxes that `sample_box_prompts` would train with, those with a mask excepted.

    They are exact and keep their labels. Semantic sets have none: the box of a union of objects
    shows no object.
    """
    if batch.task == "semantic":
        return None
    rows = [
        chosen[~target.has_mask[chosen]]
        for chosen, target in zip(prompted_rows(batch, config), batch.targets, strict=True)
    ]
    if not any(len(r) for r in rows):
        return None
    pairs = list(zip(batch.targets, rows, strict=True))
    return BoxPrompts([t.boxes[r] for t, r in pairs], [t.labels[r] for t, r in pairs], rows)


def assist_masks(outputs: Proposals, prompts: BoxPrompts, batch: Batch) -> list[AssistMasks]:
    """Clip the masks of box prompts to their boxes, and rate them.

    Args:
        outputs: proposals of the prompts; the last layer counts.
        prompts: boxes with their targets, -1 for a placeholder.
        batch: the images and targets.

    Returns:
        One entry per image.
    """
    masks = []
    for target, boxes, rows, logits in zip(
        batch.targets, prompts.boxes, prompts.targets, outputs.mask_logits[:, -1], strict=True
    ):
        rows = rows[rows >= 0]
        logits = logits[: len(rows)].float()  # (R, h, w)
        boxes = boxes[: len(rows)].to(logits.device, non_blocking=True)
        inside, quality = _clip_and_rate(logits, boxes)
        rows = rows.to(logits.device, non_blocking=True)
        all_masks = logits.new_zeros(len(target), *logits.shape[1:])  # (T, h, w)
        weight = logits.new_zeros(len(target))
        all_masks[rows], weight[rows] = inside, quality
        masks.append(AssistMasks(all_masks, weight))
    return masks


def _clip_and_rate(logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Masks (R, h, w) in the boxes, and their quality (R,).

    The quality is the score of pseudo-masks: mean probability within the mask, times the IoU of the
    mask's tight box with the box. An empty mask has 0.
    """
    cover = box_cover(boxes, (logits.shape[1], logits.shape[2]), MASK_STRIDE)
    probability = logits.sigmoid()
    masks = torch.where(probability >= 0.5, cover, 0.0)  # (R, h, w)
    certainty = (probability * masks).sum((1, 2)) / masks.sum((1, 2)).clamp(min=1e-6)
    tightness = torch.ones_like(certainty)
    for axis in (1, 2):
        occupied = (masks > 0).any(axis).to(logits.dtype)  # (R, w or h)
        ahead = occupied.cummax(-1).values
        behind = occupied.flip(-1).cummax(-1).values.flip(-1)
        side = cover.amax(axis)  # proportional to the share of each column or row
        extent = (side * ahead * behind).sum(-1)
        tightness = tightness * extent / side.sum(-1).clamp(min=1e-6)
    return masks, certainty * tightness
