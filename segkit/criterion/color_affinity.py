"""Which neighbors look alike in CIE Lab, the color space in which BoxInst compares them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.criterion.losses import color_affinity
from segkit.model.dataseg import MASK_STRIDE

_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_D65 = (0.950456, 1.0, 1.088754)


def affinity_of_cells(images: Tensor) -> Tensor:
    """Which neighboring cells of images (B, 3, H, W) look alike, at the stride of mask logits: (B,
    8, h, w)."""
    with torch.autocast(
        images.device.type, enabled=False
    ):  # half precision would see contrasts that are not there
        return color_affinity(rgb_to_lab(F.avg_pool2d(images, MASK_STRIDE)))


def rgb_to_lab(images: Tensor) -> Tensor:
    """sRGB in 0-1 -> CIE Lab under D65, L in 0-100: (B, 3, h, w) -> (B, 3, h, w)."""
    linear = torch.where(
        images > 0.04045, ((images + 0.055) / 1.055).clamp(min=0) ** 2.4, images / 12.92
    )
    matrix, white = (
        torch.tensor(x, dtype=images.dtype).to(images.device, non_blocking=True)
        for x in (_XYZ, _D65)
    )
    xyz = torch.einsum("ij,bjhw->bihw", matrix, linear) / white.view(1, 3, 1, 1)
    f = torch.where(xyz > 0.008856, xyz.clamp(min=1e-6) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f.unbind(1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=1)
