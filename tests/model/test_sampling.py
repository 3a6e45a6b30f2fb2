import math

import pytest
import torch
from torch.nn import functional as F

from segkit.model import sampling
from segkit.model.sampling import Scales, sample_scales


def scales_of(*sizes: tuple[int, int]) -> Scales:
    return Scales.from_sizes(sizes, torch.device("cpu"))


def _bilinear(grid: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """One sample of (h, w, d) at x, y in 0-1, with zeros beyond the map."""
    height, width, _ = grid.shape
    column, row = x * width - 0.5, y * height - 0.5
    total = torch.zeros(grid.shape[-1], dtype=grid.dtype)
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < height and 0 <= j < width:
                total += grid[i, j] * (1 - abs(row - i)) * (1 - abs(column - j))
    return total


@pytest.mark.parametrize("sizes", [[(2, 3), (5, 4)], [(1, 1), (1, 2)]])
def test_samples_match_a_loop_over_points(sizes: list[tuple[int, int]]) -> None:
    torch.manual_seed(0)
    pixels = [height * width for height, width in sizes]
    value = torch.randn(2, sum(pixels), 3, 4, dtype=torch.float64)
    # Some locations are beyond the maps.
    locations = torch.rand(2, 6, 3, 2, 5, 2, dtype=torch.float64) * 1.6 - 0.3
    weights = torch.rand(2, 6, 3, 2, 5, dtype=torch.float64)
    expected = torch.zeros(2, 6, 3, 4, dtype=torch.float64)
    for image in range(2):
        maps = [
            part.unflatten(0, size)
            for part, size in zip(value[image].split(pixels), sizes, strict=True)
        ]
        for query in range(6):
            for head in range(3):
                for level in range(2):
                    for point in range(5):
                        x, y = locations[image, query, head, level, point].tolist()
                        sample = _bilinear(maps[level][:, :, head], x, y)
                        expected[image, query, head] += (
                            weights[image, query, head, level, point] * sample
                        )
    torch.testing.assert_close(
        sample_scales(value, scales_of(*sizes), locations, weights), expected.flatten(2)
    )


@pytest.mark.parametrize("chunk", [sampling.MAX_PRODUCTS, 20])
def test_gradients_match_finite_differences(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MAX_PRODUCTS", chunk)
    torch.manual_seed(0)
    value = torch.randn(1, 10, 2, 2, dtype=torch.float64, requires_grad=True)
    locations = (torch.rand(1, 3, 2, 2, 2, 2, dtype=torch.float64) * 0.9).requires_grad_()
    weights = torch.rand(1, 3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda v, x, w: sample_scales(v, scales_of((2, 2), (2, 3)), x, w),
        (value, locations, weights),
    )


def test_gradients_on_a_large_map_match_grid_sample() -> None:
    torch.manual_seed(0)
    size, heads, width = (9, 13), 2, 3
    value = torch.randn(2, 9 * 13, heads, width, dtype=torch.float64, requires_grad=True)
    locations = (
        torch.rand(2, 50, heads, 1, 4, 2, dtype=torch.float64) * 1.2 - 0.1
    ).requires_grad_()
    weights = torch.rand(2, 50, heads, 1, 4, dtype=torch.float64, requires_grad=True)
    maps = value.permute(0, 2, 3, 1).reshape(2 * heads, width, *size)
    grid = 2 * locations[:, :, :, 0].transpose(1, 2).flatten(0, 1) - 1
    samples = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    expected = (samples * weights[:, :, :, 0].transpose(1, 2).reshape(2 * heads, 1, 50, 4)).sum(-1)
    expected = expected.view(2, heads, width, 50).permute(0, 3, 1, 2).flatten(2)
    output = sample_scales(value, scales_of(size), locations, weights)
    inputs, outgoing = (value, locations, weights), torch.randn_like(expected)
    torch.testing.assert_close(output, expected)
    expected_gradients = torch.autograd.grad(expected, inputs, outgoing)
    torch.testing.assert_close(torch.autograd.grad(output, inputs, outgoing), expected_gradients)


def test_inputs_without_gradient_are_not_differentiated() -> None:
    value = torch.randn(1, 4, 1, 2, requires_grad=True)
    locations, weights = torch.rand(1, 3, 1, 1, 2, 2), torch.rand(1, 3, 1, 1, 2)
    sample_scales(value, scales_of((2, 2)), locations, weights).sum().backward()
    assert value.grad is not None
    torch.testing.assert_close(value.grad.sum(), 2 * _inside(locations, weights))


def _inside(locations: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum of the weights, each times the share of its sample on a map of 2 x 2 pixels."""
    overhang = (0.25 - locations).clamp(min=0) + (locations - 0.75).clamp(min=0)
    return (weights * (1 - 2 * overhang).prod(-1)).sum()
