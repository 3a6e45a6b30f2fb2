"""Reads PNG label maps: ids or colors in RGB, or class indices in gray or palette PNGs.

COCO panoptic and ADE instances code ids in RGB; semantic maps hold indices.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.images import png
from segkit.sources.image_files import read_source_file
from segkit.sources.ledger import ImageError

Size = tuple[int, int]
"""(width, height)."""


def read_ids(path: Path, size: Size | None, *, record: str) -> NDArray[np.uint32]:
    """Read the ids R + 256 G + 65536 B of an 8-bit RGB PNG; an alpha channel is ignored.

    Args:
        path: the PNG.
        size: (width, height) that it must have, or None for any.
        record: the record that errors name.

    Returns:
        (H, W) map of ids.

    Raises:
        ImageError: `missing-mask`, `unreadable-mask`, or `size-mismatch`.
    """
    return _read(path, size, record, png.decode_ids)


def read_indices(path: Path, size: Size | None, *, record: str) -> NDArray[Any]:
    """Read the indices of a gray (1, 2, 4, 8 or 16 bit) or palette PNG.

    Arguments are those of `read_ids`.

    Returns:
        (H, W) map of uint8 or uint16.

    Raises:
        ImageError: `missing-mask`, `size-mismatch`, or `unreadable-mask`, also for RGB files, whose
            colors are not indices.
    """
    return _read(path, size, record, png.decode_indices)


def read_colors(path: Path, *, record: str) -> NDArray[np.uint32]:
    """Read the colors R + 256 G + 65536 B of an 8-bit RGB or palette PNG; alpha is ignored.

    Arguments, result and errors are those of `read_ids`.
    """
    return _read(path, None, record, png.decode_colors)


def _read(
    path: Path,
    size: Size | None,
    record: str,
    decode: Callable[[bytes, png.PngHeader], NDArray[Any]],
) -> NDArray[Any]:
    data = read_source_file(path, "mask", record=record)
    try:
        header = png.check_png(data)
        if size is not None and header.size != size:
            message = (
                f"the mask has {header.width} x {header.height} pixels, "
                f"its image {size[0]} x {size[1]}"
            )
            raise ImageError("size-mismatch", message, file=path, record=record)
        return decode(data, header)
    except png.PixelTypeError as error:
        message, hint = str(error), error.hint
        raise ImageError("unreadable-mask", message, file=path, record=record, hint=hint) from error
    except ValueError as error:
        raise ImageError("unreadable-mask", str(error), file=path, record=record) from error
