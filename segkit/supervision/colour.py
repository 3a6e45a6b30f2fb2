"""CIE Lab, the colour space in which BoxInst compares neighbours."""

import torch
from torch import Tensor

_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_D65 = (0.950456, 1.0, 1.088754)


def rgb_to_lab(images: Tensor) -> Tensor:
    """sRGB in 0-1 -> CIE Lab under D65, L in 0-100: (B, 3, h, w) -> (B, 3, h, w)."""
    linear = torch.where(images > 0.04045, ((images + 0.055) / 1.055).clamp(min=0) ** 2.4, images / 12.92)
    xyz = torch.einsum("ij,bjhw->bihw", images.new_tensor(_XYZ), linear) / images.new_tensor(_D65).view(1, 3, 1, 1)
    f = torch.where(xyz > 0.008856, xyz.clamp(min=1e-6) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f.unbind(1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=1)
