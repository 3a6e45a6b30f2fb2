"""Sigmoid classes: focal loss of each class against background (OpenSeeD, as Deformable DETR).

The probability of a class by itself is the sigmoid of its logit less that of background
(`segkit.model.text_classifier`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.criterion.losses import focal_terms
from segkit.model.text_classifier import class_margins


def sigmoid_class_cost(class_logits: Tensor, labels: Tensor) -> Tensor:
    """Focal loss of each target's class, less its loss as a negative (Deformable DETR).

    Args:
        class_logits: (L, N, K + 1), background last.
        labels: (T,) int64.

    Returns:
        (L, N, T).
    """
    positive, negative = focal_terms(class_margins(class_logits)[..., labels])
    return positive - negative


def sigmoid_class_loss(
    class_logits: Tensor, classes: Tensor, counted: Tensor, annotated: Sequence[Tensor | None]
) -> Tensor:
    """Sum of the focal losses of all classes of the proposals that count.

    Args:
        class_logits: (B, L, N, K + 1), background last.
        classes: (B, L, N) int64, the class of each proposal's target; K without one.
        counted: (B, L, N) bool, the proposals that count.
        annotated: (K,) bool for each image, the classes that count; None means all.
    """
    margins = class_margins(class_logits)  # (B, L, N, K)
    count = margins.shape[-1]
    positive, negative = focal_terms(margins)
    is_class = F.one_hot(classes, count + 1)[..., :-1].bool()
    loss = torch.where(is_class, positive, negative) * counted[..., None]
    if any(flags is not None for flags in annotated):
        full = [torch.ones(count) if flags is None else flags.float() for flags in annotated]
        loss = loss * torch.stack(full).to(loss.device, non_blocking=True)[:, None, None]
    return loss.sum()
