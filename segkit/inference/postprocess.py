"""Proposals -> labeled masks of one image, by task: MERGE at inference and the config.

At the image's size, N masks of probabilities are read a band of rows at a time, and what is kept of
them is a map of labels or run lengths: a photograph of 12 megapixels takes no more than its own map
on top of a band.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit.criterion.merge import group_proposals, kept_rows, merge_masks
from segkit.data.augment import Crop
from segkit.inference.upscale import BAND, bands, image_size
from segkit.masks import rle
from segkit.recipes.schema import InferenceConfig
from segkit.sample import Segment
from segkit.shards.manifest import Task
from segkit.taxonomy import Taxonomy

_VOID = -1
"""In a map of labels: a pixel that belongs to nothing."""


@dataclass(frozen=True)
class LabeledMask:
    """One region of the answer."""

    class_index: int
    """Row of the class table."""
    region: rle.Region
    """Run lengths over the original image."""
    size: tuple[int, int]
    """Height and width of the image."""
    score: float

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W)."""
        return rle.decode(self.region.counts, *self.size)


def semantic(class_logits: Tensor, mask_logits: Tensor, crop: Crop) -> list[LabeledMask]:
    """MERGE of all proposals per class: the largest sum of p(class) * sigmoid(mask) wins a pixel
    (MaskFormer, 3.4).

    Args:
        class_logits: (N, K + 1), background last.
        mask_logits: (N, h, w) on the canvas.
        crop: how the image was laid on the canvas; it must have taken the whole image, not
            mirrored.

    Returns:
        One mask for each class that wins a pixel; together they cover the image, but for a
        vocabulary without classes.
        Score: mean of the class's share.
    """
    probability = class_logits.softmax(-1)[:, :-1]  # (N, K)
    coarse = class_scores(probability, mask_logits.sigmoid())
    # A class that is not among the best two of any coarse cell wins one pixel of 100,000; dropping
    # it saves the work.
    rivals = torch.unique(coarse.topk(min(2, len(coarse)), dim=0).indices)
    if not len(rivals):
        return []
    labels, certain = _no_labels(crop, rivals), probability.sum(1)
    shares = torch.zeros(len(rivals), dtype=torch.float64, device=rivals.device)
    for rows, logits in bands(mask_logits, crop, depth=len(rivals)):
        soft = logits.sigmoid()
        best, winner = class_scores(probability[:, rivals], soft).max(0)
        score = best / torch.einsum("n,nhw->hw", certain, soft).clamp(min=1e-6)
        shares += torch.bincount(winner.flatten(), score.flatten().double(), len(rivals))
        labels[rows] = winner.to(labels.dtype)
    classes, total = rivals.tolist(), shares.tolist()
    return [
        LabeledMask(classes[row], region, image_size(crop), min(1.0, total[row] / region.area))
        for row, region in rle.regions(labels.cpu().numpy()).items()
    ]


def class_scores(probability: Tensor, soft: Tensor) -> Tensor:
    """Sum of p(class) * mask over the proposals, at most N.

    Args:
        probability: (N, K) of the proposals' classes.
        soft: (N, h, w), masks in 0-1.

    Returns:
        (K, h, w).
    """
    return torch.einsum("nk,nhw->khw", probability, soft)


def panoptic(
    class_logits: Tensor,
    mask_logits: Tensor,
    crop: Crop,
    is_thing: Tensor,
    config: InferenceConfig,
) -> list[LabeledMask]:
    """MERGE of stuff, then each pixel goes to the proposal with the largest p(class) *
    sigmoid(mask).

    Args:
        class_logits: (N, K + 1), background last.
        mask_logits: (N, h, w) on the canvas.
        crop: as in `semantic`.
        is_thing: (K,) bool.
        config: the least score, and the least share of a mask that must stay visible.

    Returns:
        Masks that do not overlap; pixels in none are void.
    """
    heads = group_proposals(class_logits, ~is_thing, config.score)
    confidence, classes = class_logits.softmax(-1).max(-1)
    kept = kept_rows(heads) & (classes < len(is_thing)) & (confidence > config.score)
    if not bool(kept.any()):
        return []
    # The best member's score stands for its group; the mask is the maximum of all members'.
    best = confidence.scatter_reduce(0, heads, confidence, "amax", include_self=False)
    scores, classes = best[kept], classes[kept]
    rows_kept = torch.nonzero(kept)
    rows_kept = torch.cat((torch.zeros_like(rows_kept), rows_kept), dim=1)
    merged = merge_masks(mask_logits.flatten(1)[None], heads[None], rows_kept)
    merged = merged.reshape(len(merged), *mask_logits.shape[1:])
    labels, wholes = _no_labels(crop, scores), torch.zeros_like(classes)
    for rows, logits in bands(merged, crop):
        probability = logits.sigmoid()
        owner = (scores[:, None, None] * probability).argmax(0)
        whole = probability >= 0.5
        wholes += whole.flatten(1).sum(1)
        labels[rows] = owner.where(whole.gather(0, owner[None])[0], _VOID).to(labels.dtype)
    indices, certainty, sizes = classes.tolist(), scores.tolist(), wholes.tolist()
    return [
        LabeledMask(indices[row], region, image_size(crop), certainty[row])
        for row, region in rle.regions(labels.cpu().numpy()).items()
        if row != _VOID and region.area >= config.overlap * sizes[row]
    ]


