"""Weighted bilinear samples of several maps at once: the inner loop of deformable attention.

All samples of a query and a head are one bag of map rows, so `embedding_bag` sums them without
storing a single sample. Its built-in gradient for the rows is many times slower than the sum;
`_Bags` computes that gradient as a sum of bags too, over the samples that each row contributed to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Sizes = Sequence[tuple[int, int]]
"""Height and width of each scale."""
CORNERS = 4
"""Map pixels around a sample."""
MAX_PRODUCTS = 2**26 - 1
"""torch's CUDA kernel counts its threads, 32 per product, in 31 bits."""
_SUM = 0
"""torch's number of the mode "sum" of `embedding_bag`."""


@dataclass(frozen=True)
class Scales:
    """Sizes of L maps whose pixels are concatenated; built once per forward pass."""

    extent: Tensor
    """(L, 2) width and height."""
    start: Tensor
    """(L,) int32, index of each map's first pixel."""

    @classmethod
    def from_sizes(cls, sizes: Sizes, device: torch.device) -> "Scales":
        """The scales of some map sizes, in the order of their pixels."""
        areas = [height * width for height, width in sizes]
        starts = [sum(areas[:level]) for level in range(len(areas))]
        extent = torch.tensor([(width, height) for height, width in sizes])
        start = torch.tensor(starts).int()
        # Building them on the device would synchronize with it.
        return cls(extent.to(device, non_blocking=True), start.to(device, non_blocking=True))


