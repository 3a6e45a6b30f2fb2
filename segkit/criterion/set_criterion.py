"""SetCriterion: MERGE, matching, and the loss terms that each target's annotation allows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit import distributed
from segkit.criterion.box_prompts import box_prompt_losses
from segkit.criterion.color_affinity import image_affinity, pairwise_losses
from segkit.criterion.denoising import denoising_losses
from segkit.criterion.dense_loss import dense_loss
from segkit.criterion.losses import dice_loss, focal_loss, projection_loss
from segkit.criterion.matcher import HungarianMatcher, Indices, PendingCosts
from segkit.criterion.merge_proposals import (
    MergedProposals,
    merge_masks,
    merge_proposals,
    mergeable_classes,
)
from segkit.criterion.partial_labels import (
    mask_unannotated_logits,
    merge_unannotated_into_background,
)
from segkit.criterion.point_sampling import (
    device_generator,
    logits_at,
    uncertain_points,
)
from segkit.criterion.pooled_targets import AssistMasks, CellBoxes, PooledTargets, true_rows
from segkit.criterion.query_groups import Foreground
from segkit.criterion.sigmoid_classes import sigmoid_class_loss
from segkit.data.batch import Batch, PackedMasks
from segkit.model.box_prompt_encoder import BoxPrompts
from segkit.model.dataseg import Outputs, Proposals
from segkit.recipes.schema import LossConfig


@dataclass(frozen=True)
class Matching:
    """What is matched: merged proposals, targets, and the costs on their way to the CPU."""

    proposals: MergedProposals
    targets: list[PooledTargets]
    """One entry per image."""
    annotated: list[Tensor | None]
    """(K,) bool for each image, the classes that it is annotated for; None means all."""
    costs: PendingCosts
    generator: torch.Generator
    """Source of sampled points, on the proposals' device."""
    foreground: Foreground | None
    """Boxes of the foreground queries; None without any."""


@dataclass(frozen=True)
class MatchedPairs:
    """Matched proposals and targets of all images and layers, M in all."""

    masks: Tensor
    """(M, h, w): mask logits after MERGE."""
    image: Tensor
    """(M,) int64."""
    target: Tensor
    """(M,) int64: row among the targets of all images together."""
    trust: Tensor
    """(M,) float32 in 0-1, on the CPU: weight of the losses of the target's mask; those of its box
    get the rest."""
    corners: Tensor
    """(M, 4), on the CPU: the target's box, x0, y0, x1, y1 in pixels."""

    def select(self, chosen: Tensor) -> "MatchedPairs":
        """Some pairs, by flags (M,) on the CPU; nothing is copied where all are chosen."""
        if bool(chosen.all()):
            return self
        rows = true_rows(chosen, self.masks.device)
        masks, image, target = (x[rows] for x in (self.masks, self.image, self.target))
        return MatchedPairs(masks, image, target, self.trust[chosen], self.corners[chosen])


