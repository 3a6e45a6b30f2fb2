"""Hungarian matching of proposals to targets, a batch at a time and in two steps: send the costs,
solve on the CPU.

scipy's solver takes 4 to 30 microseconds for 100 proposals and 10 to 60 targets; lapx 0.11, the
fastest alternative that is kept up, takes 80 to 130, for it solves the square problem.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

INVALID_COST = 1e6
"""Cost of a pair that must not match; far above any sum of losses."""
NONFINITE_COST = INVALID_COST / 10
"""Cost of a pair whose own cost is NaN or infinite, since the model has diverged."""


@dataclass(frozen=True)
class Matches:
    """Matched pairs of a batch, over several decoder layers at once; M pairs in all."""

    image: Tensor
    """(M,) int64."""
    layer: Tensor
    """(M,) int64."""
    proposal: Tensor
    """(M,) int64."""
    target: Tensor
    """(M,) int64: row among the targets of the image."""

    def to(self, device: torch.device) -> "Matches":
        """The same pairs on another device, in one transfer."""
        moved = torch.stack((self.image, self.layer, self.proposal, self.target)).to(
            device, non_blocking=True
        )
        return Matches(*moved.unbind())


@dataclass(frozen=True)
class SentCosts:
    """Costs on their way to the CPU; on a GPU other work can be queued before they are waited
    for."""

    shapes: tuple[torch.Size, ...]
    values: Tensor
    """All costs in one tensor on the CPU, complete once `arrived` is."""
    arrived: torch.cuda.Event | None


@torch.no_grad()
def send_costs(costs: Sequence[Tensor], allowed: Tensor | None = None) -> SentCosts:
    """Start the one transfer that a batch needs.

    Args:
        costs: (L, N, T) of each image, T its own.
        allowed: (B, L, N) bool, proposals that may be matched; None allows all.
    """
    precise = [cost.float() for cost in costs]
    if allowed is not None:
        rows = zip(precise, ~allowed[..., None], strict=True)
        precise = [cost.masked_fill(forbidden, INVALID_COST) for cost, forbidden in rows]
    flat = torch.cat([cost.flatten() for cost in precise])
    shapes = tuple(cost.shape for cost in costs)
    if not flat.is_cuda:
        return SentCosts(shapes, flat, None)
    values = torch.empty(flat.shape, pin_memory=True)
    values.copy_(flat, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(flat.device))
    return SentCosts(shapes, values, arrived)


def match(sent: SentCosts) -> Matches:
    """Assign each target at most one proposal so that the summed cost is least, image by image and
    layer by layer.

    A cost that is not finite counts as `NONFINITE_COST`: the pair is matched where there is nothing
    better, and its loss, not finite either, stops all processes together.

    Returns:
        Pairs, on the CPU; fewer than T in a layer where too few proposals are allowed.
    """
    if sent.arrived is not None:
        sent.arrived.synchronize()
    values = np.nan_to_num(
        sent.values.numpy(), nan=NONFINITE_COST, posinf=NONFINITE_COST, neginf=NONFINITE_COST
    )
    rows: list[tuple[int, int, int, int]] = []
    ends = np.cumsum([shape.numel() for shape in sent.shapes])
    for image, (shape, part) in enumerate(
        zip(sent.shapes, np.split(values, ends[:-1]), strict=True)
    ):
        for layer, cost in enumerate(part.reshape(shape)):
            proposals, targets = linear_sum_assignment(cost)
            kept = cost[proposals, targets] < INVALID_COST
            rows += [
                (image, layer, int(p), int(t))
                for p, t in zip(proposals[kept], targets[kept], strict=True)
            ]
    return Matches(*torch.tensor(rows, dtype=torch.int64).reshape(-1, 4).unbind(1))
