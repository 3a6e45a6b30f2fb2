"""Sample pixels at which masks are compared (PointRend, arXiv 1912.08193, 3.1; Mask2Former, 3.3).

A point is a pixel of the crop: its target needs no interpolation, and logits are bilinear between
cells. The mean over uniformly drawn points is, in expectation, the mean over all pixels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

OVERSAMPLING = 3
"""Candidates per point, of which the most uncertain are kept (PointRend's k)."""
IMPORTANCE = 0.75
"""Share of the points that is chosen by uncertainty; the rest is uniform (PointRend's beta)."""
MATCHING_CELLS = 1024
"""Cells that suffice for matching: smaller maps are matched at all of them."""
COLUMNS = (1, 3, 0, 2)
"""Column of each row in blocks of 4 x 4 cells at which larger maps are matched. No object of 3 x 3
cells is missed, in no direction, and the pixels per sample are those of Mask2Former's 12,544 points
in a crop of 1024 pixels."""


def strided_samples(maps: Tensor) -> Tensor:
    """The cells at which maps are matched: (..., h, w) -> (..., P).

    Args:
        maps: h and w are multiples of 4 where more than MATCHING_CELLS would be left of a quarter.
    """
    height, width = maps.shape[-2:]
    side = len(COLUMNS)
    if height * width < side * MATCHING_CELLS:
        return maps.flatten(-2)
    blocks = maps.reshape(*maps.shape[:-2], height // side, side, width // side, side)
    cells = [blocks[..., row, :, column] for row, column in enumerate(COLUMNS)]
    return torch.stack(cells, dim=-1).flatten(-3)


def device_generator(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """A generator on a device, seeded by one draw from another generator."""
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    return torch.Generator(device).manual_seed(seed)


def random_points(
    maps: int, count: int, size: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Uniform pixels of images of one (height, width): (maps, count) int64, in row-major order."""
    pixels = size[0] * size[1]
    return torch.randint(pixels, (maps, count), generator=generator, device=generator.device)


def logits_at(logits: Tensor, points: Tensor, size: tuple[int, int]) -> Tensor:
    """Values of maps at pixels of the full image, interpolated without enlarging the maps.

    Args:
        logits: (M, h, w); or (M, C, h, w) for C maps that share their points.
        points: (M, P), pixels in row-major order.
        size: H and W.

    Returns:
        (M, P) or (M, C, P), in float32 at least: half precision cannot tell pixels apart.
    """
    height, width = size
    y, x = points // width, points % width
    maps = logits if logits.dim() == 4 else logits[:, None]
    maps = maps.to(torch.promote_types(logits.dtype, torch.float32))
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1).to(maps.dtype)
    values = F.grid_sample(
        maps, grid[:, None], mode="bilinear", padding_mode="border", align_corners=False
    )[:, :, 0]  # (M, C, P)
    return values if logits.dim() == 4 else values[:, 0]


@torch.no_grad()
def uncertain_points(
    logits: Tensor, labeled: Tensor, image: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """The most uncertain of random pixels of each map, and some uniform ones.

    Args:
        logits: (M, h, w).
        labeled: (B, H, W) bool; void pixels are chosen last.
        image: (M,) int64, each map's image.
        count: points per map.
        generator: on the device of `logits`.

    Returns:
        (M, count) int64, pixels in row-major order.
    """
    height, width = labeled.shape[1:]
    by_uncertainty = int(IMPORTANCE * count)
    candidates = random_points(len(logits), OVERSAMPLING * count, (height, width), generator)
    certainty = logits_at(logits, candidates, (height, width)).abs()
    certainty = certainty.masked_fill(~labeled.flatten(1)[image[:, None], candidates], torch.inf)
    chosen = certainty.topk(by_uncertainty, dim=1, largest=False, sorted=False).indices
    uniform = random_points(len(logits), count - by_uncertainty, (height, width), generator)
    return torch.cat((candidates.gather(1, chosen), uniform), dim=1)
