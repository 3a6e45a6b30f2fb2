"""MERGE: proposals that stand for the same region of the task's output become one (DaTaSeg, "MERGE operation")."""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Merged:
    """Proposals after MERGE; a group lives on in the row of its first member."""

    class_logits: Tensor
    """(..., N, K + 1): mean over the group."""
    mask_logits: Tensor
    """(..., N, P): element-wise maximum over the group, the union of its masks."""
    alive: Tensor
    """(..., N) bool: False for rows that were merged into another."""


def group_heads(class_logits: Tensor, mergeable: Tensor) -> Tensor:
    """For each proposal, the row that it is merged into: the first proposal with the same mergeable arg-max class.

    Args:
        class_logits: (..., N, K + 1), background last; proposals won by background or by another class stay alone.
        mergeable: (K,) bool.

    Returns:
        (..., N) int64.
    """
    count = class_logits.shape[-2]
    winner = class_logits.argmax(-1)
    grouped = torch.cat((mergeable, mergeable.new_zeros(1)))[winner]
    rows = torch.arange(count, device=class_logits.device)
    same = (winner[..., :, None] == winner[..., None, :]) & grouped[..., :, None]
    same |= torch.eye(count, dtype=torch.bool, device=class_logits.device)
    return torch.where(same, rows, count).amin(-1)


def merge(class_logits: Tensor, mask_logits: Tensor, mergeable: Tensor) -> Merged:
    """Merge proposals of the same mergeable class: hard groups by arg-max class, union of masks.

    Which form the authors use is not published; with hard groups an undecided model (all background) merges nothing and
    trains as Mask2Former does, while the maximum hands each pixel's gradient to the proposal that claims it most.

    Args:
        class_logits: (..., N, K + 1), background last.
        mask_logits: (..., N, P), pixels flattened.
        mergeable: (K,) bool.
    """
    heads = group_heads(class_logits, mergeable)
    alive = heads == torch.arange(heads.shape[-1], device=heads.device)
    if bool(alive.all()):
        return Merged(class_logits, mask_logits, alive)

    def gather(values: Tensor, reduce: str) -> Tensor:
        index = heads[..., None].expand_as(values)
        return torch.zeros_like(values).scatter_reduce(-2, index, values, reduce, include_self=False)

    return Merged(gather(class_logits, "mean"), gather(mask_logits, "amax"), alive)
