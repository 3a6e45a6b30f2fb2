"""MERGE: proposals that stand for the same region of the task's output become one (DaTaSeg, "MERGE operation").

Groups are hard, and a group's mask is the union of its members'. Which form the authors use is not published; with hard
groups of sure proposals an undecided model merges nothing and trains as Mask2Former does, while the maximum hands each
pixel's gradient to the proposal that claims it most. A group lives on in its first member's row.
"""

import torch
from torch import Tensor

from segkit.manifest import Task


def mergeable_classes(task: Task, is_thing: Tensor) -> Tensor:
    """Classes whose proposals are merged: stuff in panoptic, all in semantic, none in instance segmentation.

    Args:
        task: what the data set is annotated for.
        is_thing: (K,) bool.

    Returns:
        (K,) bool.
    """
    if task == "panoptic":
        return ~is_thing
    return torch.full_like(is_thing, task == "semantic")


SURE = 0.5
"""Least class probability of a proposal that is merged. Merging by arg-max alone starves training: a new model's
proposals mostly share an arg-max, so few are left after MERGE and most targets find no proposal to learn from."""


def group_heads(class_logits: Tensor, mergeable: Tensor) -> Tensor:
    """For each proposal, the row that it is merged into: the first proposal that is sure of the same mergeable class.

    Args:
        class_logits: (..., N, K + 1), background last; proposals of background or of another class stay alone.
        mergeable: (K,) bool.

    Returns:
        (..., N) int64.
    """
    count = class_logits.shape[-2]
    probability, winner = class_logits.softmax(-1).max(-1)
    grouped = torch.cat((mergeable, mergeable.new_zeros(1)))[winner] & (probability > SURE)
    rows = torch.arange(count, device=class_logits.device)
    same = (winner[..., :, None] == winner[..., None, :]) & grouped[..., :, None] & grouped[..., None, :]
    same |= torch.eye(count, dtype=torch.bool, device=class_logits.device)
    return torch.where(same, rows, count).amin(-1)


def merge_classes(class_logits: Tensor, heads: Tensor) -> Tensor:
    """Class logits of each group, the mean over its members, in the row of its head: (..., N, K + 1).

    Rows that were merged into another are left zero; `heads` (..., N) comes from `group_heads`.
    """
    return _scatter(class_logits, heads, "mean")


def merge_masks(mask_logits: Tensor, heads: Tensor) -> Tensor:
    """Mask logits of each group, the union of its members' masks (maximum), in the row of its head: (..., N, P)."""
    return _scatter(mask_logits, heads, "amax")


def _scatter(values: Tensor, heads: Tensor, reduce: str) -> Tensor:
    index = heads[..., None].expand_as(values)
    return torch.zeros_like(values).scatter_reduce(-2, index, values, reduce, include_self=False)


def union_of_groups(mask_logits: Tensor, heads: Tensor, rows: Tensor) -> Tensor:
    """`merge_masks` at some rows only, which spares the memory and the gradients of all others.

    Args:
        mask_logits: (G, N, P), G being images and layers together.
        heads: (G, N).
        rows: (M, 2): g and the row of a head.

    Returns:
        (M, P).
    """
    group, row = rows.unbind(1)
    owner, member = torch.nonzero(heads[group] == row[:, None]).unbind(1)
    masks = mask_logits[group[owner], member]
    if len(owner) == len(rows):
        return masks
    union = masks.new_zeros(len(rows), masks.shape[1])
    return union.scatter_reduce(0, owner[:, None].expand_as(masks), masks, "amax", include_self=False)