class SetCriterion(nn.Module):
    """Loss terms of a batch, each layer with equal weight (deep supervision).

    Sampled points follow torch's default CPU generator: the same state gives the same losses.

    Args:
        config: weights.
        is_thing: (K,) bool of each data set's classes, on the model's device.
    """

    def __init__(self, config: LossConfig, is_thing: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.config = config
        self.is_thing = dict(is_thing)
        self.matcher = HungarianMatcher(config)

    def forward(
        self,
        outputs: Outputs,
        batch: Batch,
        prompts: BoxPrompts | None,
        step: int,
        assist: Sequence[AssistMasks] | None = None,
        noised: BoxPrompts | None = None,
    ) -> dict[str, Tensor]:
        """Weighted loss terms, whose sum is to be minimized.

        Every process must call it with outputs of the same kinds.

        Args:
            outputs: of the model in training mode, with aux outputs.
            batch: images of one data set, moved to the model's device by `Batch.to`. Nothing waits
                for the device before the matching.
            prompts: from `sample_box_prompts`, the ones that the model has been given.
            step: number of the training step, for the warm-up of the pairwise term.
            assist: from `predict_assist_masks`, one entry per image.
            noised: from `sample_denoising`, the ones that the model has been given.

        Returns:
            Scalars by name: `class`; `focal` and `dice` where there are masks; `projection` and
            `pairwise` where there are only boxes; `pseudo_focal` and `pseudo_dice` where the masks
            of `assist` are targets; `box_l1` and `box_giou` with foreground queries, but in
            semantic sets; those of `box_prompt_losses` and `denoising_losses`; and `dense` with
            class logits of cells.
        """
        targets = [PooledTargets.from_targets(target) for target in batch.targets]
        if assist is not None:
            pairs = zip(targets, assist, strict=True)
            targets = [replace(target, assist=masks) for target, masks in pairs]
        matching = None
        if outputs.queries is not None:
            matching = self._start_matching(outputs.queries, batch, targets)
        losses: dict[str, Tensor] = {}
        if outputs.box_prompts is not None and prompts is not None:  # while the costs arrive
            losses = box_prompt_losses(outputs.box_prompts, prompts, batch, targets, self.config)
        if outputs.denoising is not None and noised is not None:
            losses |= denoising_losses(outputs.denoising, noised, batch, targets, self.config)
        if matching is not None:
            losses = self._query_losses(matching, batch, step) | losses
        if outputs.cells is not None:
            loss = dense_loss(outputs.cells, batch, targets, self.config.background)
            losses["dense"] = self.config.dense * loss
        if distributed.world_size() > 1 or not losses:
            name = "class" if matching is not None else "conditioned_class"
            losses[name] = losses.get(name, 0.0) + _zero(outputs)
        return losses

    def _start_matching(
        self, proposals: Proposals, batch: Batch, targets: Sequence[PooledTargets]
    ) -> Matching:
        """Merge the proposals of all layers and start the transfer of their matching costs."""
        wholes = [torch.nonzero(~target.is_part)[:, 0] for target in batch.targets]
        objects = [target.select(rows) for target, rows in zip(targets, wholes, strict=True)]
        annotated = [target.annotated for target in batch.targets]
        mergeable = mergeable_classes(batch.task, self.is_thing[batch.dataset])
        threshold, classes = self.config.merge_threshold, self.config.classes
        merged = merge_proposals(proposals, mergeable, annotated, threshold, classes)
        generator = torch.default_generator
        if self.config.points:
            generator = device_generator(generator, proposals.mask_logits.device)
        foreground = None
        if proposals.boxes is not None:
            is_thing = self.is_thing[batch.dataset]
            foreground = Foreground.from_batch(proposals.boxes, batch, wholes, is_thing)
        costs = self.matcher.start(merged, objects, annotated, generator, foreground)
        return Matching(merged, objects, annotated, costs, generator, foreground)

    def _query_losses(self, matching: Matching, batch: Batch, step: int) -> dict[str, Tensor]:
        """Losses of the learned and the foreground queries."""
        proposals, targets = matching.proposals, matching.targets
        device, layers = proposals.mask_logits.device, proposals.mask_logits.shape[1]
        indices = self.matcher.finish(matching.costs)
        target = _rows_of_targets(targets, indices)
        trust = torch.cat([t.trust for t in targets])[target]
        corners = torch.cat([t.corners for t in targets])[target]
        counted = matching.costs.background.clone()  # (B, L, N), on the CPU
        counted[indices.image, indices.layer, indices.query] = True
        rows = torch.stack((indices.image * layers + indices.layer, indices.query), dim=1)
        heads = matching.costs.heads
        heads = None if heads is None else heads.flatten(0, 1)  # (B * L, N), on the CPU
        losses: dict[str, Tensor] = {}
        if matching.foreground is not None:
            matched = torch.stack((indices.image, indices.layer, indices.query, target))
            queries = proposals.mask_logits.shape[2]
            losses = matching.foreground.losses(matched, queries, self.config)
        indices = indices.to(device)
        target = target.to(device, non_blocking=True)

        background = proposals.class_logits.shape[-1] - 1
        shape = proposals.class_logits.shape[:-1]
        classes = torch.full(shape, background, device=device)  # (B, L, N)
        labels = torch.cat([t.labels for t in targets])
        classes[indices.image, indices.layer, indices.query] = labels[target]
        losses["class"] = self.config.classification * self._class_loss(matching, classes, counted)

        mask_logits = proposals.mask_logits.flatten(0, 1)  # (B * L, N, h, w)
        masks = merge_masks(mask_logits.flatten(2), heads, rows)
        masks = masks.reshape(-1, *mask_logits.shape[-2:])
        pairs = MatchedPairs(masks, indices.image, target, trust, corners)

        num_targets = torch.full((), len(labels), dtype=torch.float32, device=masks.device)
        num_masks = distributed.mean_over_processes(num_targets) * layers
        if bool((trust > 0).any()):
            losses |= self._mask_losses(pairs, matching, num_masks)
        if bool((trust < 1).any()):
            losses |= self._box_losses(pairs, matching, num_masks, batch.images, step)
        return losses

    def _class_loss(self, matching: Matching, classes: Tensor, counted: Tensor) -> Tensor:
        """Cross-entropy of the rows that remain after MERGE, background weighted down; their mean.

        With `loss.classes` = sigmoid, `sigmoid_class_loss` of the same rows, over the number of
        matched proposals; over that of one target where there are none.

        Unmatched proposals on void do not count, as panoptic quality does not count them: they may
        show crowds, void, and whatever else an image that is not exhaustive contains.

        Args:
            matching: proposals and targets.
            classes: (B, L, N) int64, the class of each proposal's target; background without one.
            counted: (B, L, N) bool on the CPU, the proposals that count.
        """
        logits, annotated = matching.proposals.class_logits, matching.annotated
        if self.config.classes == "sigmoid":
            counted = counted.to(logits.device, non_blocking=True)
            matched = (classes < logits.shape[-1] - 1).sum().float()
            loss = sigmoid_class_loss(logits, classes, counted, annotated)
            layers = logits.shape[1]  # each matches every target
            return loss / distributed.mean_over_processes(matched).clamp(min=layers)
        if any(classes is not None for classes in annotated):
            is_matched = classes < logits.shape[-1] - 1
            logits = torch.where(
                is_matched[..., None],
                mask_unannotated_logits(logits, annotated),
                merge_unannotated_into_background(logits, annotated),
            )
        weight = logits.new_ones(logits.shape[-1])
        weight[-1:] = self.config.background  # assigning to weight[-1] waits for a GPU
        rows = true_rows(counted.flatten(), logits.device)
        logits, classes = logits.flatten(0, 2)[rows], classes.flatten()[rows]
        loss = F.cross_entropy(logits, classes, weight=weight, reduction="sum")
        return loss / distributed.mean_over_processes(weight[classes].sum())

    def _mask_losses(
        self, pairs: MatchedPairs, matching: Matching, num_masks: Tensor
    ) -> dict[str, Tensor]:
        """Focal and dice terms of the pairs whose target has a mask."""
        config, targets = self.config, matching.targets
        pairs = pairs.select(pairs.trust > 0)
        trust = pairs.trust.to(pairs.masks.device, non_blocking=True)
        logits, target, image = pairs.masks, pairs.target, pairs.image
        if config.points:
            sampled = _at_points(logits, target, image, targets, config.points, matching.generator)
        else:
            masks = torch.cat([t.masks for t in targets])[target]
            weight = torch.stack([t.weight for t in targets])[image]
            sampled = logits.flatten(1), masks.flatten(1), weight.flatten(1)
        return {
            "focal": config.focal * (trust * focal_loss(*sampled)).sum() / num_masks,
            "dice": config.dice * (trust * dice_loss(*sampled)).sum() / num_masks,
        }

    def _box_losses(
        self,
        pairs: MatchedPairs,
        matching: Matching,
        num_masks: Tensor,
        images: Tensor,
        step: int,
    ) -> dict[str, Tensor]:
        """Projection and pairwise terms of the pairs whose target has only a box."""
        config = self.config
        pairs = pairs.select(pairs.trust < 1)
        doubt = (1 - pairs.trust).to(pairs.masks.device, non_blocking=True)
        logits, boxes = pairs.masks, CellBoxes.cat([t.boxes for t in matching.targets])
        projection = (doubt * projection_loss(logits, boxes[pairs.target].profiles)).sum()
        losses = {"projection": config.projection * projection / num_masks}
        if config.pairwise > 0:
            warmup = min(1.0, (step + 1) / max(1, config.pairwise_warmup_steps))
            affinity = image_affinity(images)
            pairwise = pairwise_losses(logits, affinity, pairs.image, pairs.corners)
            pairwise = (doubt * pairwise).sum()
            losses["pairwise"] = config.pairwise * warmup * pairwise / num_masks
        assist = [t.assist for t in matching.targets if t.assist is not None]
        if assist and config.box_assist == "pseudo":
            masks = torch.cat([a.masks for a in assist])[pairs.target].flatten(1)
            quality = torch.cat([a.weight for a in assist])[pairs.target]
            sampled = logits.flatten(1), masks, torch.ones_like(masks)  # all cells, void ones too
            focal, dice = focal_loss(*sampled), dice_loss(*sampled)
            losses["pseudo_focal"] = config.focal * (quality * focal).sum() / num_masks
            losses["pseudo_dice"] = config.dice * (quality * dice).sum() / num_masks
        return losses


def _rows_of_targets(targets: Sequence[PooledTargets], indices: Indices) -> Tensor:
    """Row (M,) of each pair's target when the targets of all images are concatenated."""
    offset = torch.tensor([0, *(len(t.labels) for t in targets)]).cumsum(0)
    return offset[indices.image] + indices.target


def _at_points(
    logits: Tensor,
    target: Tensor,
    image: Tensor,
    targets: Sequence[PooledTargets],
    count: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, masks and weights (M, count) at pixels, most of them where the mask is uncertain."""
    labeled = torch.stack([t.labeled for t in targets])  # (B, H, W)
    points = uncertain_points(logits, labeled, image, count, generator)
    masks = PackedMasks.cat([t.full_masks for t in targets]).at(target[:, None], points)
    weight = labeled.flatten(1)[image[:, None], points]
    size = (labeled.shape[1], labeled.shape[2])
    return logits_at(logits, points, size), masks.float(), weight.float()


def _zero(outputs: Outputs) -> Tensor:
    """0, with a gradient of zeros for every weight that the outputs depend on.

    Processes exchange gradients weight by weight: one that lacks a term (no masks, no matches) must
    still contribute.
    """
    parts = (outputs.queries, outputs.box_prompts, outputs.denoising, outputs.cells)
    tensors = [tensor for part in parts if part is not None for tensor in part]
    zeros = [tensor[:0].sum() for tensor in tensors if tensor is not None]
    return torch.stack(zeros).sum()
