"""Losses of the learned queries: MERGE, matching, then the terms that the annotation kind
allows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.criterion.color_affinity import affinity_of_cells
from segkit.criterion.losses import (
    dice_cost,
    dice_loss,
    focal_cost,
    focal_loss,
    pairwise_losses,
    projection_cost,
    projection_loss,
)
from segkit.criterion.matcher import Matches, SentCosts, match, send_costs
from segkit.criterion.merge import (
    group_proposals,
    kept_rows,
    merge_all_masks,
    merge_classes,
    merge_masks,
    mergeable_classes,
)
from segkit.criterion.partial_labels import (
    mask_unannotated_logits,
    merge_unannotated_into_background,
    mostly_void,
)
from segkit.criterion.point_sampling import (
    logits_at,
    on_device,
    random_points,
    strided_samples,
    uncertain_points,
)
from segkit.data.batch import Batch, Targets
from segkit.distributed import mean_over_processes
from segkit.model.dataseg import MASK_STRIDE, Proposals
from segkit.recipes.schema import LossConfig


@dataclass(frozen=True)
class PooledTargets:
    """The targets of one image at the stride of mask logits."""

    labels: Tensor
    """(T,) int64."""
    has_mask: Tensor
    """(T,) bool, on the CPU."""
    masks: Tensor
    """(T, h, w): share of each cell that is mask, void pixels left out of the account."""
    boxes: Tensor
    """(T, h, w): share of each cell that is inside the box."""
    weight: Tensor
    """(h, w): share of each cell that is labeled."""
    unknown: Tensor
    """(h, w): share of each cell that is void within the image; what is left is padding."""
    pixels: Tensor
    """(T, H, W) bool: the masks before pooling, for losses at points."""
    labeled: Tensor
    """(H, W) bool: pixels that are not void."""

    @classmethod
    def of(cls, targets: Targets) -> "PooledTargets":
        """Pool an image's targets from pixels to cells."""
        labeled = ~targets.void
        weight = F.avg_pool2d(labeled[None].float(), MASK_STRIDE)[0]
        masks = targets.masks.float()
        pooled = (
            F.avg_pool2d(masks, MASK_STRIDE) if len(masks) else masks.new_zeros((0, *weight.shape))
        )
        share = (pooled / weight.clamp(min=1e-6)).clamp(max=1.0)
        boxes = targets.boxes.to(weight.device, non_blocking=True)
        boxes = box_cover(boxes, (weight.shape[0], weight.shape[1]), MASK_STRIDE)
        unknown = targets.void if targets.padding is None else targets.void & ~targets.padding
        unknown = F.avg_pool2d(unknown[None].float(), MASK_STRIDE)[0]
        labels = targets.labels.to(weight.device, non_blocking=True)
        return cls(labels, targets.has_mask, share, boxes, weight, unknown, targets.masks, labeled)

    def only(self, rows: Tensor) -> "PooledTargets":
        """Some of the targets, by their rows (R,) int64 on the CPU."""
        there = rows.to(self.labels.device, non_blocking=True)
        kept = {name: getattr(self, name)[there] for name in ("labels", "masks", "boxes", "pixels")}
        return replace(self, has_mask=self.has_mask[rows], **kept)


def places(flags: Tensor, device: torch.device) -> Tensor:
    """Where flags on the CPU are True, for indexing on a device: (N,) bool -> (n,) int64."""
    return torch.nonzero(flags)[:, 0].to(device, non_blocking=True)


def box_cover(boxes: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """Share of each cell that lies inside a box: boxes (T, 4) x0, y0, x1, y1 in pixels -> (T,
    height, width) in 0-1."""
    height, width = size
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)
    x, y = (torch.arange(n, device=boxes.device) * stride for n in (width, height))
    across = ((x + stride).minimum(x1) - x.maximum(x0)).clamp(min=0) / stride
    down = ((y + stride).minimum(y1) - y.maximum(y0)).clamp(min=0) / stride
    return down[:, :, None] * across[:, None, :]


@dataclass(frozen=True)
class MatchingInputs:
    """Proposals of B images and L layers after MERGE, with the costs of all pairs on their way to
    the CPU."""

    class_logits: Tensor
    """(B, L, N, K + 1), merged."""
    mask_logits: Tensor
    """(B, L, N, h, w), not yet merged."""
    heads: Tensor
    """(B, L, N) int64: the row that each proposal is merged into."""
    kept: Tensor
    """(B, L, N) bool: rows that remain after MERGE."""
    costs: SentCosts
    noise: torch.Generator
    """Source of sampled points, on the logits' device."""


