"""Find neighboring cells of similar color in CIE Lab, for the pairwise loss (BoxInst)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.criterion.losses import neighbors
from segkit.model.dataseg import MASK_STRIDE

COLOR_THRESHOLD = 0.3
_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_D65 = (0.950456, 1.0, 1.088754)


def image_affinity(images: Tensor) -> Tensor:
    """`color_affinity` of images at the stride of the mask logits: (B, 3, H, W) -> (B, 8, h, w).

    Always in float32: half precision rounds contrasts away.
    """
    with torch.autocast(images.device.type, enabled=False):
        return color_affinity(rgb_to_lab(F.avg_pool2d(images, MASK_STRIDE)))


def color_affinity(lab: Tensor) -> Tensor:
    """Whether neighbors look alike: exp(-0.5 ||Lab - Lab'||) >= 0.3 (BoxInst, eq. 5 and section 4).

    Args:
        lab: (B, 3, h, w), CIE Lab of the image pooled to the mask's stride.

    Returns:
        (B, 8, h, w) in {0, 1}; pairs that reach beyond the image are 0.
    """
    distance = (neighbors(lab) - lab[:, :, None]).square().sum(1).sqrt()  # (B, 8, h, w)
    inside = neighbors(torch.ones_like(lab[:, :1]))[:, 0] > 0
    return ((-0.5 * distance).exp() >= COLOR_THRESHOLD).to(lab.dtype) * inside


def rgb_to_lab(images: Tensor) -> Tensor:
    """Convert sRGB in 0-1 to CIE Lab under D65, L in 0-100: (B, 3, h, w) -> (B, 3, h, w)."""
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
