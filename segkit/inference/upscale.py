"""Mask logits of the padded canvas, read at the pixels of the original image: whole, or a band of
rows at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.data.augment import Crop

BAND = 2**22
"""Values of a band: 16 MiB, of which a few copies live at a time, in each thread that finishes an
image."""


def image_size(crop: Crop) -> tuple[int, int]:
    """Height and width of an image that a window has taken whole."""
    return crop.source[3], crop.source[2]


def bands(mask_logits: Tensor, crop: Crop, depth: int = 0) -> Iterator[tuple[slice, Tensor]]:
    """`to_image` from top to bottom in bands, so that no (N, H, W) ever exists.

    Args:
        mask_logits: (N, h, w), of the whole canvas at any stride.
        crop: as in `to_image`.
        depth: maps that the caller makes of a band, where these are more than N.

    Yields:
        The rows of a band, and its logits (N, rows, W): no more than BAND values, but a row at
        least.
    """
    height, width = image_size(crop)
    step = max(1, BAND // (width * max(1, depth, len(mask_logits))))
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        yield rows, to_image(mask_logits, crop, rows)


def to_image(mask_logits: Tensor, crop: Crop, rows: slice | None = None) -> Tensor:
    """Mask logits of the padded canvas, back on the pixels of the original image.

    Enlarged bilinearly to the canvas, of which the patch is resized bilinearly to the image.

    Args:
        mask_logits: (N, h, w), of the whole canvas at any stride.
        crop: how the image was laid on the canvas; it must have taken the whole image, not
            mirrored.
        rows: of the image, all by default.

    Returns:
        (N, rows, W).
    """
    (left, top, content_w, content_h), (height, width) = crop.content, image_size(crop)
    start, stop, _ = (rows or slice(None)).indices(height)
    above, below, share = _neighbors(start, stop, content_h, height)
    shown = int(above[0]) + top, int(below[-1]) + top + 1  # rows of the canvas that are looked at
    strip = _between(mask_logits, *_neighbors(*shown, mask_logits.shape[1], crop.padded_size[0]))
    content = _stretch(strip, crop.padded_size[1])[:, :, left : left + content_w]
    return _stretch(_between(content, above - above[0], below - above[0], share), width)


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
