"""Proposals -> labelled masks of one image, by task: MERGE at inference and the config."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from segkit.data.augment import Window
from segkit.inference.config import InferenceConfig
from segkit.manifest import Task
from segkit.masks.rle import box, encode
from segkit.sample import Segment
from segkit.supervision.merge import (
    Groups,
    class_claims,
    group_proposals,
    mask_weights,
    merge_classes,
    merge_masks,
)
from segkit.taxonomy import Taxonomy

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LabelledMask:
    """One region of the answer."""

    class_index: int
    """Row of the class table."""
    mask: Mask
    """(H, W) of the original image."""
    score: float


def to_image(mask_logits: Tensor, window: Window) -> Tensor:
    """Mask logits of the padded canvas, back on the pixels of the original image.

    Args:
        mask_logits: (N, h, w), of the whole canvas at any stride.
        window: how the image was laid on the canvas; it must have taken the whole image, not mirrored.

    Returns:
        (N, H, W).
    """
    x, y, width, height = window.patch
    canvas = F.interpolate(mask_logits[None], size=window.canvas, mode="bilinear", align_corners=False)
    patch = canvas[:, :, y : y + height, x : x + width]
    size = (window.source[3], window.source[2])
    return F.interpolate(patch, size=size, mode="bilinear", align_corners=False)[0]


def semantic(class_logits: Tensor, mask_logits: Tensor, window: Window, config: InferenceConfig) -> list[LabelledMask]:
    """MERGE of all proposals per class; by default the largest sum of p(class) * sigmoid(mask) wins (MaskFormer, 3.4).

    Args:
        class_logits: (N, K + 1), background last.
        mask_logits: (N, h, w) on the canvas.
        window: as in `to_image`.
        config: the form of MERGE.

    Returns:
        One mask for each class that wins a pixel; together they cover the image. Score: mean of the class's share.
    """
    probability, form = class_logits.softmax(-1)[:, :-1], config.merge_semantic
    coarse = class_claims(probability, mask_logits.sigmoid(), form)
    # A class that is not among the best two of any coarse cell does not win a pixel; dropping it bounds the memory.
    rivals = torch.unique(coarse.topk(min(2, len(coarse)), dim=0).indices)
    soft = to_image(mask_logits, window).sigmoid()
    best, winner = class_claims(probability[:, rivals], soft, form).max(0)
    score = best / torch.einsum("n,nhw->hw", probability.sum(1), soft).clamp(min=1e-6)
    found = []
    for row, index in enumerate(rivals.tolist()):
        mask = winner == row
        if bool(mask.any()):
            found.append(LabelledMask(index, mask.cpu().numpy(), float(score[mask].mean().clamp(max=1.0))))
    return found


def panoptic(
    class_logits: Tensor, mask_logits: Tensor, window: Window, is_thing: Tensor, config: InferenceConfig
) -> list[LabelledMask]:
    """MERGE of stuff, then each pixel goes to the proposal with the largest p(class) * sigmoid(mask).

    Args:
        class_logits: (N, K + 1), background last.
        mask_logits: (N, h, w) on the canvas.
        window: as in `to_image`.
        is_thing: (K,) bool.
        config: what is too weak or too covered to stay, and the forms of MERGE.

    Returns:
        Masks that do not overlap; pixels in none are void.
    """
    groups = group_proposals(class_logits, ~is_thing, config.score)
    own, classes = class_logits.softmax(-1).max(-1)
    kept = groups.alive & (classes < len(is_thing)) & (own > config.score)
    if not bool(kept.any()):
        return []
    merged = merge_classes(class_logits, mask_logits.flatten(1), groups, config.merge_scores)
    classes = classes[kept]
    scores = merged.softmax(-1)[kept].gather(1, classes[:, None])[:, 0]
    probability = to_image(_merged_masks(class_logits, mask_logits, groups, kept, config), window).sigmoid()
    owner = (scores[:, None, None] * probability).argmax(0)
    found = []
    for row, (score, index) in enumerate(zip(scores.tolist(), classes.tolist(), strict=True)):
        whole = probability[row] >= 0.5
        left = (owner == row) & whole
        if int(left.sum()) >= max(1.0, config.overlap * int(whole.sum())):
            found.append(LabelledMask(index, left.cpu().numpy(), score))
    return found


def _merged_masks(
    class_logits: Tensor, mask_logits: Tensor, groups: Groups, kept: Tensor, config: InferenceConfig
) -> Tensor:
    """Mask logits (R, h, w) of the R rows that are kept, after MERGE."""
    weights = mask_weights(class_logits, groups, config.merge_masks)
    rows = torch.nonzero(kept)
    rows = torch.cat((torch.zeros_like(rows), rows), dim=1)
    merged = merge_masks(mask_logits.flatten(1)[None], weights[None], rows, config.merge_masks)
    return merged.unflatten(1, mask_logits.shape[1:])


def instances(
    class_logits: Tensor, mask_logits: Tensor, window: Window, is_thing: Tensor, config: InferenceConfig
) -> list[LabelledMask]:
    """The strongest (proposal, thing class) pairs, not merged; score p(class) * mean sigmoid within the mask.

    Arguments as in `panoptic`. Masks may overlap, and one mask may return under several classes, as mask AP rewards.
    """
    probability = class_logits.softmax(-1)[:, :-1].masked_fill(~is_thing, 0.0)
    count = min(config.instances, int(is_thing.sum()) * len(probability))
    scores, flat = probability.flatten().topk(count)
    queries, classes = flat // probability.shape[1], flat % probability.shape[1]
    used, rows = torch.unique(queries, return_inverse=True)
    soft = to_image(mask_logits[used], window).sigmoid()
    hard = soft >= 0.5
    sizes = hard.flatten(1).sum(1)
    quality = (soft * hard).flatten(1).sum(1) / sizes.clamp(min=1)
    masks = hard.cpu().numpy()
    return [
        LabelledMask(index, masks[row], score * float(quality[row]))
        for score, index, row in zip(scores.tolist(), classes.tolist(), rows.tolist(), strict=True)
        if int(sizes[row]) > 0
    ]


def answer(
    task: Task, class_logits: Tensor, mask_logits: Tensor, window: Window, is_thing: Tensor, config: InferenceConfig
) -> list[LabelledMask]:
    """The masks of an image for a task; arguments as in `panoptic`."""
    if task == "semantic":
        return semantic(class_logits, mask_logits, window, config)
    by_instance = panoptic if task == "panoptic" else instances
    return by_instance(class_logits, mask_logits, window, is_thing, config)


def to_segments(found: Sequence[LabelledMask], taxonomy: Taxonomy) -> tuple[Segment, ...]:
    """Predictions as the segments that shard sets hold."""
    segments = []
    for item in found:
        category = taxonomy.categories[item.class_index]
        counts = encode(item.mask)
        segments.append(
            Segment(
                class_id=category.id,
                kind=category.kind,
                box=box(counts, *item.mask.shape),
                mask=counts,
                area=float(item.mask.sum()),
                mask_from="prediction",
                score=item.score,
            )
        )
    return tuple(segments)
