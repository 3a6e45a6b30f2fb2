"""Losses between sets of features: discrepancy, parts of features, and relations of classes."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-6
"""Added below the square root: at 0 its gradient would be infinite."""


def median_distance(features: Tensor) -> Tensor:
    """The median Euclidean distance of pairs of features (M, H), at least a small number."""
    distances = torch.pdist(features)
    if not len(distances):
        return features.new_ones(())
    return distances.median().clamp(min=1e-3)


def mmd(real: Tensor, generated: Tensor, bandwidths: Sequence[float], scale: Tensor) -> Tensor:
    """Maximum mean discrepancy of two sets of features (Gretton et al. 2012, eq. 5).

    Leading dimensions are pairs of sets. The kernel is a sum of Gaussians. The biased estimate of
    the square is never negative in exact arithmetic; rounding can make it so, and it is clamped
    before the root.

    Args:
        real: (..., n, H).
        generated: (..., m, H).
        bandwidths: standard deviations of the Gaussians, in units of `scale`.
        scale: (), such as the median distance of the features.

    Returns:
        (...), at least 0; 0 for equal sets.
    """
    count = real.shape[-2]
    both = torch.cat((real, generated), dim=-2)  # (..., n + m, H)
    squares = (both * both).sum(-1)
    products = both @ both.transpose(-1, -2)
    distances = squares[..., :, None] + squares[..., None, :] - 2 * products
    exponents = distances.clamp(min=0) / (2 * scale * scale)  # (..., n + m, n + m)
    kernel = torch.stack([(-exponents / (b * b)).exp() for b in bandwidths]).sum(0)
    within = kernel[..., :count, :count].mean((-2, -1)) + kernel[..., count:, count:].mean((-2, -1))
    across = kernel[..., :count, count:].mean((-2, -1))
    square = (within - 2 * across).clamp(min=0)
    root: Tensor = (square + EPSILON).sqrt() - EPSILON**0.5
    return root


def normal_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of normal distributions (M, H) from the standard one; their mean."""
    divergence = mean * mean + log_variance.exp() - 1 - log_variance
    return 0.5 * divergence.mean()


def related_loss(related: Tensor, text: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of the cosines of semantic-related parts and class embeddings.

    Args:
        related: (M, D).
        text: (K, D).
        labels: (M,) int64.
        temperature: divides the cosines.
    """
    cosines = F.normalize(related, dim=-1) @ F.normalize(text, dim=-1).T  # (M, K)
    return F.cross_entropy(cosines / temperature, labels)


def alignment(
    rows: Tensor, columns: Tensor, text_rows: Tensor, text_columns: Tensor, temperature: float
) -> Tensor:
    """KL divergence of class relations among features from those among class embeddings.

    The relation of a class is the softmax of its cosines with other classes; a class that is both a
    row and a column is left out of its own relation.

    Args:
        rows: (R, H) mean features of classes.
        columns: (C, H) likewise; `rows` itself for the relations of classes with each other.
        text_rows: (R, D) class embeddings.
        text_columns: (C, D).
        temperature: divides the cosines.

    Returns:
        (); 0 where there are no two other classes to relate to.
    """
    is_same = rows is columns
    if len(columns) - is_same < 2:
        return rows.new_zeros(())

    def relations(a: Tensor, b: Tensor) -> Tensor:
        cosines = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T / temperature  # (R, C)
        if is_same:
            diagonal = torch.eye(len(a), dtype=torch.bool, device=a.device)
            cosines = cosines[~diagonal].reshape(len(a), -1)  # (R, C - 1)
        return cosines.log_softmax(-1)

    relation = relations(rows, columns)
    target = relations(text_rows, text_columns)
    return F.kl_div(relation, target, log_target=True, reduction="batchmean")


def class_means(features: Tensor, labels: Tensor, count: int) -> Tensor:
    """Mean features (count, H) of the classes 0 to count - 1, of features (M, H) with labels."""
    sums = features.new_zeros(count, features.shape[1]).index_add(0, labels, features)
    return sums / torch.bincount(labels, minlength=count).clamp(min=1)[:, None]
