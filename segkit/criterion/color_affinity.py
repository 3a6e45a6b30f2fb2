"""Pairwise loss of boxes: neighboring cells of similar color belong to one region (BoxInst).

Tian et al. 2021, arXiv 2012.02310, section 3.2. Only the cells in the boxes are visited.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from segkit.criterion.losses import DILATION, neighbors
from segkit.criterion.pooled_targets import CellBoxes
from segkit.model.dataseg import MASK_STRIDE

OFFSETS = tuple(
    (dy, dx)
    for dy in (-DILATION, 0, DILATION)
    for dx in (-DILATION, 0, DILATION)
    if (dy, dx) != (0, 0)
)
"""Rows and columns to the 8 neighbors of a cell, in the order of `neighbors`."""
MAX_CELLS = 2**22
"""Cells of a chunk, whose terms exist at a time: about ten tensors of this size."""

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


def pairwise_losses(logits: Tensor, affinity: Tensor, image: Tensor, corners: Tensor) -> Tensor:
    """Penalty for neighbors of similar color in a box with different labels (BoxInst, eq. 4).

    Time and memory follow the area of the boxes, not the size of the maps: the backward pass
    computes the terms again.

    Args:
        logits: (T, h, w).
        affinity: (B, 8, h, w), `image_affinity` of the images.
        image: (T,) int64, each mask's image.
        corners: (T, 4) boxes x0, y0, x1, y1 in pixels, on the CPU.

    Returns:
        (T,): mean of -log(p p' + (1 - p)(1 - p')) over similar pairs whose first cell is in the
        box, computed in log space.
    """
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses: Tensor = _PairwiseLoss.apply(precise, affinity, image, corners)
    return losses


class _Cells(NamedTuple):
    """N cells of masks (T, h, w)."""

    mask: Tensor
    y: Tensor
    x: Tensor
    place: Tensor
    """Of each cell in the flat masks."""


class _Pairs(NamedTuple):
    """N cells, each with its neighbor in one direction."""

    logits: Tensor
    neighbors: Tensor
    affinity: Tensor
    """1 for similar colors; 0 beyond the border."""
    neighbor_in_box: Tensor
    """(N,) bool."""


class _PairwiseLoss(torch.autograd.Function):
    """`pairwise_losses` with its gradient in closed form.

    For logits a and b, -log(p p' + (1 - p)(1 - p')) has the derivative s(a) - s(a + b) by a, s
    being the sigmoid. A cell collects the terms of the pairs that it begins and of those that it
    ends, so no two write to one place.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, affinity: Tensor, image: Tensor, corners: Tensor
    ) -> Tensor:
        size = (logits.shape[1], logits.shape[2])
        boxes = CellBoxes.from_corners(corners, size, MASK_STRIDE)
        on_device = CellBoxes(
            *(x.to(logits.device, non_blocking=True) for x in (boxes.across, boxes.down))
        )
        total = logits.new_zeros(len(logits), dtype=torch.float64)
        count = torch.zeros_like(total)
        for cells in _cells(boxes, logits.device, margin=0):
            in_box = _in_box(on_device, cells.mask, cells.y, cells.x)
            for pairs in _pairs(logits, affinity, image, on_device, cells):
                inside, outside = F.logsigmoid(pairs.logits), F.logsigmoid(-pairs.logits)
                neighbor = F.logsigmoid(pairs.neighbors)
                same = torch.logaddexp(inside + neighbor, outside + neighbor - pairs.neighbors)
                weight = pairs.affinity * in_box
                total.index_add_(0, cells.mask, -(same * weight).double())
                count.index_add_(0, cells.mask, weight.double())
        count = count.clamp(min=1.0)
        ctx.save_for_backward(
            logits, affinity, image, corners, on_device.across, on_device.down, count
        )
        return (total / count).to(logits.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        logits, affinity, image, corners, across, down, count = ctx.saved_tensors
        size = (logits.shape[1], logits.shape[2])
        boxes = CellBoxes.from_corners(corners, size, MASK_STRIDE)
        on_device = CellBoxes(across, down)
        scale = (gradient / count).to(logits.dtype)  # (T,)
        result = torch.zeros_like(logits, memory_format=torch.contiguous_format)
        for cells in _cells(boxes, logits.device, margin=DILATION):
            in_box = _in_box(on_device, cells.mask, cells.y, cells.x)
            slope = torch.zeros_like(scale[cells.mask])  # (N,)
            for pairs in _pairs(logits, affinity, image, on_device, cells):
                times = in_box.to(slope.dtype) + pairs.neighbor_in_box.to(slope.dtype)
                step = pairs.logits.sigmoid() - (pairs.logits + pairs.neighbors).sigmoid()
                slope += pairs.affinity * times * step
            result.view(-1)[cells.place] = slope * scale[cells.mask]
        return result, None, None, None


def _cells(boxes: CellBoxes, device: torch.device, *, margin: int) -> Iterator[_Cells]:
    """The cells of boxes (on the CPU) and of a margin around each, some masks at a time."""
    height, width = boxes.down.shape[1], boxes.across.shape[1]
    (left, right), (top, bottom) = (_range(shares, margin) for shares in (boxes.across, boxes.down))
    counts = (right - left) * (bottom - top)  # (T,)
    chunk = (counts.cumsum(0) - 1).clamp(min=0) // MAX_CELLS
    for number in range(int(chunk[-1]) + 1 if len(chunk) else 0):
        rows = torch.nonzero((chunk == number) & (counts > 0))[:, 0]
        if not len(rows):
            continue
        table = torch.stack((rows, top[rows], left[rows], (right - left)[rows], counts[rows]))
        first = counts[rows].cumsum(0) - counts[rows]
        table = torch.cat((table, first[None])).to(device, non_blocking=True)
        total = int(counts[rows].sum())
        row, y0, x0, side, _, start = table.repeat_interleave(
            table[4], dim=1, output_size=total
        )  # (N,) each
        place = torch.arange(total, device=device) - start
        y, x = y0 + place // side, x0 + place % side
        yield _Cells(row, y, x, (row * height + y) * width + x)


def _range(shares: Tensor, margin: int) -> tuple[Tensor, Tensor]:
    """First and one past the last of the columns or rows of which boxes cover over half: (T,)."""
    covered = shares > 0.5  # (T, n); a cell that a box covers by half has such a column and row
    first, count = covered.to(torch.uint8).argmax(1), covered.sum(1)
    reach = torch.where(count > 0, margin, 0)
    return (first - reach).clamp(min=0), (first + count + reach).clamp(max=shares.shape[1])


def _in_box(boxes: CellBoxes, mask: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Whether boxes cover over half of cells, (N,) bool."""
    return boxes.down[mask, y] * boxes.across[mask, x] > 0.5


def _pairs(
    logits: Tensor, affinity: Tensor, image: Tensor, boxes: CellBoxes, cells: _Cells
) -> Iterator[_Pairs]:
    """The cells with their neighbors in each direction; beyond the border a cell is its own."""
    height, width = logits.shape[1:]
    flat = logits.flatten()
    value = flat[cells.place]
    first = (image[cells.mask] * len(OFFSETS) * height + cells.y) * width + cells.x
    for number, (dy, dx) in enumerate(OFFSETS):
        y, x = cells.y + dy, cells.x + dx
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
        similar = affinity.flatten()[first + number * height * width]
        neighbor = flat[(cells.mask * height + y) * width + x]
        in_box = _in_box(boxes, cells.mask, y, x) & inside
        yield _Pairs(value, neighbor, similar, in_box)
