"""The mask of a given box at its own resolution: convolutions in the box's frame, which learn fast
from few masks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

WIDTH = 32
SIDE = 28
"""Cells across a region, as in Mask R-CNN's masks."""
CONFIDENT = 6.0
"""Coarse logits are cut off here: beyond, they say no more about where the outline is."""


class BoxMaskHead(nn.Module):
    """Corrects a coarse mask within the region of its box.

    F and the coarse mask are cut out at the region (RoIAlign, He et al. 2017, section 3), F being
    scaled and shifted by the query; two resolutions of convolutions with learned maps of the
    region's cells tell the object from what else its box holds. The last layer starts at zero: the
    head starts as the identity.
    """

    def __init__(self, *, hidden_dim: int, mask_dim: int) -> None:
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

    def forward(
        self,
        queries: Tensor,
        masks: Tensor,
        pixels: Tensor,
        regions: Tensor,
        coordinates: Tensor,
        stride: int,
    ) -> Tensor:
        """Corrected mask logits.

        Args:
            queries: (B, Q, hidden_dim), normalized.
            masks: (B, Q, h, w), coarse logits; no gradient reaches them through the head's own
                input.
            pixels: F, (B, mask_dim, h, w).
            regions: (B, Q, 4) x0, y0, x1, y1 in pixels.
            coordinates: (B, Q, h, w, 2), x and y of the map's cells, -1..1 across each region.
            stride: pixels a cell.

        Returns:
            (B, Q, h, w): `masks` plus a correction that is 0 outside the regions.
        """
        count = regions.shape[1]
        shapes = _cut(self.reduce(pixels), regions.unbind(), stride)
        shapes = shapes.reshape(-1, count, *shapes.shape[1:])
        scale, shift = self.modulation(queries)[..., None, None].chunk(2, dim=2)
        images_of_one = regions.flatten(0, 1)[:, None].unbind()
        coarse = _cut(masks.detach().flatten(0, 1)[:, None], images_of_one, stride).clamp(
            -CONFIDENT, CONFIDENT
        )
        entered = torch.cat(
            ((shapes * (1 + scale) + shift).flatten(0, 1), coarse / CONFIDENT), dim=1
        )
        correction = self._convolve(entered).to(masks.dtype)
        pasted = F.grid_sample(
            correction, coordinates.flatten(0, 1).to(masks.dtype), align_corners=False
        )
        return masks + pasted.reshape(masks.shape)

    def _convolve(self, entered: Tensor) -> Tensor:
        """(R, WIDTH + 1, SIDE, SIDE) -> (R, 1, SIDE, SIDE)."""
        high = F.relu(self.enter(entered) + self.place)
        low = F.relu(self.down(high) + self.low_place)
        low = self.up(low + F.relu(self.low(low)))
        high = high + F.interpolate(low, scale_factor=2, mode="bilinear", align_corners=False)
        corrected: Tensor = self.output(F.relu(self.leave(high)))
        return corrected


def _cut(maps: Tensor, regions: Sequence[Tensor], stride: int) -> Tensor:
    """RoIAlign: maps (B, C, h, w), regions an image each (R_b, 4) in pixels -> (R, C, SIDE,
    SIDE)."""
    cut: Tensor = roi_align(
        maps, list(regions), (SIDE, SIDE), spatial_scale=1 / stride, aligned=True
    )
    return cut
