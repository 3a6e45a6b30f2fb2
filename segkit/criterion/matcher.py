"""Hungarian matching: send the matching costs to the CPU, then assign targets to proposals.

scipy's solver takes 4 to 30 microseconds for 100 proposals and 10 to 60 targets; lapx 0.11, the
fastest maintained alternative, takes 80 to 130, since it solves the square problem.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from segkit.criterion.losses import dice_cost, focal_cost, profiles, projection_cost
from segkit.criterion.merge_proposals import MergedProposals, merge_all_masks
from segkit.criterion.partial_labels import mask_unannotated_logits, mostly_void
from segkit.criterion.point_sampling import logits_at, random_points, strided_samples
from segkit.criterion.pooled_targets import AssistMasks, PooledTargets
from segkit.criterion.query_groups import Foreground
from segkit.criterion.sigmoid_classes import sigmoid_class_cost
from segkit.distributed import HostCopy
from segkit.recipes.schema import LossConfig

INVALID_COST = 1e6
"""Cost of a pair that must not match; far above any sum of losses."""
NONFINITE_COST = INVALID_COST / 10
"""Cost of a pair whose computed cost is NaN or infinite because the model has diverged."""


@dataclass(frozen=True)
class Indices:
    """Matched pairs of a batch, over several decoder layers at once; M pairs in all."""

    image: Tensor
    """(M,) int64."""
    layer: Tensor
    """(M,) int64."""
    query: Tensor
    """(M,) int64."""
    target: Tensor
    """(M,) int64: row among the targets of the image."""

    def to(self, device: torch.device) -> "Indices":
        """The same pairs on another device, in one transfer."""
        stacked = torch.stack((self.image, self.layer, self.query, self.target))
        return Indices(*stacked.to(device, non_blocking=True).unbind())


@dataclass(frozen=True)
class PendingCosts:
    """Costs on their way to the CPU, with what the losses need to select proposals."""

    shapes: tuple[torch.Size, ...]
    _copy: HostCopy
    """All costs in one tensor, `background`, and `heads` if there are some."""

    @property
    def values(self) -> Tensor:
        """All costs in one tensor on the CPU; this and the others wait for the device."""
        return self._copy.wait()[0]

    @property
    def background(self) -> Tensor:
        """(B, L, N) bool: proposals whose class loss counts without a target."""
        return self._copy.wait()[1]

    @property
    def heads(self) -> Tensor | None:
        """(B, L, N) int64: those of `MergedProposals`."""
        heads = self._copy.wait()[2:]
        return heads[0] if heads else None


class HungarianMatcher:
    """Assigns each target at most one proposal, image by image and layer by layer (DETR).

    Matching takes two steps, so that the GPU need not idle: `start` computes the costs and starts
    their transfer, `finish` waits for them and solves the assignment.
    """

    def __init__(self, config: LossConfig) -> None:
        self.config = config

    @torch.no_grad()
    def start(
        self,
        proposals: MergedProposals,
        targets: Sequence[PooledTargets],
        annotated: Sequence[Tensor | None],
        generator: torch.Generator,
        foreground: Foreground | None = None,
    ) -> PendingCosts:
        """Compute the matching costs, which are the weighted losses of each pair.

        What the losses need to select proposals travels with the costs: one wait is for all.

        Args:
            proposals: after MERGE; the rows that it removed are not matched.
            targets: one entry per image.
            annotated: (K,) bool for each image; None means all classes.
            generator: source of sampled points, on the proposals' device; unused without points.
            foreground: the foreground queries; None without any.
        """
        class_logits = mask_unannotated_logits(proposals.class_logits, annotated)
        with torch.autocast(class_logits.device.type, enabled=False):
            heads = [None] * len(targets) if proposals.heads is None else proposals.heads
            strided = merge_all_masks(strided_samples(proposals.mask_logits), proposals.heads)
            images = zip(
                class_logits.float(), proposals.mask_logits, strided, heads, targets, strict=True
            )
            costs = [self._cost(*image, generator) for image in images]
            if foreground is not None:
                costs = foreground.add_costs(costs, self.config, INVALID_COST)
        background = proposals.kept & ~self._on_void(strided, targets)
        return send_costs(costs, proposals, background)

    @staticmethod
    def finish(costs: PendingCosts) -> Indices:
        """Wait for the costs, and assign the targets of each image and layer at the lowest cost.

        A cost that is not finite counts as `NONFINITE_COST`: the pair matches where there is
        nothing better, and its loss, not finite either, stops all processes together.

        Returns:
            Pairs on the CPU; fewer than T in a layer with too few allowed proposals.
        """
        values = np.nan_to_num(
            costs.values.numpy(), nan=NONFINITE_COST, posinf=NONFINITE_COST, neginf=NONFINITE_COST
        )
        ends = np.cumsum([shape.numel() for shape in costs.shapes])
        pairs: list[tuple[int, int, int, int]] = []
        images = zip(costs.shapes, np.split(values, ends[:-1]), strict=True)
        for image, (shape, image_costs) in enumerate(images):
            for layer, cost in enumerate(image_costs.reshape(shape)):
                queries, targets = linear_sum_assignment(cost)
                valid = cost[queries, targets] < INVALID_COST
                pairs += [
                    (image, layer, int(query), int(target))
                    for query, target in zip(queries[valid], targets[valid], strict=True)
                ]
        return Indices(*torch.tensor(pairs, dtype=torch.int64).reshape(-1, 4).unbind(1))

    def _cost(
        self,
        class_logits: Tensor,
        mask_logits: Tensor,
        strided: Tensor,
        heads: Tensor | None,
        targets: PooledTargets,
        generator: torch.Generator,
    ) -> Tensor:
        """Costs (L, N, T) of one image.

        Args:
            class_logits: (L, N, K + 1).
            mask_logits: (L, N, h, w), not merged.
            strided: (L, N, P), merged.
            heads: (L, N).
            targets, generator: as in `start`.
        """
        config = self.config
        trust = targets.trust.to(mask_logits.device, non_blocking=True)  # (T,)
        if config.classes == "sigmoid":
            cost = config.classification * sigmoid_class_cost(class_logits, targets.labels)
        else:
            probability = class_logits.softmax(-1)
            cost = -config.classification * probability[..., targets.labels]  # (L, N, T)
        if bool((targets.trust > 0).any()):
            if config.points:
                logits, masks, weight = self._at_points(mask_logits, targets, generator)
                logits = merge_all_masks(logits, heads)
            else:
                logits, masks = strided.float(), strided_samples(targets.masks)
                weight = strided_samples(targets.weight)
            focal = config.focal * focal_cost(logits, masks, weight)
            dice = config.dice * dice_cost(logits, masks, weight)
            cost = cost + torch.where(trust > 0, trust * (focal + dice), 0.0)
        if bool((targets.trust < 1).any()):
            # MERGE and projections both take maxima, and the projections are far smaller
            across, down = (merge_all_masks(x.float(), heads) for x in profiles(mask_logits))
            projection = projection_cost((across, down), targets.boxes.profiles)
            doubt = config.projection * (1 - trust)
            cost = cost + torch.where(trust < 1, doubt * projection, 0.0)
        if targets.assist is not None:
            cost = cost + self._assist_cost(strided, targets.assist)
        return cost

    @staticmethod
    def _on_void(strided: Tensor, targets: Sequence[PooledTargets]) -> Tensor:
        """Proposals (B, L, N) whose merged masks (B, L, N, P) are mostly on void."""
        labeled = strided_samples(torch.stack([t.weight for t in targets]))  # (B, P)
        void = strided_samples(torch.stack([t.void for t in targets]))
        return mostly_void(strided, labeled, void)

    def _assist_cost(self, strided: Tensor, assist: AssistMasks) -> Tensor:
        """Costs (L, N, T) of merged masks (L, N, P) by the predicted masks of boxes.

        All cells count, void ones too: an object does not leave its box.
        """
        logits = strided.float()
        masks = strided_samples(assist.masks)  # (T, P)
        weight = masks.new_ones(masks.shape[1])
        focal = self.config.focal * focal_cost(logits, masks, weight)
        dice = self.config.dice * dice_cost(logits, masks, weight)
        return assist.weight * (focal + dice)

    def _at_points(
        self, mask_logits: Tensor, targets: PooledTargets, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (L, N, P), masks (T, P), weights (P,) at uniform points."""
        points = self.config.points
        size = (targets.labeled.shape[0], targets.labeled.shape[1])
        at = random_points(1, points, size, generator)  # (1, P)
        logits = logits_at(mask_logits.flatten(0, 1)[None], at, size)  # (1, L * N, P)
        rows = torch.arange(len(targets.full_masks), device=at.device)
        return (
            logits.reshape(*mask_logits.shape[:2], points),
            targets.full_masks.at(rows[:, None], at).float(),
            targets.labeled.flatten()[at[0]].float(),
        )


@torch.no_grad()
def send_costs(
    costs: Sequence[Tensor], proposals: MergedProposals, background: Tensor
) -> PendingCosts:
    """Start the transfer of all costs of a batch, as one tensor.

    Args:
        costs: (L, N, T) for each image, with T of its own.
        proposals: those that MERGE removed are not matched.
        background: as of `PendingCosts`.
    """
    rows = zip(costs, ~proposals.kept[..., None], strict=True)
    precise = [cost.float().masked_fill(removed, INVALID_COST) for cost, removed in rows]
    flat = torch.cat([cost.flatten() for cost in precise])
    shapes, heads = tuple(cost.shape for cost in costs), proposals.heads
    copied = HostCopy.from_tensors(flat, background, *([] if heads is None else [heads]))
    return PendingCosts(shapes, copied)
