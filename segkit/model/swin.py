"""Swin on images of any size, as its detection and segmentation models use it."""

import torch
from timm.models.swin_transformer import SwinTransformerBlock, window_partition, window_reverse
from torch import Tensor, nn
from torch.nn import functional as F

SWIN_MODULES = ("swin_transformer", "swin_transformer_v2")
"""Where timm keeps the networks that take ANY_SIZE."""
ANY_SIZE = {"strict_img_size": False, "always_partition": True}
"""Arguments of a timm Swin: windows and shifts as configured, whatever the size of the image."""


class _PadFirstBlock(SwinTransformerBlock):  # type: ignore[misc]
    """A block whose map is padded to whole windows, then shifted.

    timm shifts first. The two differ on maps that are no multiple of the window, which published
    detection and segmentation weights were trained on, with padding first (Liu et al. 2021, as
    released).
    """

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        window_height, window_width = self.window_size
        x = F.pad(x, (0, 0, 0, -width % window_width, 0, -height % window_height))
        down, right = self.shift_size
        shifted = torch.roll(x, shifts=(-down, -right), dims=(1, 2))
        windows = window_partition(shifted, self.window_size).flatten(1, 2)
        attended = self.attn(windows, mask=self.get_attn_mask(shifted)).unflatten(
            1, self.window_size
        )
        merged = window_reverse(attended, self.window_size, x.shape[1], x.shape[2])
        back: Tensor = torch.roll(merged, shifts=(down, right), dims=(1, 2))
        return back[:, :height, :width]


def pad_before_shift(network: nn.Module) -> None:
    """Give every block of a timm Swin the published order of padding and shifting; no weight
    changes."""
    for module in network.modules():
        if isinstance(module, SwinTransformerBlock):
            module.__class__ = _PadFirstBlock
