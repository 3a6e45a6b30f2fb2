"""MERGE: fold the proposals of one region of the output into one (DaTaSeg, "MERGE operation").

Proposals of one class form a group; the first member's row represents the group.
Masks are merged by their maximum and class logits by their mean: the paper leaves both open, and
`docs/results.md` records the other forms that were measured. Only confident proposals are grouped,
so an untrained model merges nothing and trains as Mask2Former does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segkit.criterion.partial_labels import mask_unannotated_logits
from segkit.model.dataseg import Proposals
from segkit.model.text_classifier import best_class
from segkit.recipes.schema import MERGE_THRESHOLD, ClassLoss
from segkit.shards.manifest import Task


def mergeable_classes(task: Task, is_thing: Tensor) -> Tensor | None:
    """Classes whose proposals are merged: stuff (panoptic), all (semantic) or none (instance).

    Args:
        task: what the data set is annotated for.
        is_thing: (K,) bool.

    Returns:
        (K,) bool; None means none.
    """
    if task == "instance":
        return None
    return ~is_thing if task == "panoptic" else torch.ones_like(is_thing)


def group_proposals(
    class_logits: Tensor,
    mergeable: Tensor,
    threshold: float = MERGE_THRESHOLD,
    foreground: int = 0,
    classes: ClassLoss = "softmax",
) -> Tensor:
    """Group the proposals that are confident of the same mergeable class.

    Args:
        class_logits: (..., N, K + 1), background last. Proposals whose best class is background or
            not mergeable form groups of one.
        mergeable: (K,) bool.
        threshold: a proposal is grouped where its class's probability is above this.
        foreground: the last proposals, this many, do not join groups of the proposals before them.
        classes: how the logits were trained.

    Returns:
        Heads (..., N) int64: the row that each proposal is merged into, the first of its group.
    """
    count = class_logits.shape[-2]
    probability, winner = best_class(class_logits, classes)  # (..., N)
    grouped = torch.cat((mergeable, mergeable.new_zeros(1)))[winner] & (probability > threshold)
    rows = torch.arange(count, device=class_logits.device)
    same = winner[..., :, None] == winner[..., None, :]  # (..., N, N)
    same &= grouped[..., :, None] & grouped[..., None, :]
    if foreground:
        is_foreground = rows >= count - foreground
        same &= is_foreground[:, None] == is_foreground[None, :]
    same |= torch.eye(count, dtype=torch.bool, device=class_logits.device)
    return torch.where(same, rows, count).amin(-1)


def kept_rows(heads: Tensor) -> Tensor:
    """The rows that remain after MERGE: heads (..., N) -> (..., N) bool."""
    return heads == torch.arange(heads.shape[-1], device=heads.device)


def merge_classes(class_logits: Tensor, heads: Tensor) -> Tensor:
    """Mean class logits of each group, in the row of its head.

    Args:
        class_logits: (..., N, K + 1).
        heads: (..., N), from `group_proposals`.

    Returns:
        (..., N, K + 1); rows that were merged into another are zero.
    """
    head = heads[..., None]
    total = torch.zeros_like(class_logits)
    total = total.scatter_add(-2, head.expand_as(class_logits), class_logits)
    members = torch.zeros_like(class_logits[..., :1])
    members = members.scatter_add(-2, head, torch.ones_like(members))
    return total / members.clamp(min=1)


def merge_masks(mask_logits: Tensor, heads: Tensor | None, rows: Tensor) -> Tensor:
    """Maximum of each group's mask logits, for selected rows.

    Other rows cost no memory and get no gradient.

    Args:
        mask_logits: (G, N, P), G being images and layers together.
        heads: (G, N) on the CPU, from `group_proposals`; None where nothing is merged.
        rows: (M, 2) on the CPU: g, and a row that remains after MERGE.

    Returns:
        (M, P).
    """
    device = mask_logits.device
    if heads is None:
        group, row = rows.to(device, non_blocking=True).unbind(1)
        return mask_logits[group, row]
    group, row = rows.unbind(1)
    owner, member = torch.nonzero(heads[group] == row[:, None]).unbind(1)
    members = torch.stack((owner, group[owner], member)).to(device, non_blocking=True)
    owner, group, member = members.unbind()
    masks = mask_logits[group, member]
    if len(owner) == len(rows):
        return masks
    merged = masks.new_zeros(len(rows), masks.shape[1])
    index = owner[:, None].expand_as(masks)
    return merged.scatter_reduce(0, index, masks, "amax", include_self=False)


def merge_all_masks(mask_logits: Tensor, heads: Tensor | None) -> Tensor:
    """`merge_masks` of every row that remains.

    It goes by heads, since a list of rows would have to wait for the device.

    Args:
        mask_logits: (..., N, P).
        heads: (..., N); None where nothing is merged.

    Returns:
        (..., N, P), zero in rows that were merged into another.
    """
    if heads is None:
        return mask_logits
    count = mask_logits.shape[-2]
    masks = mask_logits.flatten(0, -2)  # (G * N, P)
    heads = heads.reshape(-1, count)  # (G, N)
    first = torch.arange(len(heads), device=heads.device)[:, None] * count
    index = (heads + first).flatten()[:, None].expand_as(masks)
    merged = torch.zeros_like(masks).scatter_reduce(0, index, masks, "amax", include_self=False)
    return merged.view_as(mask_logits)


@dataclass(frozen=True)
class MergedProposals:
    """Proposals of B images and L layers after MERGE."""

    class_logits: Tensor
    """(B, L, N, K + 1), merged."""
    mask_logits: Tensor
    """(B, L, N, h, w), not yet merged: `merge_masks` and `merge_all_masks` merge what is needed."""
    heads: Tensor | None
    """(B, L, N) int64, as `group_proposals` returns them; None where nothing can be merged."""

    @property
    def kept(self) -> Tensor:
        """(B, L, N) bool: rows that remain after MERGE."""
        if self.heads is None:
            shape, device = self.class_logits.shape[:-1], self.class_logits.device
            return torch.ones(shape, dtype=torch.bool, device=device)
        return kept_rows(self.heads)


def merge_proposals(
    proposals: Proposals,
    mergeable: Tensor | None,
    annotated: Sequence[Tensor | None],
    threshold: float,
    classes: ClassLoss,
) -> MergedProposals:
    """Group the proposals of all layers and merge their class logits.

    Args:
        proposals: of the learned and the foreground queries.
        mergeable: (K,) bool or None, from `mergeable_classes`.
        annotated: (K,) bool for each image, the classes that may form groups; None means all.
        threshold, classes: as in `group_proposals`.
    """
    if mergeable is None:
        return MergedProposals(proposals.class_logits, proposals.mask_logits, heads=None)
    annotated_logits = mask_unannotated_logits(proposals.class_logits, annotated)
    foreground = 0 if proposals.boxes is None else proposals.boxes.shape[2]
    heads = group_proposals(annotated_logits, mergeable, threshold, foreground, classes)
    class_logits = merge_classes(proposals.class_logits, heads)
    return MergedProposals(class_logits, proposals.mask_logits, heads)
