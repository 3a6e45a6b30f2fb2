"""Multi-scale deformable attention in plain PyTorch (Deformable DETR, Zhu et al. 2021, section
4.1)."""

import math

import torch
from torch import Tensor, nn

from segkit.model.layers import MLP
from segkit.model.sampling import Scales, Sizes, sample_scales


class DeformableAttention(nn.Module):
    """Every cell attends to a few points of every scale, which it chooses itself.

    Args:
        dim: width of queries and memory.
        heads: attention heads.
        levels: scales.
        points: sampling points a head and scale.
    """

    def __init__(self, dim: int, *, heads: int, levels: int, points: int = 4) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(dim, heads * levels * points * 2)
        self.weights = nn.Linear(dim, heads * levels * points)
        self.value, self.output = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self._initialize()

    @torch.no_grad()
    def _initialize(self) -> None:
        """Each head starts in a direction of its own, its points 1, 2, ... cells away, all of equal
        weight."""
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
        for linear in (self.offsets, self.weights, self.value, self.output):
            nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.weights.weight)
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack((angle.cos(), angle.sin()), -1)
        direction = direction / direction.abs().amax(
            -1, keepdim=True
        )  # on a square, so that points hit cell centers
        steps = torch.arange(1, self.points + 1)
        start = direction[:, None, None] * steps[None, None, :, None]
        self.offsets.bias.copy_(start.expand(-1, self.levels, -1, -1).flatten())

    def forward(self, queries: Tensor, memory: Tensor, reference: Tensor, scales: Scales) -> Tensor:
        """Attend.

        Args:
            queries: (B, N, dim), with positions.
            memory: (B, S, dim), the cells of all scales one after the other.
            reference: (N, 2), x and y of each query in 0-1.
            scales: their sizes; their cells are S in all.

        Returns:
            (B, N, dim).
        """
        shape = (self.heads, self.levels, self.points)
        offsets = self.offsets(queries).unflatten(-1, (*shape, 2)) / scales.extent[:, None]
        locations = reference[:, None, None, None] + offsets
        weights = (
            self.weights(queries)
            .unflatten(-1, (self.heads, -1))
            .softmax(-1)
            .unflatten(-1, shape[1:])
        )
        value = self.value(memory).unflatten(-1, (self.heads, -1))
        attended: Tensor = self.output(sample_scales(value, scales, locations, weights))
        return attended


class DeformableLayer(nn.Module):
    """Deformable self-attention of all scales' cells, feed-forward; normalized after each sum."""

    def __init__(self, dim: int, *, heads: int, levels: int, feedforward_dim: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(dim, heads=heads, levels=levels)
        self.feedforward = MLP(dim, feedforward_dim, dim)
        self.attention_norm, self.feedforward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, cells: Tensor, position: Tensor, reference: Tensor, scales: Scales) -> Tensor:
        """One layer: cells (B, S, dim), position and reference (S, dim) and (S, 2) -> (B, S,
        dim)."""
        cells = self.attention_norm(
            cells + self.attention(cells + position, cells, reference, scales)
        )
        updated: Tensor = self.feedforward_norm(cells + self.feedforward(cells))
        return updated


def cell_centers(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Centers of the cells of all scales, rows first: (S, 2), x and y in 0-1."""
    centers = []
    for height, width in sizes:
        y = (torch.arange(height, device=device, dtype=dtype) + 0.5) / height
        x = (torch.arange(width, device=device, dtype=dtype) + 0.5) / width
        centers.append(
            torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), -1).flatten(0, 1)
        )
    return torch.cat(centers)
