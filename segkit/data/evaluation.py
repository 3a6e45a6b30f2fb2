"""From a whole image to the model's input, and from the model's masks back to the image: no randomness."""

import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.data.augment import Image, Window, evaluation_window


def to_input(image: Image, *, size: int) -> tuple[Tensor, Window]:
    """An (H, W, 3) uint8 image as (3, h, w) float32 in 0..1, and the window that leads back.

    The longer side becomes `size`; h and w are padded right and below to multiples of 32.
    """
    window = evaluation_window(*image.shape[:2], size=size)
    return torch.from_numpy(window.image(image)).permute(2, 0, 1).contiguous().float().div_(255), window


def to_source(scores: Tensor, window: Window) -> Tensor:
    """Scores or mask logits (N, h, w) over the canvas, at any stride -> (N, H, W) over the window's source rectangle.

    Bilinear, first to the canvas's pixels (so that the padding can be cut off exactly), then to the source's.
    """
    rows, columns = window.inside()
    on_canvas = F.interpolate(scores[None], window.canvas, mode="bilinear", align_corners=False)
    patch = on_canvas[..., rows, columns]
    if window.mirrored:
        patch = patch.flip(-1)
    _, _, width, height = window.source
    restored: Tensor = F.interpolate(patch, (height, width), mode="bilinear", align_corners=False)[0]
    return restored
