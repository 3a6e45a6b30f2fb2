"""Multi-scale deformable attention in plain PyTorch (Deformable DETR, Zhu et al. 2021)."""

import math

import torch
from torch import Tensor, nn

from segkit.model.layers import MLP
from segkit.model.sampling import Scales, Sizes, sample_scales


class DeformableAttention(nn.Module):
    """Attention of each query to a few points in every scale, at predicted offsets (section 4.1).

    Args:
        dim: width of queries and memory.
        heads: attention heads.
        levels: L, the number of scales.
        points: sampling points per head and scale.
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
        """Let each head start in its own direction, with equal weights.

        Its points start 1, 2, ... pixels away.
        """
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
        for linear in (self.offsets, self.weights, self.value, self.output):
            nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.weights.weight)
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack((angle.cos(), angle.sin()), -1)  # (heads, 2)
        # On a square instead of a circle, points hit pixel centers.
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1)
        offsets = direction[:, None, None] * steps[None, None, :, None]  # (heads, 1, points, 2)
        self.offsets.bias.copy_(offsets.expand(-1, self.levels, -1, -1).flatten())

    def forward(self, queries: Tensor, memory: Tensor, reference: Tensor, scales: Scales) -> Tensor:
        """Attend.

        Args:
            queries: (B, N, dim), with positions.
            memory: (B, S, dim), the concatenated pixels of all scales.
            reference: (N, 2), x and y of each query in 0-1.
            scales: sizes of the scales, S pixels in total.

        Returns:
            (B, N, dim).
        """
        shape = (self.heads, self.levels, self.points)
        offsets = self.offsets(queries).unflatten(-1, (*shape, 2)) / scales.extent[:, None]
        locations = reference[:, None, None, None] + offsets  # (B, N, heads, L, points, 2)
        weights = self.weights(queries).unflatten(-1, (self.heads, -1)).softmax(-1)
        weights = weights.unflatten(-1, shape[1:])  # (B, N, heads, L, points)
        value = self.value(memory).unflatten(-1, (self.heads, -1))  # (B, S, heads, d)
        attended: Tensor = self.output(sample_scales(value, scales, locations, weights))
        return attended


class DeformableLayer(nn.Module):
    """Deformable self-attention over all scales, and a feed-forward part; post-norm."""

    def __init__(self, dim: int, *, heads: int, levels: int, feedforward_dim: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(dim, heads=heads, levels=levels)
        self.feedforward = MLP(dim, feedforward_dim, dim)
        self.attention_norm, self.feedforward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, position: Tensor, reference: Tensor, scales: Scales) -> Tensor:
        """Run the layer.

        Args:
            x: (B, S, dim), the concatenated pixels of all scales.
            position: (S, dim), their position encoding.
            reference: (S, 2), x and y of their centers in 0-1.
            scales: sizes of the scales.

        Returns:
            (B, S, dim).
        """
        attended = self.attention(x + position, x, reference, scales)
        x = self.attention_norm(x + attended)
        updated: Tensor = self.feedforward_norm(x + self.feedforward(x))
        return updated


def reference_points(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Pixel centers of all scales, row by row: (S, 2), x and y in 0-1."""
    centers = []
    for height, width in sizes:
        y = (torch.arange(height, device=device, dtype=dtype) + 0.5) / height
        x = (torch.arange(width, device=device, dtype=dtype) + 0.5) / width
        grid = torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), -1)  # (h, w, 2)
        centers.append(grid.flatten(0, 1))
    return torch.cat(centers)
