"""Boxes as four numbers relative to a reference box (Faster R-CNN, Ren et al. 2015, eq. 2).

The reference box of a cell of the pixel decoder is a square around the cell's center; that of a
query is its box so far. Boxes are center x, center y, width and height, 0-1 across the image.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segkit.model.layers import MLP

ANCHOR = 4.0
"""Side of a cell's reference box over the cell's: 32 to 128 pixels at strides 8 to 32."""
MAX_LOG_FACTOR = math.log(1000 / 16)
"""Limit of the logarithm by which sides grow, torchvision's: the exponential must stay finite."""


def decode_boxes(deltas: Tensor, reference: Tensor) -> Tensor:
    """Apply predicted deltas to reference boxes.

    Args:
        deltas: (..., 4): shift of the center in sides of the reference box, x and y, and the
            logarithm of the factor on its sides.
        reference: (..., 4) cx, cy, w, h.

    Returns:
        (..., 4) cx, cy, w, h, in the unit of `reference`.
    """
    center, side = reference[..., :2], reference[..., 2:]
    deltas = deltas.to(reference.dtype)  # half precision would round the edges of boxes
    shifted = center + deltas[..., :2] * side
    scaled = side * deltas[..., 2:].clamp(max=MAX_LOG_FACTOR).exp()
    return torch.cat((shifted, scaled), dim=-1)


def cell_references(sizes: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Reference boxes of the cells of several maps, map after map and row by row.

    Args:
        sizes: height and width of each map, which spans the image.
        device: of the result.

    Returns:
        (S, 4) cx, cy, w, h in 0-1.
    """
    maps = []
    for height, width in sizes:
        y = (torch.arange(height, device=device) + 0.5) / height
        x = (torch.arange(width, device=device) + 0.5) / width
        boxes = torch.empty(height, width, 4, device=device)
        boxes[..., 0], boxes[..., 1] = x, y[:, None]
        boxes[..., 2], boxes[..., 3] = ANCHOR / width, ANCHOR / height
        maps.append(boxes.flatten(0, 1))
    return torch.cat(maps)


def to_corners(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) cx, cy, w, h as x0, y0, x1, y1."""
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((center - half, center + half), dim=-1)


def to_pixels(boxes: Tensor, image_size: Sequence[int]) -> Tensor:
    """Corners x0, y0, x1, y1 in pixels, within the image, of boxes (..., 4) in 0-1.

    Args:
        boxes: (..., 4) cx, cy, w, h.
        image_size: height and width in pixels.
    """
    height, width = image_size
    x0, y0, x1, y1 = to_corners(boxes).clamp(0, 1).unbind(-1)
    return torch.stack((x0 * width, y0 * height, x1 * width, y1 * height), dim=-1)


def from_pixels(corners: Tensor, image_size: Sequence[int]) -> Tensor:
    """Boxes cx, cy, w, h in 0-1 of corners (..., 4) x0, y0, x1, y1 in pixels; not clipped."""
    height, width = image_size
    x0, y0, x1, y1 = corners.unbind(-1)
    box = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
    return torch.stack(box, dim=-1)


def box_head(hidden_dim: int) -> MLP:
    """An MLP that predicts deltas; they are zero at first, so that a box is its reference."""
    head = MLP(hidden_dim, hidden_dim, 4)
    last = head[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return head
