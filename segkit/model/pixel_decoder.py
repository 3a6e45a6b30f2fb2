"""Backbone features -> three scales for the queries to attend to, and the per-pixel map F."""

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


def _block(before: int, after: int, *, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(
        convolution, nn.GroupNorm(math.gcd(min(32, after // 4), after), after), nn.ReLU()
    )


class FPNPixelDecoder(nn.Module):
    """Feature pyramid (Lin et al. 2017): top-down sums of lateral features, with global context at
    the top.

    Args:
        channels: of the four backbone maps, finest (stride 4) first.
        hidden_dim: width of the scales given to the queries.
        mask_dim: width D_F of the per-pixel map.
    """

    def __init__(self, channels: Sequence[int], *, hidden_dim: int, mask_dim: int) -> None:
        super().__init__()
        self.context = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels[-1], hidden_dim, 1), nn.ReLU()
        )
        self.laterals = nn.ModuleList(_block(width, hidden_dim, kernel=1) for width in channels[1:])
        self.outputs = nn.ModuleList(_block(hidden_dim, hidden_dim, kernel=3) for _ in channels[1:])
        # Stride 4 is where a CPU spends its time: it works at the width of F alone.
        self.fine_lateral = _block(channels[0], mask_dim, kernel=1)
        self.fine_reduce = _block(hidden_dim, mask_dim, kernel=1)
        self.fine_outputs = nn.Sequential(
            _block(mask_dim, mask_dim, kernel=3), nn.Conv2d(mask_dim, mask_dim, 3, padding=1)
        )

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Fuse the scales.

        Args:
            features: (B, channels[i], H / s, W / s) for s in 4, 8, 16, 32.

        Returns:
            Scales for cross-attention, coarse to fine (strides 32, 16, 8; hidden_dim wide), and F
            (B, mask_dim, H/4, W/4).
        """
        top = self.context(features[-1])
        scales: list[Tensor] = []
        for feature, lateral, output in zip(
            reversed(features[1:]), reversed(self.laterals), reversed(self.outputs), strict=True
        ):
            top = output(
                lateral(feature) + F.interpolate(top, size=feature.shape[-2:], mode="nearest")
            )
            scales.append(top)
        fine = self.fine_lateral(features[0])
        fine = fine + F.interpolate(
            self.fine_reduce(top), size=fine.shape[-2:], mode="bilinear", align_corners=False
        )
        return scales, self.fine_outputs(fine)
