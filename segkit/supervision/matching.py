"""Hungarian matching of proposals to targets."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from segkit.errors import SegkitError

FORBIDDEN = 1e6
"""Cost of a pair that must not match; far above any sum of losses."""


@dataclass(frozen=True)
class Matches:
    """Matched pairs of one image, over several decoder layers at once; M pairs in all."""

    layer: Tensor
    """(M,) int64."""
    proposal: Tensor
    """(M,) int64."""
    target: Tensor
    """(M,) int64."""


@torch.no_grad()
def match(cost: Tensor, allowed: Tensor | None = None) -> Matches:
    """Assign each target at most one proposal so that the summed cost is least, layer by layer.

    Args:
        cost: (L, N, T).
        allowed: (L, N) bool, proposals that may be matched; None allows all.

    Returns:
        Pairs, fewer than T in a layer where too few proposals are allowed.

    Raises:
        SegkitError: a cost is NaN or infinite (the model has diverged).
    """
    if allowed is not None:
        cost = cost.masked_fill(~allowed[..., None], FORBIDDEN)
    costs = cost.float().cpu().numpy()  # one transfer for all layers: a GPU waits once an image
    if not np.isfinite(costs).all():
        raise SegkitError("matching costs are not finite: the model has diverged; lower the learning rate")
    rows: list[tuple[int, int, int]] = []
    for layer, layer_cost in enumerate(costs):
        proposals, targets = linear_sum_assignment(layer_cost)
        kept = layer_cost[proposals, targets] < FORBIDDEN
        rows += [(layer, int(p), int(t)) for p, t in zip(proposals[kept], targets[kept], strict=True)]
    columns = torch.tensor(rows, dtype=torch.int64, device=cost.device).reshape(-1, 3)
    return Matches(*columns.unbind(1))