def _no_labels(crop: Crop, names: Tensor) -> Tensor:
    """A map (H, W) of the original image in which each pixel will have one of the places in
    `names`, or _VOID."""
    kind = torch.int16 if len(names) < 2**15 else torch.int32
    return torch.empty(image_size(crop), dtype=kind, device=names.device)


def instances(
    class_logits: Tensor,
    mask_logits: Tensor,
    crop: Crop,
    is_thing: Tensor,
    config: InferenceConfig,
) -> list[LabeledMask]:
    """The strongest (proposal, thing class) pairs, not merged; score p(class) * mean sigmoid within
    the mask.

    Arguments as in `panoptic`. Masks may overlap, and one mask may return under several classes, as
    mask AP rewards.
    """
    probability = class_logits.softmax(-1)[:, :-1].masked_fill(~is_thing, 0.0)
    count = min(config.instances, int(is_thing.sum()) * len(probability))
    if not count:
        return []
    scores, flat = probability.flatten().topk(count)
    queries, classes = flat // probability.shape[1], flat % probability.shape[1]
    used, rows = torch.unique(queries, return_inverse=True)
    found = _separate(mask_logits[used], crop)
    return [
        LabeledMask(index, found[row][0], image_size(crop), score * found[row][1])
        for score, index, row in zip(scores.tolist(), classes.tolist(), rows.tolist(), strict=True)
        if found[row][0].area > 0
    ]


def _separate(mask_logits: Tensor, crop: Crop) -> list[tuple[rle.Region, float]]:
    """The region of each mask (N, h, w) by itself, and the mean probability within it."""
    height, width = image_size(crop)
    found: list[tuple[rle.Region, float]] = []
    together = max(1, BAND // (height * width))
    for start in range(0, len(mask_logits), together):
        some = mask_logits[start : start + together]
        masks = torch.empty((len(some), height, width), dtype=torch.bool, device=some.device)
        sums = some.new_zeros(len(some))
        for rows, logits in bands(some, crop):
            probability = logits.sigmoid()
            masks[:, rows] = probability >= 0.5
            sums += (probability * masks[:, rows]).flatten(1).sum(1)
        pairs = zip(encode(masks), sums.tolist(), strict=True)
        found += [(region, total / max(1, region.area)) for region, total in pairs]
    return found


def answer(
    task: Task,
    class_logits: Tensor,
    mask_logits: Tensor,
    crop: Crop,
    is_thing: Tensor,
    config: InferenceConfig,
) -> list[LabeledMask]:
    """The masks of an image for a task; arguments as in `panoptic`."""
    if task == "semantic":
        return semantic(class_logits, mask_logits, crop)
    by_instance = panoptic if task == "panoptic" else instances
    return by_instance(class_logits, mask_logits, crop, is_thing, config)


def to_segments(found: Sequence[LabeledMask], taxonomy: Taxonomy) -> tuple[Segment, ...]:
    """Predictions as the segments that shard sets hold."""
    segments = []
    for item in found:
        category, region = taxonomy.categories[item.class_index], item.region
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


def encode(masks: Tensor) -> list[rle.Region]:
    """Run lengths of masks (N, H, W) bool; the edges are found on their device, so that no mask
    leaves it."""
    count, height, width = masks.shape
    flat = masks.transpose(1, 2).reshape(count, height * width)
    edges = flat.new_zeros(count, flat.shape[1] + 1)
    edges[:, 1:-1] = flat[:, 1:] != flat[:, :-1]
    edges[:, 0], edges[:, -1] = flat[:, 0], flat[:, -1]
    owner, place = edges.nonzero(as_tuple=True)
    return rle.from_edges(owner.cpu().numpy(), place.cpu().numpy(), count, height, width)
