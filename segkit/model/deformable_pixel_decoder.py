"""Mask2Former's pixel decoder: deformable attention over strides 32-8, one pyramid step to stride
4."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.model.deformable import DeformableLayer, cell_centers
from segkit.model.layers import Stack, detr_position_grid
from segkit.model.sampling import Scales


def _projection(before: int, after: int, *, kernel: int = 1, bias: bool = False) -> nn.Sequential:
    """Convolution and the 32 groups that Mask2Former normalizes (fewer where 32 do not divide the
    width)."""
    convolution = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=bias)
    return nn.Sequential(convolution, nn.GroupNorm(math.gcd(32, after), after))


class DeformablePixelDecoder(nn.Module):
    """Backbone features -> three scales and the per-pixel map F (Cheng et al. 2022, section 3.2 and
    appendix).

    Args:
        channels: of the four backbone maps, finest (stride 4) first.
        hidden_dim: width of the scales given to the queries.
        mask_dim: width D_F of the per-pixel map.
        layers: encoder layers.
        heads: attention heads.
        feedforward_dim: of the encoder layers.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        hidden_dim: int,
        mask_dim: int,
        layers: int,
        heads: int,
        feedforward_dim: int,
    ) -> None:
        super().__init__()
        coarse_to_fine = channels[:0:-1]
        self.projections = nn.ModuleList(
            _projection(width, hidden_dim, bias=True) for width in coarse_to_fine
        )
        self.level_embed = nn.Embedding(len(coarse_to_fine), hidden_dim)
        self.layers = Stack(
            DeformableLayer(
                hidden_dim, heads=heads, levels=len(coarse_to_fine), feedforward_dim=feedforward_dim
            )
            for _ in range(layers)
        )
        self.fine_lateral = _projection(channels[0], hidden_dim)
        self.fine_output = nn.Sequential(*_projection(hidden_dim, hidden_dim, kernel=3), nn.ReLU())
        self.mask_features = nn.Conv2d(hidden_dim, mask_dim, 1)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Let the scales exchange what they see.

        Args:
            features: (B, channels[i], H / s, W / s) for s in 4, 8, 16, 32.

        Returns:
            Scales for cross-attention, coarse to fine (strides 32, 16, 8; hidden_dim wide), and F
            (B, mask_dim, H/4, W/4).
        """
        scales = self._encode(
            [
                project(x)
                for project, x in zip(self.projections, reversed(features[1:]), strict=True)
            ]
        )
        fine = self.fine_lateral(features[0])
        fine = fine + F.interpolate(
            scales[-1], size=fine.shape[-2:], mode="bilinear", align_corners=False
        )
        return scales, self.mask_features(self.fine_output(fine))

    def _encode(self, maps: list[Tensor]) -> list[Tensor]:
        sizes = [(x.shape[2], x.shape[3]) for x in maps]
        cells = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
        position = torch.cat(
            [
                detr_position_grid(*size, cells.shape[-1], cells.device, cells.dtype) + level
                for size, level in zip(sizes, self.level_embed.weight, strict=True)
            ]
        )
        reference, scales = (
            cell_centers(sizes, cells.device, position.dtype),
            Scales.of(sizes, cells.device),
        )
        for number in range(len(self.layers)):
            cells = self.layers.run(number, cells, position, reference, scales)
        split = torch.split(cells, [height * width for height, width in sizes], 1)
        return [
            x.transpose(1, 2).reshape(len(x), -1, *size)
            for x, size in zip(split, sizes, strict=True)
        ]
