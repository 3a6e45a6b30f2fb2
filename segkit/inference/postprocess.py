"""Proposals -> labelled masks of one image, by task: MERGE at inference and the config."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.data.augment import Window
from segkit.inference.config import InferenceConfig
from segkit.manifest import Task
from segkit.masks import rle
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


@dataclass(frozen=True)
class LabelledMask:
    """One region of the answer."""

    class_index: int
    """Row of the class table."""
    mask: Tensor
    """(H, W) bool, of the original image, on the model's device."""
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
    masks = winner == torch.arange(len(rivals), device=winner.device)[:, None, None]
    sizes = masks.flatten(1).sum(1)
    shares = ((masks * score).flatten(1).sum(1) / sizes.clamp(min=1)).clamp(max=1.0)
    return [
        LabelledMask(index, mask, share)
        for index, mask, share, size in zip(rivals.tolist(), masks, shares.tolist(), sizes.tolist(), strict=True)
        if size > 0
    ]


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
    whole = probability >= 0.5
    left = (owner == torch.arange(len(scores), device=owner.device)[:, None, None]) & whole
    sizes, rests = whole.flatten(1).sum(1).tolist(), left.flatten(1).sum(1).tolist()
    rows = zip(classes.tolist(), left, scores.tolist(), sizes, rests, strict=True)
    return [
        LabelledMask(index, mask, score)
        for index, mask, score, size, rest in rows
        if rest >= max(1.0, config.overlap * size)
    ]


def _merged_masks(
    class_logits: Tensor, mask_logits: Tensor, groups: Groups, kept: Tensor, config: InferenceConfig
) -> Tensor:
    """Mask logits (R, h, w) of the R rows that are kept, after MERGE."""
    weights = mask_weights(class_logits, groups, config.merge_masks)
    rows = torch.nonzero(kept)
    rows = torch.cat((torch.zeros_like(rows), rows), dim=1)
    merged = merge_masks(mask_logits.flatten(1)[None], weights[None], rows, config.merge_masks)
    return merged.reshape(len(merged), *mask_logits.shape[1:])


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
    masks, size, certainty = hard.unbind(), sizes.tolist(), quality.tolist()
    return [
        LabelledMask(index, masks[row], score * certainty[row])
        for score, index, row in zip(scores.tolist(), classes.tolist(), rows.tolist(), strict=True)
        if size[row] > 0
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
    """Predictions as the segments that shard sets hold; a mask that comes under several classes is coded once."""
    masks = {id(item.mask): item.mask for item in found}
    regions = dict(zip(masks, encode(list(masks.values())), strict=True))
    segments = []
    for item in found:
        category, region = taxonomy.categories[item.class_index], regions[id(item.mask)]
        segments.append(
            Segment(
                class_id=category.id,
                kind=category.kind,
                box=region.box,
                mask=region.counts,
                area=float(region.area),
                mask_from="prediction",
                score=item.score,
            )
        )
    return tuple(segments)


def encode(masks: Sequence[Tensor]) -> list[rle.Region]:
    """Run lengths of masks (H, W) of one image; the edges are found on their device, so that no mask leaves it."""
    if not masks:
        return []
    height, width = masks[0].shape
    flat = torch.stack([mask.T.reshape(-1) for mask in masks])
    edges = flat.new_zeros(len(flat), flat.shape[1] + 1)
    edges[:, 1:-1] = flat[:, 1:] != flat[:, :-1]
    edges[:, 0], edges[:, -1] = flat[:, 0], flat[:, -1]
    owner, place = edges.nonzero(as_tuple=True)
    return rle.from_edges(owner.cpu().numpy(), place.cpu().numpy(), len(masks), height, width)
