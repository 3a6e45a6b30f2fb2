"""Class probabilities of proposals, from the logits of any class head."""

import torch
from torch import Tensor

from segkit.recipes.schema import ClassLoss


def class_margins(class_logits: Tensor) -> Tensor:
    """Logits of each class against background: (..., K + 1), background last, -> (..., K)."""
    return class_logits[..., :-1] - class_logits[..., -1:]


def class_probability(class_logits: Tensor, classes: ClassLoss = "softmax") -> Tensor:
    """Probability of each class, and of background.

    Args:
        class_logits: (..., K + 1), background last.
        classes: softmax: classes and background exclude each other. sigmoid: each class by itself
            is a class or background (OpenSeeD, Deformable DETR), so that the probability does not
            depend on how many other names there are; what the best class lacks to 1 is background.

    Returns:
        (..., K + 1). With sigmoid, they may sum to more than 1.
    """
    if classes == "softmax":
        return class_logits.softmax(-1)
    probability = class_margins(class_logits).sigmoid()  # (..., K)
    if not probability.shape[-1]:
        return torch.ones_like(class_logits)
    return torch.cat((probability, 1 - probability.amax(-1, keepdim=True)), dim=-1)
