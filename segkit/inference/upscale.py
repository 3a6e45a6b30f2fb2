"""Mask logits of the padded canvas, read at the pixels of the original image: whole, or a band of
rows at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.data.augment import Window

BAND = 2**22
"""Values of a band: 16 MiB, of which a few copies live at a time, in each thread that finishes an
image."""


def image_size(window: Window) -> tuple[int, int]:
    """Height and width of an image that a window has taken whole."""
    return window.source[3], window.source[2]


def bands(mask_logits: Tensor, window: Window, depth: int = 0) -> Iterator[tuple[slice, Tensor]]:
    """`to_image` from top to bottom in bands, so that no (N, H, W) ever exists.

    Args:
        mask_logits: (N, h, w), of the whole canvas at any stride.
        window: as in `to_image`.
        depth: maps that the caller makes of a band, where these are more than N.

    Yields:
        The rows of a band, and its logits (N, rows, W): no more than BAND values, but a row at
        least.
    """
    height, width = image_size(window)
    step = max(1, BAND // (width * max(1, depth, len(mask_logits))))
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        yield rows, to_image(mask_logits, window, rows)


def to_image(mask_logits: Tensor, window: Window, rows: slice | None = None) -> Tensor:
    """Mask logits of the padded canvas, back on the pixels of the original image.

    Enlarged bilinearly to the canvas, of which the patch is resized bilinearly to the image.

    Args:
        mask_logits: (N, h, w), of the whole canvas at any stride.
        window: how the image was laid on the canvas; it must have taken the whole image, not
            mirrored.
        rows: of the image, all by default.

    Returns:
        (N, rows, W).
    """
    (left, top, patch_w, patch_h), (height, width) = window.patch, image_size(window)
    start, stop, _ = (rows or slice(None)).indices(height)
    above, below, share = _neighbors(start, stop, patch_h, height)
    shown = int(above[0]) + top, int(below[-1]) + top + 1  # rows of the canvas that are looked at
    strip = _between(mask_logits, *_neighbors(*shown, mask_logits.shape[1], window.canvas[0]))
    patch = _stretch(strip, window.canvas[1])[:, :, left : left + patch_w]
    return _stretch(_between(patch, above - above[0], below - above[0], share), width)


def _neighbors(start: int, stop: int, source: int, target: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of `source` rows resized to `target`: those around each of the rows start..stop, and the
    share of the second."""
    center = ((torch.arange(start, stop, dtype=torch.float64) + 0.5) * source / target - 0.5).clamp(
        min=0
    )
    above = center.long()
    return above, (above + 1).clamp(max=source - 1), (center - above).float()


def _between(values: Tensor, above: Tensor, below: Tensor, share: Tensor) -> Tensor:
    """Rows of values (N, h, w) between two of theirs each: (N, rows, w)."""
    first, second, part = (each.to(values.device) for each in (above, below, share))
    return torch.lerp(values[:, first], values[:, second], part.to(values.dtype)[:, None])


def _stretch(values: Tensor, width: int) -> Tensor:
    """Rows (N, rows, w), each resized bilinearly to (N, rows, width)."""
    return F.interpolate(
        values[None], size=(values.shape[1], width), mode="bilinear", align_corners=False
    )[0]
