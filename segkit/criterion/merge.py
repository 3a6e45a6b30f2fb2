"""MERGE: proposals that stand for the same region of the task's output become one (DaTaSeg, "MERGE
operation").

Which proposals are one is decided by class alone, and a group lives on in its first member's row.
How their masks and class scores become one is not published; the forms to choose from are
`MaskForm` and `ScoreForm`. With groups of sure proposals an undecided model merges nothing and
trains as Mask2Former does.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from segkit.recipes.schema import MERGE_THRESHOLD, MaskForm, ScoreForm
from segkit.shards.manifest import Task

NEGLIGIBLE = 0.01
"""Soft forms leave out proposals whose probability of the class is below: most of them, at little
loss."""
MIN_MASS = 1e-6
"""Share of the image that even a proposal without a mask weighs in the class score by mass."""
_MARGIN = 1e-6
"""How near a merged mask's probability comes to 0 and 1, so that its logit is finite."""


def mergeable_classes(task: Task, is_thing: Tensor) -> Tensor:
    """Classes whose proposals are merged: stuff in panoptic, all in semantic, none in instance
    segmentation.

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
class Groups:
    """Which proposals become one."""

    heads: Tensor
    """(..., N) int64: the row that each proposal is merged into, the first of its group."""
    grouped: Tensor
    """(..., N) bool: proposals of a mergeable class, even if they are the only one; all others stay
    as they are."""

    @property
    def alive(self) -> Tensor:
        """(..., N) bool: rows that stand after MERGE."""
        return self.heads == torch.arange(self.heads.shape[-1], device=self.heads.device)


def group_proposals(
    class_logits: Tensor, mergeable: Tensor, sure: float = MERGE_THRESHOLD
) -> Groups:
    """Put together the proposals that are sure of the same mergeable class.

    Args:
        class_logits: (..., N, K + 1), background last; proposals of background or of another class
            stay alone.
        mergeable: (K,) bool.
        sure: a proposal is merged where its class's probability is above this.
    """
    count = class_logits.shape[-2]
    probability, winner = class_logits.softmax(-1).max(-1)
    grouped = torch.cat((mergeable, mergeable.new_zeros(1)))[winner] & (probability > sure)
    rows = torch.arange(count, device=class_logits.device)
    same = (
        (winner[..., :, None] == winner[..., None, :])
        & grouped[..., :, None]
        & grouped[..., None, :]
    )
    same |= torch.eye(count, dtype=torch.bool, device=class_logits.device)
    return Groups(torch.where(same, rows, count).amin(-1), grouped)


def merge_classes(
    class_logits: Tensor, mask_logits: Tensor, groups: Groups, form: ScoreForm
) -> Tensor:
    """Class logits of each group in the row of its head.

    Args:
        class_logits: (..., N, K + 1).
        mask_logits: (..., N, P), looked at by "mass" alone, without gradient.
        groups: from `group_proposals`.
        form: how members' logits become one.

    Returns:
        (..., N, K + 1); rows that were merged into another are zero.
    """
    weight = _score_weights(class_logits, mask_logits, groups, form)[..., None]
    index = groups.heads[..., None].expand_as(class_logits)
    total = torch.zeros_like(class_logits).scatter_add(-2, index, weight * class_logits)
    return total / torch.zeros_like(weight).scatter_add(-2, index[..., :1], weight).clamp(
        min=MIN_MASS
    )


@torch.no_grad()
def _score_weights(
    class_logits: Tensor, mask_logits: Tensor, groups: Groups, form: ScoreForm
) -> Tensor:
    """Weight (..., N) of each proposal's class logits in its group's."""
    if form == "mean":
        return torch.ones_like(class_logits[..., 0])
    if form == "mass":
        return mask_logits.sigmoid().mean(-1).clamp(min=MIN_MASS).to(class_logits.dtype)
    score = class_logits.softmax(-1).amax(-1)
    best = score.scatter_reduce(-1, groups.heads, score, "amax", include_self=False).gather(
        -1, groups.heads
    )
    count = score.shape[-1]
    rows = torch.arange(count, device=score.device).expand_as(groups.heads)
    surest = rows.masked_fill(score < best, count)
    first = (
        torch.full_like(rows, count)
        .scatter_reduce(-1, groups.heads, surest, "amin")
        .gather(-1, groups.heads)
    )
    return (rows == first).to(class_logits.dtype)


def mask_weights(class_logits: Tensor, groups: Groups, form: MaskForm) -> Tensor:
    """What part each proposal has in the mask of each row.

    Args:
        class_logits: (..., N, K + 1).
        groups: from `group_proposals`.
        form: "max" takes a group's members alike; soft forms take every proposal of the image, by
            its probability of the group's class.

    Returns:
        (..., N, N): row, proposal; 1 and 0 for proposals that are not merged, zero in rows that do
        not stand.
    """
    rows = torch.arange(class_logits.shape[-2], device=class_logits.device)
    members = (groups.heads[..., None, :] == rows[:, None]).to(class_logits.dtype)
    if form == "max":
        return members
    probability, winner = class_logits.softmax(-1), class_logits.argmax(-1)
    claims = probability.transpose(-1, -2).gather(-2, winner[..., None].expand_as(members))
    soft = (groups.grouped & groups.alive)[..., None]
    return torch.where(soft, claims * (claims >= NEGLIGIBLE), members)


def merge_masks(mask_logits: Tensor, weights: Tensor, rows: Tensor, form: MaskForm) -> Tensor:
    """Mask logits of some rows after MERGE, which spares the memory and the gradients of all
    others.

    Args:
        mask_logits: (G, N, P), G being images and layers together.
        weights: (G, N, N), from `mask_weights`.
        rows: (M, 2): g and a row that stands.
        form: how the proposals' masks become one.

    Returns:
        (M, P).
    """
    group, row = rows.unbind(1)
    part = weights[group, row]
    owner, member = torch.nonzero(part).unbind(1)
    masks = mask_logits[group[owner], member]
    if form == "max":
        if len(owner) == len(rows):
            return masks
        union = masks.new_zeros(len(rows), masks.shape[1])
        return union.scatter_reduce(
            0, owner[:, None].expand_as(masks), masks, "amax", include_self=False
        )
    untouched = (part == 1).any(1) & ((part > 0).sum(1) == 1)
    reduce, precise = (
        _sum if form == "sum" else _noisy_or,
        torch.promote_types(masks.dtype, torch.float32),
    )
    merged = reduce(masks.to(precise), part[owner, member].to(precise)[:, None], owner, len(rows))
    return torch.where(untouched[:, None], mask_logits[group, row], merged.to(mask_logits.dtype))


def _sum(masks: Tensor, weight: Tensor, owner: Tensor, count: int) -> Tensor:
    """Logit of the sum of weight * sigmoid(mask), cut off at 1, where it has no gradient: (E, P) ->
    (count, P)."""
    total = masks.new_zeros(count, masks.shape[1]).index_add(0, owner, weight * masks.sigmoid())
    return total.clamp(_MARGIN, 1 - _MARGIN).logit()


def _noisy_or(masks: Tensor, weight: Tensor, owner: Tensor, count: int) -> Tensor:
    """Logit of 1 - prod(1 - weight * sigmoid(mask)): (E, P) -> (count, P)."""
    missing = torch.log1p(-(weight * masks.sigmoid()).clamp(max=1 - _MARGIN))
    log_none = (
        masks.new_zeros(count, masks.shape[1]).index_add(0, owner, missing).clamp(max=-_MARGIN)
    )
    return torch.log(-torch.expm1(log_none)) - log_none


def merge_all_masks(mask_logits: Tensor, weights: Tensor, form: MaskForm) -> Tensor:
    """`merge_masks` of every row that stands: (..., N, P) and (..., N, N) -> (..., N, P), zero in
    all other rows."""
    flat, parts = mask_logits.flatten(0, -3), weights.flatten(0, -3)
    if form == "max":  # by heads: a list of rows would have to wait for the device
        first = torch.arange(len(flat), device=flat.device)[:, None] * flat.shape[1]
        heads, masks = (parts.argmax(-2) + first).flatten(), flat.flatten(0, 1)
        index, union = heads[:, None].expand_as(masks), torch.zeros_like(masks)
        return union.scatter_reduce(0, index, masks, "amax", include_self=False).view_as(
            mask_logits
        )
    rows = torch.nonzero((parts > 0).any(-1))
    merged = torch.zeros_like(flat).index_put(
        tuple(rows.unbind(1)), merge_masks(flat, parts, rows, form)
    )
    return merged.view_as(mask_logits)


def class_claims(probability: Tensor, soft: Tensor, form: MaskForm) -> Tensor:
    """How strongly all proposals together claim each pixel for each class: the class maps of an
    image, not yet decided.

    Args:
        probability: (N, K) of the proposals' classes.
        soft: (N, h, w), masks in 0-1.
        form: of p(class) * mask over the proposals; a sum may exceed 1 here.

    Returns:
        (K, h, w).
    """
    if form == "sum":
        return torch.einsum("nk,nhw->khw", probability, soft)
    each = (p[:, None, None] * soft for p in probability.unbind(1))
    if form == "max":
        return torch.stack([claim.amax(0) for claim in each])
    return torch.stack([1 - (1 - claim).prod(0) for claim in each])
