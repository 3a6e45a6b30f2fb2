"""Turn the proposals for one image into labeled masks, by task.

Masks are read at the image's size a band of rows at a time, and kept as one map of labels or as run
lengths: a photograph of 12 megapixels needs its own map and one band.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit.criterion.merge_proposals import group_proposals, kept_rows, merge_masks
from segkit.data.augment import Crop
from segkit.inference.upscale import bands, chunks
from segkit.masks import rle
from segkit.model.text_classifier import best_class, class_probability
from segkit.recipes.schema import ClassLoss, InferenceConfig
from segkit.sample import Segment
from segkit.shards.manifest import Task
from segkit.taxonomy import Taxonomy

VOID = -1
"""In a label map: a pixel without a label."""
Winners = tuple[slice, Tensor, Tensor]
"""The rows of a band; for each pixel (rows, W) the index of its best class, and the score, 0-1."""
_UNITS = 2.0**32
"""Units of 1 in which scores are summed."""


@dataclass(frozen=True)
class LabeledMask:
    """One labeled region of a prediction."""

    class_index: int
    """Row of the class embeddings."""
    region: rle.Region
    """Run lengths, area and box in the original image."""
    size: tuple[int, int]
    """Height and width of the image."""
    score: float
    """0-1."""
    proposal: int | None = None
    """Index of the proposal that made the mask; None where several did."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W)."""
        return rle.decode(self.region.counts, *self.size)

    def to_segment(self, taxonomy: Taxonomy) -> Segment:
        """The segment that a shard set holds, in the taxonomy of the class embeddings."""
        category = taxonomy.categories[self.class_index]
        return Segment(
            class_id=category.id,
            kind=category.kind,
            box=self.region.box,
            mask=self.region.counts,
            area=float(self.region.area),
            mask_from="prediction",
            score=self.score,
        )


def postprocess(
    task: Task,
    class_logits: Tensor,
    mask_logits: Tensor,
    crop: Crop,
    is_thing: Tensor,
    config: InferenceConfig,
) -> list[LabeledMask]:
    """The masks of one image for a task; arguments as of `panoptic`."""
    if task == "semantic":
        return semantic(class_logits, mask_logits, crop, config.classes)
    if task == "panoptic":
        return panoptic(class_logits, mask_logits, crop, is_thing, config)
    return instances(class_logits, mask_logits, crop, is_thing, config)


def penalize_seen(
    class_logits: Tensor,
    is_unseen: Tensor | None,
    penalty: float,
    classes: ClassLoss = "softmax",
) -> Tensor:
    """Subtract a penalty from the logits of the classes that training saw.

    The penalty decides between seen and unseen classes only. With softmax, background keeps its
    probability, and unseen classes gain what seen ones lose. With sigmoid, where each class is
    read by itself against background, unseen classes keep theirs, and what seen ones lose is
    background's.

    Args:
        class_logits: (N, K + 1), background last.
        is_unseen: (K,) bool; None if no class is unseen.
        penalty: at least 0; with 0 the logits are returned as they are.
        classes: how the logits are read as probabilities.

    Returns:
        (N, K + 1).
    """
    if not penalty or is_unseen is None:
        return class_logits
    logits, background = class_logits[:, :-1], class_logits[:, -1:]
    penalized = torch.where(is_unseen, logits, logits - penalty)  # (N, K)
    if classes == "softmax":
        lost = logits.logsumexp(-1, keepdim=True) - penalized.logsumexp(-1, keepdim=True)  # (N, 1)
        background = background - lost
    return torch.cat((penalized, background), dim=-1)


def semantic(
    class_logits: Tensor, mask_logits: Tensor, crop: Crop, classes: ClassLoss = "softmax"
) -> list[LabeledMask]:
    """Give each pixel the class with the largest sum of p(class) * sigmoid(mask).

    The sum is over all proposals (MaskFormer, section 3.4).

    Args:
        class_logits: (N, K + 1), background last.
        mask_logits: (N, h, w) at any stride, padding included.
        crop: how the image was resized and padded; it must hold the full image, not mirrored.
        classes: how the logits were trained.

    Returns:
        One mask for each class that wins a pixel; together they cover the image, unless there are
        no classes. Score: mean fraction of the class in its pixels' sum over all classes.
    """
    probability = class_probability(class_logits, classes)[:, :-1]  # (N, K)
    coarse = class_scores(probability, mask_logits.sigmoid())  # (K, h, w)
    total = probability.sum(1)  # (N,)

    def winners(candidates: Tensor) -> Iterator[Winners]:
        for rows, logits in bands(mask_logits, crop, depth=len(candidates)):
            soft = logits.sigmoid()  # (N, rows, W)
            best, winner = class_scores(probability[:, candidates], soft).max(0)  # (rows, W)
            yield rows, winner, best / torch.einsum("n,nhw->hw", total, soft).clamp(min=1e-6)

    return class_regions(coarse, crop, winners)


