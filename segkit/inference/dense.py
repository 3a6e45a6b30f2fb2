"""Semantic maps and the stuff of panoptic output from the classes of cells and of the queries.

A pixel's score for a class is (1 - d) q + d p, d being `inference.dense`: q is the class's fraction
of the queries' sum of p(class) * sigmoid(mask) (MaskFormer, section 3.4), p its probability in the
cells, interpolated. Panoptic output takes its things from the queries, then gives the remaining
pixels to the stuff class that has the highest score of all classes, as Panoptic FPN does (Kirillov
et al. 2019, section 3).
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.data.augment import Crop
from segkit.inference.postprocess import (
    LabeledMask,
    Winners,
    class_regions,
    class_scores,
    panoptic,
)
from segkit.inference.upscale import bands, to_image
from segkit.model.text_classifier import class_probability
from segkit.recipes.schema import InferenceConfig
from segkit.shards.manifest import Task

MIN_STUFF_SHARE = 4096 / (640 * 480)
"""Share of an image that a stuff segment covers at least: Panoptic FPN's 4,096 pixels of an image
of COCO's size."""


def penalize_seen_cells(cells: Tensor, is_unseen: Tensor | None, penalty: float) -> Tensor:
    """`penalize_seen` for the class probabilities of cells, which have no background.

    Args:
        cells: (K, h, w).
        is_unseen: (K,) bool; None if no class is unseen.
        penalty: at least 0; with 0 the probabilities are returned as they are.

    Returns:
        (K, h, w).
    """
    if not penalty or is_unseen is None:
        return cells
    factor = torch.where(is_unseen, 1.0, math.exp(-penalty))  # (K,)
    penalized = cells * factor[:, None, None]
    return penalized / penalized.sum(0)


def dense_masks(
    task: Task,
    class_logits: Tensor,
    mask_logits: Tensor,
    cells: Tensor,
    crop: Crop,
    is_thing: Tensor,
    config: InferenceConfig,
) -> list[LabeledMask]:
    """The masks of one image for the panoptic or semantic task.

    Args:
        task: panoptic or semantic.
        class_logits: (N, K + 1), background last.
        mask_logits: (N, h, w) at any stride, padding included.
        cells: (K, h, w) class probabilities at any stride, padding included.
        crop: how the image was resized and padded; it must hold the full image, not mirrored.
        is_thing: (K,) bool.
        config: the cells' share, and the thresholds of things.

    Returns:
        Masks that do not overlap. In the semantic task they cover the image.
    """
    things: list[LabeledMask] = []
    thing_flags: list[bool] = []
    free = None
    if task == "panoptic":
        thing_flags = is_thing.tolist()
        segments = panoptic(class_logits, mask_logits, crop, is_thing, config)
        things = [segment for segment in segments if thing_flags[segment.class_index]]
        free = torch.ones(crop.image_size, dtype=torch.bool)
        for thing in things:
            free &= ~torch.from_numpy(thing.mask)
        free = free.to(cells.device, non_blocking=True)
    probability = class_probability(class_logits, config.classes)[:, :-1]  # (N, K)
    total = probability.sum(1)  # (N,)
    size = (cells.shape[1], cells.shape[2])
    soft = F.interpolate(mask_logits[None], size=size, mode="bilinear", align_corners=False)[0]
    coarse = _mix(class_scores(probability, soft.sigmoid()), cells, config.dense)  # (K, h, w)

    def winners(candidates: Tensor) -> Iterator[Winners]:
        for rows, logits in bands(mask_logits, crop, depth=2 * len(candidates)):
            soft = logits.sigmoid()  # (N, rows, W)
            of_queries = class_scores(probability[:, candidates], soft)  # (C, rows, W)
            sum_of_queries = torch.einsum("n,nhw->hw", total, soft)
            of_cells = to_image(cells[candidates], crop, rows)
            best, winner = _mix(of_queries, of_cells, config.dense, sum_of_queries).max(0)
            yield rows, winner, best

    regions = class_regions(coarse, crop, winners, free)
    if free is None:
        return regions
    least = MIN_STUFF_SHARE * free.numel()
    return things + [
        region
        for region in regions
        if not thing_flags[region.class_index] and region.region.area >= least
    ]


def _mix(
    of_queries: Tensor, of_cells: Tensor, share: float, sum_of_queries: Tensor | None = None
) -> Tensor:
    """Scores (C, h, w) of classes; `sum_of_queries` (h, w) runs over all classes, not only C."""
    total = of_queries.sum(0) if sum_of_queries is None else sum_of_queries
    return (1 - share) * of_queries / total.clamp(min=1e-6) + share * of_cells
