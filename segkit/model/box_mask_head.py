"""Mask refinement in the frame of a box prompt: convolutions that learn fast from few masks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

WIDTH = 32
SIDE = 28
"""Side of a cropped region, as in Mask R-CNN's mask head."""
MAX_LOGIT = 6.0
"""Coarse logits are clamped to +- this: larger ones say no more about the outline."""
MLP_SIDE, MLP_WIDTH = 14, 256
"""Cells a side and hidden width of the MLP; Mask R-CNN's mask head reads 14 x 14 cells."""


class BoxMaskHead(nn.Module):
    """Corrects a coarse mask within the region of its box.

    RoIAlign (He et al. 2017, section 3) crops F and the coarse mask to the region; the query scales
    and shifts F. Convolutions at two resolutions, with learned position maps, separate the object
    from the rest of its box. The last layer starts at zero, so that the head starts as the
    identity.

    Args:
        hidden_dim: width of queries.
        mask_dim: width of F.
        mlp: add a class-agnostic MLP to the convolutions (Hu et al. 2018, section 3.4). It sees
            the region in all its cells at once, but not the query.
    """

    def __init__(self, *, hidden_dim: int, mask_dim: int, mlp: bool = False) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(mask_dim, WIDTH, 1)
        self.modulation = nn.Linear(hidden_dim, 2 * WIDTH)
        self.enter = nn.Conv2d(WIDTH + 1, WIDTH, 3, padding=1)
        self.down = nn.Conv2d(WIDTH, 2 * WIDTH, 3, padding=1, stride=2)
        self.low = nn.Sequential(
            nn.Conv2d(2 * WIDTH, 2 * WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * WIDTH, 2 * WIDTH, 3, padding=1),
        )
        self.up = nn.Conv2d(2 * WIDTH, WIDTH, 1)
        self.leave = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.output = nn.Conv2d(WIDTH, 1, 1)
        self.place = nn.Parameter(torch.randn(WIDTH, SIDE, SIDE) * 0.1)
        self.low_place = nn.Parameter(torch.randn(2 * WIDTH, SIDE // 2, SIDE // 2) * 0.1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)  # type: ignore[arg-type]
        self.mlp = _grid_mlp() if mlp else None

    def forward(
        self,
        queries: Tensor,
        masks: Tensor,
        pixels: Tensor,
        regions: Tensor,
        coordinates: Tensor,
        stride: int,
    ) -> Tensor:
        """Correct mask logits.

        Args:
            queries: (B, Q, hidden_dim), normalized.
            masks: (B, Q, h, w), coarse logits; the head's input is detached from them.
            pixels: F, (B, mask_dim, h, w).
            regions: (B, Q, 4) x0, y0, x1, y1 in image pixels.
            coordinates: (B, Q, h, w, 2), x and y of the map's pixels, -1..1 across each region.
            stride: of the map, in image pixels.

        Returns:
            (B, Q, h, w): `masks` plus a correction that is 0 outside the regions.
        """
        count = regions.shape[1]
        features = _crop(self.reduce(pixels), regions.unbind(), stride)
        agnostic = None if self.mlp is None else self.mlp(features)  # (B * Q, SIDE * SIDE)
        features = features.reshape(-1, count, *features.shape[1:])  # (B, Q, WIDTH, SIDE, SIDE)
        scale, shift = self.modulation(queries)[..., None, None].chunk(2, dim=2)
        features = (features * (1 + scale) + shift).flatten(0, 1)  # (B * Q, WIDTH, SIDE, SIDE)
        single_regions = regions.flatten(0, 1)[:, None].unbind()  # B * Q tensors (1, 4)
        coarse = _crop(masks.detach().flatten(0, 1)[:, None], single_regions, stride)
        coarse = coarse.clamp(-MAX_LOGIT, MAX_LOGIT)  # (B * Q, 1, SIDE, SIDE)
        correction = self._convolve(torch.cat((features, coarse / MAX_LOGIT), dim=1))
        if agnostic is not None:
            correction = correction + agnostic.view_as(correction)
        correction = correction.to(masks.dtype)
        grid = coordinates.flatten(0, 1).to(masks.dtype)  # (B * Q, h, w, 2)
        pasted = F.grid_sample(correction, grid, align_corners=False)
        return masks + pasted.reshape(masks.shape)

    def _convolve(self, x: Tensor) -> Tensor:
        """(R, WIDTH + 1, SIDE, SIDE) -> (R, 1, SIDE, SIDE)."""
        high = F.relu(self.enter(x) + self.place)
        low = F.relu(self.down(high) + self.low_place)
        low = self.up(low + F.relu(self.low(low)))
        high = high + F.interpolate(low, scale_factor=2, mode="bilinear", align_corners=False)
        correction: Tensor = self.output(F.relu(self.leave(high)))
        return correction


def _grid_mlp() -> nn.Sequential:
    """(R, WIDTH, SIDE, SIDE) -> logits (R, SIDE * SIDE); zero at first."""
    mlp = nn.Sequential(
        nn.AdaptiveAvgPool2d(MLP_SIDE),
        nn.Flatten(),
        nn.Linear(WIDTH * MLP_SIDE**2, MLP_WIDTH),
        nn.ReLU(),
        nn.Linear(MLP_WIDTH, SIDE**2),
    )
    nn.init.zeros_(mlp[-1].weight)  # type: ignore[arg-type]
    nn.init.zeros_(mlp[-1].bias)  # type: ignore[arg-type]
    return mlp


def _crop(maps: Tensor, regions: Sequence[Tensor], stride: int) -> Tensor:
    """RoIAlign: maps (B, C, h, w) and regions (R_b, 4) of each -> (R, C, SIDE, SIDE)."""
    crops: Tensor = roi_align(
        maps, list(regions), (SIDE, SIDE), spatial_scale=1 / stride, aligned=True
    )
    return crops