def class_regions(
    coarse: Tensor,
    crop: Crop,
    winners: Callable[[Tensor], Iterator[Winners]],
    free: Tensor | None = None,
) -> list[LabeledMask]:
    """Label each pixel with its best class; the score of a region is the mean of its pixels.

    Args:
        coarse: (K, h, w) scores of the classes at any stride.
        crop: as of `semantic`.
        winners: the bands of the image from top to bottom; it gets the classes to compare (C,).
        free: (H, W) whether to label a pixel; None for all.
    """
    # A class that is not among the two best of any coarse pixel wins 1 of 100,000 full-size pixels:
    # leaving it out saves most of the work.
    candidates = torch.unique(coarse.topk(min(2, len(coarse)), dim=0).indices)  # (C,)
    if not len(candidates):
        return []
    labels = _empty_label_map(crop, candidates)  # (H, W)
    score_sums = torch.zeros(len(candidates), dtype=torch.float64, device=candidates.device)
    for rows, winner, score in winners(candidates):
        counted = score if free is None else score.where(free[rows], 0.0)
        score_sums += sum_by_label(winner, counted, len(candidates))
        labels[rows] = winner.to(labels.dtype)
    if free is not None:
        labels.masked_fill_(~free, VOID)
    indices, sums = candidates.tolist(), score_sums.tolist()
    return [
        LabeledMask(indices[row], region, crop.image_size, min(1.0, sums[row] / region.area))
        for row, region in rle.regions(labels.cpu().numpy()).items()
        if row != VOID
    ]


def sum_by_label(labels: Tensor, scores: Tensor, count: int) -> Tensor:
    """Sums of scores by their labels, the same bits in any order of addition.

    GPUs add in an order that changes from run to run, which rounds sums of floats differently; sums
    of integers, in units of 2**-32 here, are exact.

    Args:
        labels: integers of any shape, from 0 to `count` - 1.
        scores: of the same shape, in 0-1; the sum of a label is below 2**31.

    Returns:
        (count,) float64.
    """
    units = (scores.flatten().double() * _UNITS).round().long()
    sums = torch.zeros(count, dtype=torch.int64, device=scores.device)
    return sums.scatter_add(0, labels.flatten().long(), units).double() / _UNITS


