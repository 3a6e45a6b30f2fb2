"""Weighted bilinear samples of several maps at once, the inner loop of deformable attention.

All samples of a query and head are one bag of rows of the maps, so `embedding_bag` sums them
without ever holding a sample in memory. Its own gradient for the rows is many times slower than the
sum; here that gradient is a sum of bags as well, of what each row has been sampled by.
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
"""Cells around a location."""
MAX_PRODUCTS = 2**26 - 1
"""A CUDA kernel of torch counts its threads, 32 to a product, in 31 bits."""
_SUM = 0
"""torch's number of that mode of `embedding_bag`."""


@dataclass(frozen=True)
class Scales:
    """Maps of several sizes whose cells follow one another; made once a forward pass."""

    extent: Tensor
    """(L, 2) width and height."""
    start: Tensor
    """(L,) int32, the first cell of each."""

    @classmethod
    def of(cls, sizes: Sizes, device: torch.device) -> "Scales":
        """Of some sizes, coarse or fine first, as the cells are."""
        areas = [height * width for height, width in sizes]
        starts = [sum(areas[:level]) for level in range(len(areas))]
        extent, start = (
            torch.tensor([(width, height) for height, width in sizes]),
            torch.tensor(starts).int(),
        )
        # made on the device they would wait for it
        return cls(extent.to(device, non_blocking=True), start.to(device, non_blocking=True))


def sample_scales(value: Tensor, scales: Scales, locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of bilinear samples; what lies beyond a map counts as zero.

    Args:
        value: (B, S, heads, d), the cells of all scales one after the other.
        scales: their sizes.
        locations: (B, N, heads, levels, points, 2), x and y in 0-1 of a map's extent.
        weights: (B, N, heads, levels, points).

    Returns:
        (B, N, heads * d).
    """
    batch, cells, heads, width = value.shape
    rows = value.to(torch.promote_types(value.dtype, torch.float32)).reshape(-1, width)
    extent = scales.extent[:, None]
    places = locations.to(rows.dtype) * extent - 0.5
    with torch.no_grad():
        first = _first_rows(scales.start, batch, cells, heads)
    bags: Tensor = _Bags.apply(rows, places, weights.to(rows.dtype), extent, first)
    return bags.view(batch, -1, heads * width)


def _first_rows(start: Tensor, batch: int, cells: int, heads: int) -> Tensor:
    """Row of each image's, head's and scale's first cell among all (B * S * heads): (B, 1, heads,
    levels, 1) int32."""
    image = torch.arange(batch, dtype=torch.int32, device=start.device) * cells
    head = torch.arange(heads, dtype=torch.int32, device=start.device)
    return ((start + image[:, None, None]) * heads + head[:, None])[:, None, ..., None]


@dataclass(frozen=True)
class _Axis:
    """The cells before and after each place along an axis."""

    cell: tuple[Tensor, Tensor]
    """int32, brought inside the map."""
    share: tuple[Tensor, Tensor]
    """Of the bilinear sample; 0 where the cell lies beyond the map."""
    slope: tuple[Tensor, Tensor]
    """How the share changes with the place: -1 and 1, or 0 beyond the map."""

    @classmethod
    def of(cls, place: Tensor, length: Tensor) -> "_Axis":
        """place in cells, 0 being the center of the first; length of the axis, broadcast to it."""
        low = place.floor()
        beyond, before = place - low, low.int()
        after = before + 1
        last = (length - 1).int()
        cell = before.clamp(min=0).minimum(last), after.clamp(min=0).minimum(last)
        inside = cell[0] == before, cell[1] == after
        slope = -inside[0].to(place.dtype), inside[1].to(place.dtype)
        return cls(cell, (slope[0] * (beyond - 1), slope[1] * beyond), slope)


def _axes(places: Tensor, extent: Tensor) -> tuple[_Axis, _Axis]:
    return _Axis.of(places[..., 0], extent[..., 0]), _Axis.of(places[..., 1], extent[..., 1])


class _Bags(torch.autograd.Function):
    """rows (R, d), places (B, N, heads, levels, points, 2) in cells, weights (B, N, heads, levels,
    points) -> sums.

    The result is (B * N * heads, d).
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, places: Tensor, weights: Tensor, extent: Tensor, first: Tensor
    ) -> Tensor:
        x, y = _axes(places, extent)
        heads, width = places.shape[2], extent[..., 0].int()
        shape = (*weights.shape[:3], CORNERS, *weights.shape[3:])
        index, share = first.new_empty(shape), weights.new_empty(shape)
        for row in range(2):
            line, weighted = first + y.cell[row] * (width * heads), y.share[row] * weights
            for column in range(2):
                index[:, :, :, 2 * row + column] = line + x.cell[column] * heads
                share[:, :, :, 2 * row + column] = weighted * x.share[column]
        index, share = index.flatten(0, 2).flatten(1), share.flatten(0, 2).flatten(1)
        ctx.save_for_backward(rows, places, weights, extent, index, share)
        return F.embedding_bag(index, rows, per_sample_weights=share, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, places, weights, extent, index, share = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_rows = (
            _gradient_of_rows(gradient, index, share, len(rows))
            if ctx.needs_input_grad[0]
            else None
        )
        if not any(ctx.needs_input_grad[1:3]):
            return of_rows, None, None, None, None
        sampled = _products(gradient, rows, index).view(
            *weights.shape[:3], 2, 2, *weights.shape[3:]
        )
        x, y = _axes(places, extent)
        left, right = sampled[:, :, :, :, 0], sampled[:, :, :, :, 1]
        above, below = (
            x.share[0][:, :, :, None] * left + x.share[1][:, :, :, None] * right
        ).unbind(3)
        by_x_above, by_x_below = (
            x.slope[0][:, :, :, None] * left + x.slope[1][:, :, :, None] * right
        ).unbind(3)
        by_x = y.share[0] * by_x_above + y.share[1] * by_x_below
        by_y = y.slope[0] * above + y.slope[1] * below
        of_places = torch.stack((weights * by_x, weights * by_y), -1)
        return of_rows, of_places, y.share[0] * above + y.share[1] * below, None, None


def _gradient_of_rows(gradient: Tensor, index: Tensor, share: Tensor, count: int) -> Tensor:
    """Each row's sum of the bags' gradients (G, d), by its share in them: index and share (G, P) ->
    (count, d)."""
    found, order = index.flatten().sort(stable=True)
    ends = torch.searchsorted(
        found, torch.arange(count + 1, dtype=found.dtype, device=found.device)
    )
    bag, weight = order // index.shape[1], share.flatten().index_select(0, order)
    return F.embedding_bag(
        bag, gradient, ends, per_sample_weights=weight, mode="sum", include_last_offset=True
    )


def _products(gradient: Tensor, rows: Tensor, index: Tensor) -> Tensor:
    """Scalar product of each bag's gradient with each row in it: (G, d), (R, d), (G, P) -> (G,
    P)."""
    together = max(1, MAX_PRODUCTS // index.shape[1])
    parts = zip(torch.split(gradient, together), torch.split(index, together), strict=True)
    return torch.cat([_products_of(part, rows, of) for part, of in parts])


def _products_of(gradient: Tensor, rows: Tensor, index: Tensor) -> Tensor:
    bags, size = index.shape
    number = torch.arange(bags, dtype=index.dtype, device=index.device)
    # What `embedding_bag` calls for the gradient of its weights: torch.compile takes it, but no
    # nested autograd.
    products: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        gradient, rows, index.flatten(), number * size, number.repeat_interleave(size), _SUM
    )
    return products.view(bags, size)
