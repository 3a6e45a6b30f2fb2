"""Losses on sampled pixels instead of whole masks (PointRend, arXiv 1912.08193, section 3.1;
Mask2Former, 3.3).

A point is a pixel of the crop, so its target is read off, not interpolated; logits are bilinear
between cells. The mean over uniformly drawn points is the mean over all pixels in expectation.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

OVERSAMPLING = 3
"""Candidates per point, of which the most uncertain are taken (PointRend's k)."""
IMPORTANCE = 0.75
"""Share of the points that is taken by uncertainty; the others are uniform (PointRend's beta)."""
ENOUGH = 1024
"""About so many cells tell which proposal fits which target: the noise is far below the differences
between them."""
_COLUMNS = 4
"""Rows are left out only where columns would lie further apart."""


def strided_samples(maps: Tensor) -> Tensor:
    """Every so-manieth row and column of maps, about ENOUGH cells of each: (..., h, w) -> (...,
    P)."""
    step = max(1, maps.shape[-2] * maps.shape[-1] // ENOUGH)
    across = min(step, max(_COLUMNS, math.isqrt(step)))
    return maps[..., :: step // across, ::across].flatten(-2)


def on_device(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """A generator on `device` whose state follows from that of another, which moves on by one
    draw."""
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    return torch.Generator(device).manual_seed(seed)


def random_points(
    maps: int, count: int, size: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Uniform pixels of images of a height and width: (maps, count) int64, counted row by row."""
    return torch.randint(
        size[0] * size[1], (maps, count), generator=generator, device=generator.device
    )


def logits_at(logits: Tensor, points: Tensor, size: tuple[int, int]) -> Tensor:
    """What maps enlarged bilinearly to (H, W) hold at some pixels, without enlarging them.

    Args:
        logits: (M, h, w); or (M, C, h, w), whose C maps are looked at in the same points.
        points: (M, P), pixels counted row by row.
        size: H and W.

    Returns:
        (M, P) or (M, C, P), float32 at least: half precision could not tell pixels apart.
    """
    height, width = size
    y, x = points // width, points % width
    maps = (logits if logits.dim() == 4 else logits[:, None]).to(
        torch.promote_types(logits.dtype, torch.float32)
    )
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1).to(maps.dtype)
    found = F.grid_sample(
        maps, grid[:, None], mode="bilinear", padding_mode="border", align_corners=False
    )[:, :, 0]
    return found if logits.dim() == 4 else found[:, 0]


@torch.no_grad()
def uncertain_points(
    logits: Tensor, labeled: Tensor, image: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """Pixels of which each map is least sure, and some uniform ones.

    Args:
        logits: (M, h, w).
        labeled: (B, H, W) bool; pixels that do not count are drawn last.
        image: (M,) int64, each map's image.
        count: points of a map.
        generator: on the device of `logits`.

    Returns:
        (M, count) int64, pixels counted row by row.
    """
    height, width = labeled.shape[1:]
    by_uncertainty = int(IMPORTANCE * count)
    candidates = random_points(len(logits), OVERSAMPLING * count, (height, width), generator)
    certainty = logits_at(logits, candidates, (height, width)).abs()
    certainty = certainty.masked_fill(~labeled.flatten(1)[image[:, None], candidates], torch.inf)
    chosen = certainty.topk(by_uncertainty, dim=1, largest=False, sorted=False).indices
    uniform = random_points(len(logits), count - by_uncertainty, (height, width), generator)
    return torch.cat((candidates.gather(1, chosen), uniform), dim=1)
