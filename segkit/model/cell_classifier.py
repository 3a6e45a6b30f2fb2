"""Cell classifier: the cells of the pixel decoder's scales -> class logits.

The cells go through the norm and the text classifier of the queries, as tokens of a two-stage
decoder do (Mask DINO, Li et al. 2023, section 3.2; OpenSeeD, section 3.2): no weight is added, and
the vocabulary stays an argument of the call.
"""

from collections.abc import Sequence

from torch import Tensor, nn

CELL_STRIDES = (32, 16, 8)
"""Pixels per cell of the scales, coarse to fine."""


def cell_logits(
    scales: Sequence[Tensor], text: Tensor, *, norm: nn.Module, classifier: nn.Module
) -> tuple[Tensor, ...]:
    """Classify every cell of the scales.

    Args:
        scales: of the pixel decoder, (B, hidden_dim, h, w) each.
        text: (K, D_T), unit rows, one per class.
        norm: of the transformer decoder, over hidden_dim.
        classifier: a class head of `CLASS_HEADS`.

    Returns:
        Class logits of each scale, (B, h, w, K + 1); the last column is background.
    """
    return tuple(classifier(norm(scale.permute(0, 2, 3, 1)), text) for scale in scales)
