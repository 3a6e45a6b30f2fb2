"""Pixel decoders: backbone features -> three scales for the transformer decoder, and F."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.model.deformable import DeformableLayer, reference_points
from segkit.model.layers import Stack, detr_position_grid
from segkit.model.sampling import Scales


class FPNPixelDecoder(nn.Module):
    """Feature pyramid (Lin et al. 2017), with global context at the top.

    It sums lateral features from the top down.

    Args:
        channels: of the four backbone maps, finest (stride 4) first.
        hidden_dim: width of the scales.
        mask_dim: D_F, the width of the per-pixel map F.
    """

    def __init__(self, channels: Sequence[int], *, hidden_dim: int, mask_dim: int) -> None:
        super().__init__()
        self.context = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels[-1], hidden_dim, 1), nn.ReLU()
        )
        self.laterals = nn.ModuleList(_block(width, hidden_dim, kernel=1) for width in channels[1:])
        self.outputs = nn.ModuleList(_block(hidden_dim, hidden_dim, kernel=3) for _ in channels[1:])
        # A CPU spends most of its time at stride 4, which therefore has only the width of F.
        self.fine_lateral = _block(channels[0], mask_dim, kernel=1)
        self.fine_reduce = _block(hidden_dim, mask_dim, kernel=1)
        self.fine_outputs = nn.Sequential(
            _block(mask_dim, mask_dim, kernel=3), nn.Conv2d(mask_dim, mask_dim, 3, padding=1)
        )

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Fuse the features.

        Args:
            features: (B, channels[i], H / s, W / s) for s in 4, 8, 16, 32.

        Returns:
            Three scales, coarse to fine, (B, hidden_dim, H / s, W / s) for s in 32, 16, 8; and F
            (B, mask_dim, H/4, W/4).
        """
        x = self.context(features[-1])  # (B, hidden_dim, 1, 1)
        scales: list[Tensor] = []
        for feature, lateral, output in zip(
            reversed(features[1:]), reversed(self.laterals), reversed(self.outputs), strict=True
        ):
            upsampled = F.interpolate(x, size=feature.shape[-2:], mode="nearest")
            x = output(lateral(feature) + upsampled)  # (B, hidden_dim, H/s, W/s)
            scales.append(x)
        fine = self.fine_lateral(features[0])  # (B, mask_dim, H/4, W/4)
        fine = fine + _upsample(self.fine_reduce(x), fine.shape[-2:])
        return scales, self.fine_outputs(fine)


class DeformablePixelDecoder(nn.Module):
    """Mask2Former's pixel decoder (Cheng et al. 2022, section 3.2 and appendix).

    Deformable attention over strides 32 to 8, then one pyramid step to stride 4.

    Args:
        channels: of the four backbone maps, finest (stride 4) first.
        hidden_dim: width of the scales.
        mask_dim: D_F, the width of the per-pixel map F.
        layers: encoder layers.
        heads: attention heads.
        feedforward_dim: hidden width of the encoder layers' feed-forward part.
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
        levels = len(coarse_to_fine)
        self.projections = nn.ModuleList(
            _projection(width, hidden_dim, bias=True) for width in coarse_to_fine
        )
        self.level_embed = nn.Embedding(levels, hidden_dim)
        self.layers = Stack(
            DeformableLayer(hidden_dim, heads=heads, levels=levels, feedforward_dim=feedforward_dim)
            for _ in range(layers)
        )
        self.fine_lateral = _projection(channels[0], hidden_dim)
        self.fine_output = nn.Sequential(*_projection(hidden_dim, hidden_dim, kernel=3), nn.ReLU())
        self.mask_features = nn.Conv2d(hidden_dim, mask_dim, 1)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Fuse the features.

        Args:
            features: (B, channels[i], H / s, W / s) for s in 4, 8, 16, 32.

        Returns:
            Three scales, coarse to fine, (B, hidden_dim, H / s, W / s) for s in 32, 16, 8; and F
            (B, mask_dim, H/4, W/4).
        """
        pairs = zip(self.projections, reversed(features[1:]), strict=True)
        scales = self._encode([project(feature) for project, feature in pairs])
        fine = self.fine_lateral(features[0])  # (B, hidden_dim, H/4, W/4)
        fine = fine + _upsample(scales[-1], fine.shape[-2:])
        return scales, self.mask_features(self.fine_output(fine))

    def _encode(self, maps: list[Tensor]) -> list[Tensor]:
        """Exchange information between maps (B, hidden_dim, h, w) of three scales."""
        sizes = [(x.shape[2], x.shape[3]) for x in maps]
        x = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)  # (B, S, hidden_dim)
        position = torch.cat(
            [
                detr_position_grid(*size, x.shape[-1], x.device, x.dtype) + level
                for size, level in zip(sizes, self.level_embed.weight, strict=True)
            ]
        )  # (S, hidden_dim)
        reference = reference_points(sizes, x.device, position.dtype)  # (S, 2)
        scales = Scales.from_sizes(sizes, x.device)
        for number in range(len(self.layers)):
            x = self.layers.run(number, x, position, reference, scales)
        split = torch.split(x, [height * width for height, width in sizes], 1)
        return [
            part.transpose(1, 2).reshape(len(part), -1, *size)
            for part, size in zip(split, sizes, strict=True)
        ]


def _block(before: int, after: int, *, kernel: int) -> nn.Sequential:
    """Convolution, GroupNorm and ReLU."""
    convolution = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)
    norm = nn.GroupNorm(math.gcd(min(32, after // 4), after), after)
    return nn.Sequential(convolution, norm, nn.ReLU())


def _projection(before: int, after: int, *, kernel: int = 1, bias: bool = False) -> nn.Sequential:
    """Convolution and Mask2Former's GroupNorm.

    It has 32 groups, or fewer if 32 does not divide the width.
    """
    convolution = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=bias)
    return nn.Sequential(convolution, nn.GroupNorm(math.gcd(32, after), after))


def _upsample(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=list(size), mode="bilinear", align_corners=False)