def sample_scales(value: Tensor, scales: Scales, locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of bilinear samples; samples beyond a map count as zero.

    Args:
        value: (B, S, heads, d), the concatenated pixels of all scales.
        scales: their sizes.
        locations: (B, N, heads, L, points, 2), x and y in 0-1 across a map.
        weights: (B, N, heads, L, points).

    Returns:
        (B, N, heads * d).
    """
    batch, pixels, heads, width = value.shape
    rows = value.to(torch.promote_types(value.dtype, torch.float32)).reshape(-1, width)
    extent = scales.extent[:, None]  # (L, 1, 2)
    positions = locations.to(rows.dtype) * extent - 0.5  # in pixels, 0 at the first one's center
    with torch.no_grad():
        first = _first_rows(scales.start, batch, pixels, heads)
    bags: Tensor = _Bags.apply(rows, positions, weights.to(rows.dtype), extent, first)
    return bags.view(batch, -1, heads * width)


def _first_rows(start: Tensor, batch: int, pixels: int, heads: int) -> Tensor:
    """(B, 1, heads, L, 1) int32: row of the first pixel of each image, head and scale.

    Rows are counted among all B * S * heads rows.
    """
    image = torch.arange(batch, dtype=torch.int32, device=start.device) * pixels
    head = torch.arange(heads, dtype=torch.int32, device=start.device)
    return ((start + image[:, None, None]) * heads + head[:, None])[:, None, ..., None]


@dataclass(frozen=True)
class _Axis:
    """The pixels before and after each position along one axis."""

    pixel: tuple[Tensor, Tensor]
    """int32 indices, clamped to the map."""
    weight: tuple[Tensor, Tensor]
    """Bilinear weights; 0 for a pixel beyond the map."""
    slope: tuple[Tensor, Tensor]
    """Derivative of the weights by the position: -1 and 1, or 0 beyond the map."""

    @classmethod
    def from_positions(cls, position: Tensor, length: Tensor) -> "_Axis":
        """Neighbors of positions on an axis of `length` pixels, broadcast to them.

        Positions are in pixels, 0 at the first one's center.
        """
        low = position.floor()
        fraction, before = position - low, low.int()
        after = before + 1
        last = (length - 1).int()
        pixel = before.clamp(min=0).minimum(last), after.clamp(min=0).minimum(last)
        inside = pixel[0] == before, pixel[1] == after
        slope = -inside[0].to(position.dtype), inside[1].to(position.dtype)
        return cls(pixel, (slope[0] * (fraction - 1), slope[1] * fraction), slope)


def _axes(positions: Tensor, extent: Tensor) -> tuple[_Axis, _Axis]:
    x = _Axis.from_positions(positions[..., 0], extent[..., 0])
    return x, _Axis.from_positions(positions[..., 1], extent[..., 1])


class _Bags(torch.autograd.Function):
    """The weighted sums, with a fast gradient.

    Takes rows (R, d), positions (B, N, heads, L, points, 2), weights (B, N, heads, L, points),
    extent (L, 1, 2) and first (B, 1, heads, L, 1); gives (B * N * heads, d).
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, positions: Tensor, weights: Tensor, extent: Tensor, first: Tensor
    ) -> Tensor:
        x, y = _axes(positions, extent)
        heads, width = positions.shape[2], extent[..., 0].int()
        shape = (*weights.shape[:3], CORNERS, *weights.shape[3:])
        index, factor = first.new_empty(shape), weights.new_empty(shape)
        for row in range(2):
            line, weighted = first + y.pixel[row] * (width * heads), y.weight[row] * weights
            for column in range(2):
                index[:, :, :, 2 * row + column] = line + x.pixel[column] * heads
                factor[:, :, :, 2 * row + column] = weighted * x.weight[column]
        index = index.flatten(0, 2).flatten(1)  # (B * N * heads, 4 * L * points)
        factor = factor.flatten(0, 2).flatten(1)
        ctx.save_for_backward(rows, positions, weights, extent, index, factor)
        return F.embedding_bag(index, rows, per_sample_weights=factor, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, positions, weights, extent, index, factor = ctx.saved_tensors
        gradient = gradient.contiguous()
        rows_gradient = None
        if ctx.needs_input_grad[0]:
            rows_gradient = _rows_gradient(gradient, index, factor, len(rows))
        if not any(ctx.needs_input_grad[1:3]):
            return rows_gradient, None, None, None, None
        corners = (*weights.shape[:3], 2, 2, *weights.shape[3:])  # B, N, heads, y, x, L, points
        products = _products(gradient, rows, index).view(corners)
        x, y = _axes(positions, extent)
        left, right = products[:, :, :, :, 0], products[:, :, :, :, 1]
        above, below = (
            x.weight[0][:, :, :, None] * left + x.weight[1][:, :, :, None] * right
        ).unbind(3)
        x_slope_above, x_slope_below = (
            x.slope[0][:, :, :, None] * left + x.slope[1][:, :, :, None] * right
        ).unbind(3)
        x_slope = y.weight[0] * x_slope_above + y.weight[1] * x_slope_below
        y_slope = y.slope[0] * above + y.slope[1] * below
        positions_gradient = torch.stack((weights * x_slope, weights * y_slope), -1)
        weights_gradient = y.weight[0] * above + y.weight[1] * below
        return rows_gradient, positions_gradient, weights_gradient, None, None


def _rows_gradient(gradient: Tensor, index: Tensor, factor: Tensor, count: int) -> Tensor:
    """Each row's sum of the bags' gradients (G, d), weighted by its factors in them.

    Args:
        gradient: (G, d).
        index: (G, P), rows of each bag.
        factor: (G, P), their factors.
        count: number of rows.

    Returns:
        (count, d).
    """
    ordered, order = index.flatten().sort(stable=True)
    bounds = torch.arange(count + 1, dtype=ordered.dtype, device=ordered.device)
    ends = torch.searchsorted(ordered, bounds)
    bag, weight = order // index.shape[1], factor.flatten().index_select(0, order)
    return F.embedding_bag(
        bag, gradient, ends, per_sample_weights=weight, mode="sum", include_last_offset=True
    )


def _products(gradient: Tensor, rows: Tensor, index: Tensor) -> Tensor:
    """(G, P) scalar products of each bag's gradient (G, d) with its rows (R, d).

    The index (G, P) names the rows of each bag.
    """
    size = max(1, MAX_PRODUCTS // index.shape[1])
    chunks = zip(torch.split(gradient, size), torch.split(index, size), strict=True)
    return torch.cat([_chunk_products(part, rows, indices) for part, indices in chunks])


def _chunk_products(gradient: Tensor, rows: Tensor, index: Tensor) -> Tensor:
    bags, size = index.shape
    number = torch.arange(bags, dtype=index.dtype, device=index.device)
    # The operator behind the gradient of `embedding_bag`'s weights: torch.compile accepts it, a
    # nested autograd call it would not.
    products: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        gradient, rows, index.flatten(), number * size, number.repeat_interleave(size), _SUM
    )
    return products.view(bags, size)
