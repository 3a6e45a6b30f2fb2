"""The post-processing of transformers' Mask2Former: model output -> labeled masks, by task.

Equal to `Mask2FormerImageProcessor.post_process_*_segmentation` for the same logits. Mask logits
are enlarged to 384 x 384 first; each query then competes by itself, and stuff of one class is fused
afterwards. At the image's size, one query or class after another is read, or a few masks, so that
no (N, H, W) exists.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.data.augment import Crop
from segkit.inference.postprocess import VOID, LabeledMask, class_scores, encode, sum_by_label
from segkit.inference.upscale import chunks
from segkit.masks import rle
from segkit.recipes.schema import InferenceConfig
from segkit.shards.manifest import Task

_SIZE = (384, 384)
"""The size at which transformers computes masks, whatever size the model has seen."""


def mask2former_masks(
    task: Task,
    class_logits: Tensor,
    mask_logits: Tensor,
    crop: Crop,
    is_thing: Tensor,
    config: InferenceConfig,
) -> list[LabeledMask]:
    """The masks of an image.

    Args:
        task: what to predict.
        class_logits: (N, K + 1), background last.
        mask_logits: (N, h, w) on the canvas.
        crop: how the image was laid on the canvas; not mirrored.
        is_thing: (K,) bool.
        config: thresholds.
    """
    logits = _logits(mask_logits, crop)  # (N, 384, 384)
    size = crop.image_size
    if task == "semantic":
        return _semantic(class_logits, logits, size)
    by_query = _panoptic if task == "panoptic" else _instances
    return by_query(class_logits, logits, size, is_thing, config)


def _logits(mask_logits: Tensor, crop: Crop) -> Tensor:
    """Mask logits of the image's content at 384 x 384; padding, which transformers' processor never
    adds to a single image, is cut off at the canvas' size."""
    left, top, width, height = crop.content
    if (height, width) == crop.padded_size:
        return _resize(mask_logits, _SIZE)
    return _resize(mask_logits, crop.padded_size)[:, top : top + height, left : left + width]


def _panoptic(
    class_logits: Tensor,
    mask_logits: Tensor,
    size: tuple[int, int],
    is_thing: Tensor,
    config: InferenceConfig,
) -> list[LabeledMask]:
    scores, classes = class_logits.softmax(-1).max(-1)
    kept = torch.nonzero((classes < len(is_thing)) & (scores > config.score))[:, 0]  # (R,)
    if not len(kept):
        return []
    scores, classes = scores[kept], classes[kept]
    areas: list[Tensor] = []

    def weighted() -> Iterator[Tensor]:
        for logits, score in zip(mask_logits[kept], scores, strict=True):
            soft = _resize(logits.sigmoid()[None], size)[0] * score
            areas.append((soft >= 0.5).sum())
            yield soft

    owner = _arg_max(weighted())[0].cpu().numpy()  # (H, W)
    visible = np.bincount(owner.flatten(), minlength=len(scores)).astype(np.float32)
    sizes, things = torch.stack(areas).tolist(), is_thing.tolist()
    # A query stands for itself, a stuff query for all of its class; the first gives the number.
    segments: dict[int, tuple[int, float]] = {}
    labels = np.full(len(scores), VOID)
    for query, (index, score) in enumerate(zip(classes.tolist(), scores.tolist(), strict=True)):
        if sizes[query] and visible[query] / np.float32(sizes[query]) > config.overlap:
            label = len(is_thing) + query if things[index] else index
            segments[label] = index, max(score, segments.get(label, (index, 0.0))[1])
            labels[query] = label
    regions = rle.regions(labels[owner])
    return [
        LabeledMask(index, regions[label], size, score)
        for label, (index, score) in segments.items()
    ]


def _semantic(
    class_logits: Tensor, mask_logits: Tensor, size: tuple[int, int]
) -> list[LabeledMask]:
    probability = class_logits.softmax(-1)[:, :-1]  # (N, K)
    maps = class_scores(probability, mask_logits.sigmoid())  # (K, h, w)
    if not len(maps):
        return []
    total = _resize(maps.sum(0)[None], size)[0]
    labels, best = _arg_max(_resize(scores[None], size)[0] for scores in maps)
    share = best / total.clamp(min=1e-6)  # (H, W)
    sums = sum_by_label(labels, share, len(maps)).tolist()
    return [
        LabeledMask(index, region, size, min(1.0, sums[index] / region.area))
        for index, region in rle.regions(labels.cpu().numpy()).items()
    ]


def _instances(
    class_logits: Tensor,
    mask_logits: Tensor,
    size: tuple[int, int],
    is_thing: Tensor,
    config: InferenceConfig,
) -> list[LabeledMask]:
    probability = class_logits.softmax(-1)[:, :-1]  # (N, K)
    count = min(config.instances, probability.numel())
    scores, flat = probability.flatten().topk(count)
    queries, classes = flat // probability.shape[1], flat % probability.shape[1]
    masks = mask_logits > 0  # (N, 384, 384)
    soft = (mask_logits.sigmoid() * masks).flatten(1).sum(1)
    certainty = soft / (masks.flatten(1).sum(1) + 1e-6)
    scores = scores * certainty[queries]
    things = is_thing.tolist()
    labeled = [
        (query, index, score)
        for query, index, score in zip(
            queries.tolist(), classes.tolist(), scores.tolist(), strict=True
        )
        if things[index] and score >= config.instance_score
    ]
    regions = _regions(masks, sorted({query for query, _, _ in labeled}), size)
    return [
        LabeledMask(index, regions[query], size, score)
        for query, index, score in labeled
        if regions[query].area
    ]


def _regions(masks: Tensor, queries: Sequence[int], size: tuple[int, int]) -> dict[int, rle.Region]:
    """The regions in the image of some masks (N, h, w) bool."""
    regions: dict[int, rle.Region] = {}
    for chunk in chunks(len(queries), size):
        rows = queries[chunk]
        part = torch.stack([masks[row] for row in rows]).float()
        full = F.interpolate(part[None], size=size, mode="nearest")[0] == 1  # (rows, H, W)
        regions |= zip(rows, encode(full), strict=True)
    return regions


def _arg_max(maps: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Of maps (H, W): at each pixel the first of the largest, int16, and its value."""
    labels = best = None
    for label, values in enumerate(maps):
        if labels is None or best is None:
            labels, best = torch.zeros_like(values, dtype=torch.int16), values
            continue
        labels = torch.where(values > best, torch.full_like(labels, label), labels)
        best = torch.maximum(values, best)
    assert labels is not None and best is not None
    return labels, best


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, h, w), resized bilinearly to (N, *size)."""
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