def prepare_matching(
    made: Proposals,
    batch: Batch,
    cells: Sequence[PooledTargets],
    is_thing: Tensor,
    config: LossConfig,
    generator: torch.Generator,
) -> MatchingInputs:
    """Merge all layers' proposals and send off their matching costs; what else there is to do can
    be done meanwhile.

    Args:
        made: proposals of the learned queries.
        batch: the images and their targets.
        cells: the targets pooled to cells, one an image.
        is_thing: (K,) bool, of the data set's vocabulary.
        config: weights.
        generator: source of sampled points, on any device; unused where losses are dense.
    """
    class_logits, mask_logits = made.class_logits, made.mask_logits
    annotated = [target.annotated for target in batch.targets]
    shown = mask_unannotated_logits(class_logits, annotated)
    heads = group_proposals(shown, mergeable_classes(batch.task, is_thing), config.merge_threshold)
    kept = kept_rows(heads)
    merged = merge_classes(class_logits, heads)
    noise = on_device(generator, mask_logits.device) if config.points else generator
    wanted = mask_unannotated_logits(merged, annotated)
    with torch.autocast(mask_logits.device.type, enabled=False):
        found = zip(wanted.float(), mask_logits, heads, cells, strict=True)
        costs = [_cost(*image, config, noise) for image in found]
    return MatchingInputs(merged, mask_logits, heads, kept, send_costs(costs, kept), noise)


def matching_losses(
    made: MatchingInputs,
    batch: Batch,
    cells: Sequence[PooledTargets],
    config: LossConfig,
    step: int,
) -> dict[str, Tensor]:
    """Losses of all layers' proposals, each layer with equal weight (deep supervision).

    Args:
        made: from `prepare_matching` of the same batch, cells and weights.
        batch, cells, config: as there.
        step: training step, for the pairwise term's warm-up.

    Returns:
        Weighted scalars: `class`, then `focal` and `dice` where there are masks, `projection` and
        `pairwise` where there are only boxes.
    """
    found = match(made.costs)
    row = _row_of_target(cells, found)
    with_mask = torch.cat([c.has_mask for c in cells])[row]
    found, pair = found.to(made.kept.device), row.to(made.kept.device, non_blocking=True)
    background = made.class_logits.shape[-1] - 1
    classes = torch.full(made.kept.shape, background, device=made.kept.device)
    classes[found.image, found.layer, found.proposal] = torch.cat([c.labels for c in cells])[pair]
    losses = {
        "class": config.classification * _class_loss(made, classes, batch, cells, config.background)
    }
    layers, size = made.kept.shape[1], made.mask_logits.shape[-2:]
    rows = torch.stack((found.image * layers + found.layer, found.proposal), dim=1)
    maps, heads = made.mask_logits.flatten(0, 1).flatten(2), made.heads.flatten(0, 1)
    masks = merge_masks(maps, heads, rows).reshape(-1, *size)
    return losses | _mask_losses(
        masks, found.image, pair, with_mask, batch, cells, config, step, layers, made.noise
    )


def _row_of_target(cells: Sequence[PooledTargets], found: Matches) -> Tensor:
    """(M,): the row of each pair's target when the targets of all images follow each other."""
    offset = torch.tensor([0, *(len(c.labels) for c in cells)]).cumsum(0)
    return offset[found.image] + found.target


@torch.no_grad()
def _cost(
    class_logits: Tensor,
    masks: Tensor,
    heads: Tensor,
    target: PooledTargets,
    config: LossConfig,
    generator: torch.Generator,
) -> Tensor:
    """Matching cost (L, N, T) of one image, the losses of each pair; masks are (L, N, h, w), not
    yet merged."""
    known = target.has_mask.to(masks.device, non_blocking=True)
    cost = -config.classification * class_logits.softmax(-1)[..., target.labels]
    if bool(target.has_mask.any()):
        sampled, wanted, weight = _sampled_for_matching(masks, target, config.points, generator)
        sampled = merge_all_masks(sampled, heads)
        by_mask = config.focal * focal_cost(sampled, wanted, weight) + config.dice * dice_cost(
            sampled, wanted, weight
        )
        cost = cost + torch.where(known, by_mask, 0.0)
    if not bool(target.has_mask.all()):
        whole = merge_all_masks(masks.flatten(2).float(), heads).reshape(masks.shape)
        by_box = config.projection * projection_cost(whole, target.boxes)
        cost = cost + torch.where(known, 0.0, by_box)
    return cost


