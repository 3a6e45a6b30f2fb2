"""Cell classifier: the cells of the pixel decoder's scales -> class logits.

The cells go through the norm and the text classifier of the queries, as tokens of a two-stage
decoder do (Mask DINO, Li et al. 2023, section 3.2; OpenSeeD, section 3.2): no weight is added, and
the vocabulary stays an argument of the call.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def cell_logits(
    scales: Sequence[Tensor], text: Tensor, *, norm: nn.Module, classifier: nn.Module
) -> tuple[Tensor, ...]:
    """Classify every cell of the scales.

    Args:
        scales: of the pixel decoder, (B, hidden_dim, h, w) each.
        text: (K, D_T), unit rows, one per class.
        norm: of the transformer decoder, over hidden_dim.
        classifier: the model's class head.

    Returns:
        Class logits of each scale, (B, h, w, K + 1); the last column is background.
    """
    return tuple(classifier(norm(scale.permute(0, 2, 3, 1)), text) for scale in scales)


def cell_probability(cells: Sequence[Tensor]) -> Tensor:
    """Class probabilities without background, of the mean logits of the scales.

    Args:
        cells: class logits, coarse to fine, (B, h, w, K + 1) each.

    Returns:
        (B, K, h, w) float32, at the size of the finest scale.
    """
    maps = [x[..., :-1].permute(0, 3, 1, 2).float() for x in cells]  # (B, K, h, w)
    size = (maps[-1].shape[2], maps[-1].shape[3])
    resized = [F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in maps]
    return torch.stack(resized).mean(0).softmax(1)
