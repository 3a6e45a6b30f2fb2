"""Partial labels: exclude classes that an image was not annotated for from the negatives."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

MASKED_LOGIT = -1e4
"""Logit of a class that is not annotated: probability 0, and within half precision."""


def mask_unannotated_logits(class_logits: Tensor, annotated: Sequence[Tensor | None]) -> Tensor:
    """Remove the classes that an image is not annotated for from its softmax.

    Args:
        class_logits: (B, ..., K + 1), background last.
        annotated: (K,) bool for each image; None where all classes are annotated.
    """
    if all(classes is None for classes in annotated):
        return class_logits
    return class_logits.masked_fill(_unannotated(class_logits, annotated), MASKED_LOGIT)


def merge_unannotated_into_background(
    class_logits: Tensor, annotated: Sequence[Tensor | None]
) -> Tensor:
    """Add the probability of unannotated classes to background.

    An unmatched proposal may show one of them, so no loss pushes them down, as in Cermelli et al.
    (arXiv 2002.00718), eq. 5. Arguments as in `mask_unannotated_logits`.
    """
    if all(classes is None for classes in annotated):
        return class_logits
    unannotated = _unannotated(class_logits, annotated)
    merged = unannotated.clone()
    merged[..., -1] = True
    background = class_logits.masked_fill(~merged, -torch.inf).logsumexp(-1, keepdim=True)
    classes = class_logits.masked_fill(unannotated, MASKED_LOGIT)[..., :-1]
    return torch.cat((classes, background.to(classes.dtype)), dim=-1)


def _unannotated(class_logits: Tensor, annotated: Sequence[Tensor | None]) -> Tensor:
    """Classes that an image is not annotated for, never background: (B, 1, ..., K + 1) bool."""
    count = class_logits.shape[-1] - 1
    full = [torch.ones(count, dtype=torch.bool) if c is None else c.cpu() for c in annotated]
    unannotated = F.pad(~torch.stack(full), (0, 1)).to(class_logits.device, non_blocking=True)
    return unannotated.reshape(len(annotated), *[1] * (class_logits.dim() - 2), count + 1)


@torch.no_grad()
def mostly_void(mask_logits: Tensor, labeled: Tensor, void: Tensor) -> Tensor:
    """Proposals whose mask covers more void than labeled pixels.

    Args:
        mask_logits: (B, ..., N, P).
        labeled: (B, P), share of each cell that is labeled.
        void: (B, P), share of each cell that is void; the rest is padding, outside the image.

    Returns:
        (B, ..., N) bool; False for a proposal with an empty mask.
    """
    inside = (mask_logits > 0).to(labeled.dtype)
    shape = (len(labeled), *[1] * (inside.dim() - 3), -1, 1)
    on_labels, on_void = ((inside @ share.reshape(shape))[..., 0] for share in (labeled, void))
    return on_void > on_labels
