"""Swin on images of any size, as in its detection and segmentation models."""

import torch
from timm.models.swin_transformer import SwinTransformerBlock, window_partition, window_reverse
from torch import Tensor, nn
from torch.nn import functional as F

SWIN_MODULES = ("swin_transformer", "swin_transformer_v2")
"""timm's modules of networks that take the arguments `ANY_SIZE`."""
ANY_SIZE = {"strict_img_size": False, "always_partition": True}
"""Arguments of a timm Swin that keep windows and shifts as configured for any image size."""


class _PadFirstBlock(SwinTransformerBlock):  # type: ignore[misc]
    """A block that pads its map to full windows before it shifts them.

    timm shifts first, which differs on maps whose sides are not multiples of the window. Published
    detection and segmentation weights were trained with padding first (Liu et al. 2021, as
    released).
    """

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        window_height, window_width = self.window_size
        x = F.pad(x, (0, 0, 0, -width % window_width, 0, -height % window_height))
        down, right = self.shift_size
        shifted = torch.roll(x, shifts=(-down, -right), dims=(1, 2))
        windows = window_partition(shifted, self.window_size).flatten(1, 2)
        windows = self.attn(windows, mask=self.get_attn_mask(shifted))
        windows = windows.unflatten(1, self.window_size)
        merged = window_reverse(windows, self.window_size, x.shape[1], x.shape[2])
        attended: Tensor = torch.roll(merged, shifts=(down, right), dims=(1, 2))
        return attended[:, :height, :width]


def pad_before_shift(network: nn.Module) -> None:
    """Give all blocks of a timm Swin the published order of padding and shifting.

    The weights stay the same.
    """
    for module in network.modules():
        if isinstance(module, SwinTransformerBlock):
            module.__class__ = _PadFirstBlock