def _sampled_for_matching(
    masks: Tensor, target: PooledTargets, points: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (L, N, P), targets (T, P) and weights (P,) at uniform points, or at some cells."""
    if points:
        size = (target.labeled.shape[0], target.labeled.shape[1])
        at = random_points(1, points, size, generator)
        logits = logits_at(masks.flatten(0, 1)[None], at, size).reshape(*masks.shape[:2], points)
        return (
            logits,
            target.pixels.flatten(1)[:, at[0]].float(),
            target.labeled.flatten()[at[0]].float(),
        )
    return (
        strided_samples(masks).float(),
        strided_samples(target.masks),
        strided_samples(target.weight),
    )


def _class_loss(
    made: MatchingInputs,
    classes: Tensor,
    batch: Batch,
    cells: Sequence[PooledTargets],
    background_weight: float,
) -> Tensor:
    """Cross-entropy of the proposals that stand after MERGE, background weighted down; mean by
    weight.

    Proposals that match nothing and lie mostly where nothing is labeled are not asked, as panoptic
    quality leaves them out of its account: crowds, void, and whatever else an image that is not
    exhaustive may show.
    """
    annotated = [target.annotated for target in batch.targets]
    matched = classes < made.class_logits.shape[-1] - 1
    logits = made.class_logits
    if any(looked_for is not None for looked_for in annotated):
        alone, taken = (
            merge_unannotated_into_background(logits, annotated),
            mask_unannotated_logits(logits, annotated),
        )
        logits = torch.where(matched[..., None], taken, alone)
    labeled, unknown = (
        strided_samples(torch.stack([getattr(c, name) for c in cells]))
        for name in ("weight", "unknown")
    )
    on_void = mostly_void(strided_samples(made.mask_logits), labeled, unknown)
    asked = made.kept & (matched | ~on_void)
    weight = logits.new_ones(logits.shape[-1])
    weight[-1] = background_weight
    chosen = classes[asked]
    return F.cross_entropy(
        logits[asked], chosen, weight=weight, reduction="sum"
    ) / mean_over_processes(weight[chosen].sum())


def _mask_losses(
    masks: Tensor,
    image: Tensor,
    pair: Tensor,
    with_mask: Tensor,
    batch: Batch,
    cells: Sequence[PooledTargets],
    config: LossConfig,
    step: int,
    layers: int,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Mask terms of the matched pairs: masks (M, h, w), image (M,), and pair (M,) from
    `_row_of_target`.

    with_mask (M,) bool, on the CPU.
    """
    count = sum(len(c.labels) for c in cells)
    pairs = (
        mean_over_processes(torch.full((), count, dtype=torch.float32, device=masks.device))
        * layers
    )
    losses: dict[str, Tensor] = {}
    if bool(with_mask.any()):
        some = places(with_mask, masks.device)
        of = masks[some], pair[some], image[some], cells
        logits, wanted, weight = (
            _at_points(*of, config.points, generator) if config.points else _at_cells(*of)
        )
        losses["focal"] = config.focal * focal_loss(logits, wanted, weight).sum() / pairs
        losses["dice"] = config.dice * dice_loss(logits, wanted, weight).sum() / pairs
    if not bool(with_mask.all()):
        some = places(~with_mask, masks.device)
        logits, boxes = masks[some], torch.cat([c.boxes for c in cells])[pair[some]]
        losses["projection"] = config.projection * projection_loss(logits, boxes).sum() / pairs
        if config.pairwise > 0:
            warmup = min(1.0, (step + 1) / max(1, config.pairwise_warmup_steps))
            alike = pairwise_losses(logits, affinity_of_cells(batch.images), image[some], boxes)
            losses["pairwise"] = config.pairwise * warmup * alike.sum() / pairs
    return losses


def _at_cells(
    masks: Tensor, target: Tensor, image: Tensor, cells: Sequence[PooledTargets]
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, targets and weights (M, h * w) of masks (M, h, w), whose target of all and whose
    image are given."""
    wanted = torch.cat([c.masks for c in cells])[target]
    return (
        masks.flatten(1),
        wanted.flatten(1),
        torch.stack([c.weight for c in cells])[image].flatten(1),
    )


def _at_points(
    masks: Tensor,
    target: Tensor,
    image: Tensor,
    cells: Sequence[PooledTargets],
    count: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `_at_cells`, at `count` pixels of each mask, most of them where it is unsure: (M,
    count)."""
    labeled = torch.stack([c.labeled for c in cells])
    points = uncertain_points(masks, labeled, image, count, generator)
    wanted = torch.cat([c.pixels for c in cells]).flatten(1)[target[:, None], points]
    weight = labeled.flatten(1)[image[:, None], points]
    return (
        logits_at(masks, points, (labeled.shape[1], labeled.shape[2])),
        wanted.float(),
        weight.float(),
    )