def class_scores(probability: Tensor, soft: Tensor) -> Tensor:
    """Sum of p(class) * mask over the proposals, at most N.

    Args:
        probability: (N, K) class probabilities of the proposals.
        soft: (N, h, w) masks in 0-1.

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
    """MERGE the stuff proposals of a class, then assign each pixel to a proposal.

    A pixel belongs to the proposal with the largest p(class) * sigmoid(mask).

    Args:
        class_logits: (N, K + 1), background last.
        mask_logits: (N, h, w) at any stride, padding included.
        crop: as of `semantic`.
        is_thing: (K,) bool.
        config: the lowest score of a segment, and the smallest visible fraction of its mask.

    Returns:
        Masks that do not overlap; pixels in none of them are void.
    """
    heads = group_proposals(class_logits, ~is_thing, config.score, classes=config.classes)  # (N,)
    confidence, classes = best_class(class_logits, config.classes)  # (N,)
    kept = kept_rows(heads) & (classes < len(is_thing)) & (confidence > config.score)
    kept = torch.nonzero(kept)[:, 0]  # (R,)
    if not len(kept):
        return []
    # The score of a group is its best member's; its mask is the maximum of all members' masks.
    best = confidence.scatter_reduce(0, heads, confidence, "amax", include_self=False)
    scores, classes = best[kept], classes[kept]  # (R,)
    kept_indices = torch.stack((torch.zeros_like(kept), kept), dim=1)
    merged = merge_masks(mask_logits.flatten(1)[None], heads[None].cpu(), kept_indices.cpu())
    merged = merged.reshape(len(merged), *mask_logits.shape[1:])  # (R, h, w)
    labels = _empty_label_map(crop, scores)  # (H, W)
    full_areas = torch.zeros_like(classes)
    for rows, logits in bands(merged, crop):
        probability = logits.sigmoid()  # (R, rows, W)
        owner = (scores[:, None, None] * probability).argmax(0)  # (rows, W)
        full_masks = probability >= 0.5
        full_areas += full_masks.flatten(1).sum(1)
        inside = full_masks.gather(0, owner[None])[0]  # (rows, W)
        labels[rows] = owner.where(inside, VOID).to(labels.dtype)
    class_rows, certainty, areas = classes.tolist(), scores.tolist(), full_areas.tolist()
    return [
        LabeledMask(class_rows[row], region, crop.image_size, certainty[row])
        for row, region in rle.regions(labels.cpu().numpy()).items()
        if row != VOID and region.area >= config.overlap * areas[row]
    ]


def _empty_label_map(crop: Crop, labels: Tensor) -> Tensor:
    """An uninitialized (H, W) map for indices into `labels`, or VOID."""
    dtype = torch.int16 if len(labels) < 2**15 else torch.int32
    return torch.empty(crop.image_size, dtype=dtype, device=labels.device)


def instances(
    class_logits: Tensor,
    mask_logits: Tensor,
    crop: Crop,
    is_thing: Tensor,
    config: InferenceConfig,
) -> list[LabeledMask]:
    """The strongest pairs of proposal and thing class, without MERGE.

    Arguments as of `panoptic`. Masks may overlap, and one mask may occur with several classes,
    which mask AP rewards. Score: p(class) * mean of sigmoid(mask) within the mask.
    """
    probability = class_probability(class_logits, config.classes)[:, :-1]  # (N, K)
    probability = probability.masked_fill(~is_thing, 0.0)
    count = min(config.instances, int(is_thing.sum()) * len(probability))
    if not count:
        return []
    scores, pairs = probability.flatten().topk(count)
    queries, classes = pairs // probability.shape[1], pairs % probability.shape[1]
    used, rows = torch.unique(queries, return_inverse=True)
    regions = _regions(mask_logits[used], crop)
    labeled = zip(scores.tolist(), classes.tolist(), rows.tolist(), strict=True)
    size, proposals = crop.image_size, used.tolist()
    return [
        LabeledMask(class_index, regions[row][0], size, score * regions[row][1], proposals[row])
        for score, class_index, row in labeled
        if regions[row][0].area > 0 and score * regions[row][1] >= config.instance_score
    ]


def _regions(mask_logits: Tensor, crop: Crop) -> list[tuple[rle.Region, float]]:
    """The region of each mask (N, h, w) in the image, and the mean probability within it."""
    height, width = crop.image_size
    regions: list[tuple[rle.Region, float]] = []
    for chunk in chunks(len(mask_logits), crop.image_size):
        chunk_logits = mask_logits[chunk]
        shape = (len(chunk_logits), height, width)
        masks = torch.empty(shape, dtype=torch.bool, device=chunk_logits.device)
        sums = chunk_logits.new_zeros(len(chunk_logits))
        for rows, logits in bands(chunk_logits, crop):
            probability = logits.sigmoid()
            masks[:, rows] = probability >= 0.5
            sums += (probability * masks[:, rows]).flatten(1).sum(1)
        pairs = zip(encode(masks), sums.tolist(), strict=True)
        regions += [(region, total / max(1, region.area)) for region, total in pairs]
    return regions


def encode(masks: Tensor) -> list[rle.Region]:
    """Encode masks (N, H, W) bool.

    Their edges are computed on their device, so only those are copied.
    """
    count, height, width = masks.shape
    flat = masks.transpose(1, 2).reshape(count, height * width)  # column-major, as COCO has it
    edges = flat.new_zeros(count, flat.shape[1] + 1)
    edges[:, 1:-1] = flat[:, 1:] != flat[:, :-1]
    edges[:, 0], edges[:, -1] = flat[:, 0], flat[:, -1]
    mask, pixel = edges.nonzero(as_tuple=True)
    return rle.from_edges(mask.cpu().numpy(), pixel.cpu().numpy(), count, height, width)
