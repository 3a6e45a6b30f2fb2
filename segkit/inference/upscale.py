"""Resize mask logits to the original image, in full or a band of rows at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.data.augment import Crop

BAND = 2**22
"""Values of a band: 16 MiB. Each thread that post-processes an image holds a few copies."""


def bands(mask_logits: Tensor, crop: Crop, depth: int = 0) -> Iterator[tuple[slice, Tensor]]:
    """Yield the result of `to_image` from top to bottom in bands, so that no (N, H, W) ever exists.

    Args:
        mask_logits: (N, h, w) at any stride, padding included.
        crop: as of `to_image`.
        depth: number of maps that the caller computes of a band, where it is more than N.

    Yields:
        The rows of a band and its logits (N, rows, W): at most BAND values, but at least one row.
    """
    height, width = crop.image_size
    step = max(1, BAND // (width * max(1, depth, len(mask_logits))))
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        yield rows, to_image(mask_logits, crop, rows)


def chunks(count: int, size: tuple[int, int]) -> Iterator[slice]:
    """Yield slices of `count` masks in turn: at most BAND pixels of (H, W), but at least a mask."""
    step = max(1, BAND // (size[0] * size[1]))
    for start in range(0, count, step):
        yield slice(start, start + step)


def to_image(mask_logits: Tensor, crop: Crop, rows: slice | None = None) -> Tensor:
    """Resize mask logits to the pixels of the original image.

    They are resized bilinearly to the padded size, whose content is then resized bilinearly to the
    image.

    Args:
        mask_logits: (N, h, w) at any stride, padding included.
        crop: how the image was resized and padded; it must hold the full image, not mirrored.
        rows: of the image; None for all.

    Returns:
        (N, rows, W).
    """
    left, top, content_w, content_h = crop.content
    height, width = crop.image_size
    start, stop, _ = (rows or slice(None)).indices(height)
    upper, lower, weight = _interpolation(start, stop, content_h, height)
    first, last = int(upper[0]) + top, int(lower[-1]) + top + 1  # padded rows that are needed
    padded_rows = _interpolation(first, last, mask_logits.shape[1], crop.padded_size[0])
    strip = _interpolate_rows(mask_logits, *padded_rows)  # (N, last - first, w)
    strip = _resize_width(strip, crop.padded_size[1])  # (N, last - first, padded width)
    content = strip[:, :, left : left + content_w]
    image_rows = _interpolate_rows(content, upper - upper[0], lower - upper[0], weight)
    return _resize_width(image_rows, width)


def _interpolation(
    start: int, stop: int, source: int, target: int
) -> tuple[Tensor, Tensor, Tensor]:
    """How to resize `source` rows to `target`: for each of the rows start..stop, the source row
    above it, the one below, and the weight of the latter."""
    rows = torch.arange(start, stop, dtype=torch.float64)
    center = ((rows + 0.5) * source / target - 0.5).clamp(min=0)
    upper = center.long()
    lower = (upper + 1).clamp(max=source - 1)
    return upper, lower, (center - upper).float()


def _interpolate_rows(values: Tensor, upper: Tensor, lower: Tensor, weight: Tensor) -> Tensor:
    """Rows between two rows of values (N, h, w): (N, rows, w)."""
    rows = (tensor.to(values.device, non_blocking=True) for tensor in (upper, lower, weight))
    upper, lower, weight = rows
    return torch.lerp(values[:, upper], values[:, lower], weight.to(values.dtype)[:, None])


def _resize_width(values: Tensor, width: int) -> Tensor:
    """Resize values (N, rows, w) bilinearly to (N, rows, width)."""
    size = (values.shape[1], width)
    return F.interpolate(values[None], size=size, mode="bilinear", align_corners=False)[0]
