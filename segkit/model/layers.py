"""Layers and position encodings that several modules of the model share."""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class MLP(nn.Sequential):
    """Linear layers with ReLU between them: (..., widths[0]) -> (..., widths[-1])."""

    def __init__(self, *widths: int) -> None:
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(*layers[:-1])


class Stack(nn.ModuleList):
    """A list of layers with optional activation checkpointing.

    With `recompute`, each layer keeps only its inputs and runs again in the backward pass, which
    trades time for memory.
    """

    recompute = False

    def run(self, number: int, *inputs: Any) -> Any:
        """Run layer `number` on its inputs."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self[number], *inputs, use_reentrant=False)
        return self[number](*inputs)


def sine_features(values: Tensor, dim: int) -> Tensor:
    """Sines and cosines of positions (Vaswani et al. 2017, as DETR uses them for images).

    Args:
        values: any shape, positions in 0-1.
        dim: even number of features per value.

    Returns:
        values.shape + (dim,).
    """
    exponent = torch.arange(dim // 2, device=values.device, dtype=torch.float32) / (dim // 2)
    angles = values[..., None].float() * 2 * math.pi / 10_000.0**exponent
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def position_grid(
    height: int, width: int, dim: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Position encoding of a feature map's pixels, row by row: (height * width, dim)."""
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    rows = sine_features(y, dim // 2)[:, None].expand(-1, width, -1)  # (h, w, dim / 2)
    columns = sine_features(x, dim // 2)[None].expand(height, -1, -1)
    return torch.cat((rows, columns), dim=-1).reshape(height * width, dim).to(dtype)


def detr_position_grid(
    height: int, width: int, dim: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """DETR's and Mask2Former's position encoding of a feature map: (height * width, dim).

    It differs from `position_grid`: pixels count from 1 to n, divided by n, and the sine and cosine
    of a frequency are adjacent. Weights trained with one encoding do not fit the other.
    """
    rows = _detr_sines(height, dim // 2, device).to(dtype)[:, None].expand(-1, width, -1)
    columns = _detr_sines(width, dim // 2, device).to(dtype)[None].expand(height, -1, -1)
    return torch.cat((rows, columns), dim=-1).reshape(height * width, dim)


def _detr_sines(size: int, dim: int, device: torch.device) -> Tensor:
    """(size, dim) float64, whose cost is negligible for so few numbers."""
    positions = torch.arange(1, size + 1, device=device, dtype=torch.float64) / (size + 1e-6)
    exponent = torch.arange(dim // 2, device=device, dtype=torch.float64) / (dim // 2)
    angles = positions[:, None] * 2 * math.pi / 10_000.0**exponent
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)
