"""Partial labels: what an image does not say must not be learned as absent."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

HIDDEN = -1e4
"""Logit of a class that an image says nothing about; a probability of 0 that half precision can
hold."""


def mask_unannotated_logits(class_logits: Tensor, annotated: Sequence[Tensor | None]) -> Tensor:
    """Take classes that were not looked for in an image out of its softmax: their absence is no
    negative.

    Args:
        class_logits: (B, ..., K + 1), background last.
        annotated: an image each, (K,) bool; None where all classes were looked for.
    """
    if all(classes is None for classes in annotated):
        return class_logits
    return class_logits.masked_fill(_unannotated(class_logits, annotated), HIDDEN)


def merge_unannotated_into_background(
    class_logits: Tensor, annotated: Sequence[Tensor | None]
) -> Tensor:
    """Count classes that were not looked for as background: who matches nothing may be of any of
    them.

    So nothing pushes these classes down, as in Cermelli et al. (arXiv 2002.00718), eq. 5. Arguments
    as in `mask_unannotated_logits`.
    """
    if all(classes is None for classes in annotated):
        return class_logits
    hidden = _unannotated(class_logits, annotated)
    other = hidden.clone()
    other[..., -1] = True
    background = class_logits.masked_fill(~other, -torch.inf).logsumexp(-1, keepdim=True)
    shown = class_logits.masked_fill(hidden, HIDDEN)[..., :-1]
    return torch.cat((shown, background.to(shown.dtype)), dim=-1)


def _unannotated(class_logits: Tensor, annotated: Sequence[Tensor | None]) -> Tensor:
    """(B, 1, ..., K + 1) bool: classes that were not looked for; background always was."""
    count = class_logits.shape[-1] - 1
    shown = [torch.ones(count, dtype=torch.bool) if c is None else c.cpu() for c in annotated]
    hidden = F.pad(~torch.stack(shown), (0, 1)).to(class_logits.device, non_blocking=True)
    return hidden.reshape(len(annotated), *[1] * (class_logits.dim() - 2), count + 1)


@torch.no_grad()
def mostly_void(mask_logits: Tensor, labeled: Tensor, unknown: Tensor) -> Tensor:
    """Proposals with more than half of their mask in the image where nothing is labeled.

    Args:
        mask_logits: (B, ..., N, P).
        labeled: (B, P), share of each cell that is labeled.
        unknown: (B, P), share of each cell that is void; the rest is padding, which is no part of
            the image.

    Returns:
        (B, ..., N) bool; False for a proposal without a mask.
    """
    inside = (mask_logits > 0).to(labeled.dtype)
    shape = (len(labeled), *[1] * (inside.dim() - 3), -1, 1)
    on_labels, on_void = ((inside @ share.reshape(shape))[..., 0] for share in (labeled, unknown))
    return on_void > on_labels
