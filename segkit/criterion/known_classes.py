"""Class loss of box prompts and denoising queries: their target is known, nothing is matched."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from segkit.criterion.partial_labels import mask_unannotated_logits
from segkit.criterion.sigmoid_classes import sigmoid_class_loss
from segkit.recipes.schema import LossConfig

IGNORED = -100
"""Label of a query that does not count."""


def known_class_loss(
    class_logits: Tensor,
    labels: Sequence[Tensor],
    annotated: Sequence[Tensor | None],
    config: LossConfig,
) -> Tensor:
    """Sum of the class losses of all layers and queries that count.

    Args:
        class_logits: (B, L, Q, K + 1), background last.
        labels: (Q_i,) int64 on the CPU for each image, Q_i up to Q: the class of each query's
            target, or IGNORED.
        annotated: (K,) bool for each image, the classes that count; None means all.
        config: softmax or sigmoid classes.
    """
    padded = pad_sequence(list(labels), batch_first=True, padding_value=IGNORED)  # (B, Q)
    padded = padded.to(class_logits.device, non_blocking=True)
    label = padded[:, None].expand(class_logits.shape[:3])  # (B, L, Q)
    if config.classes == "sigmoid":
        counted = label != IGNORED
        label = label.where(counted, class_logits.shape[-1] - 1)
        return sigmoid_class_loss(class_logits, label, counted, annotated)
    logits = mask_unannotated_logits(class_logits, annotated).flatten(0, 2)
    return F.cross_entropy(logits, label.flatten(), ignore_index=IGNORED, reduction="sum")
