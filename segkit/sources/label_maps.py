"""Read PNG label maps: ids in RGB (COCO panoptic, ADE instances), indices in gray or palette."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit import storage
from segkit.images import png
from segkit.sources.ledger import ImageError

Size = tuple[int, int]


def read_ids(path: Path, size: Size | None, *, record: str) -> NDArray[np.uint32]:
    """The (H, W) map of R + 256 G + 65536 B of an 8-bit RGB PNG; an alpha channel is ignored.

    Args:
        path: the PNG.
        size: (width, height) that it must have, or None for any.
        record: the record that errors name.

    Raises:
        ImageError: `missing-mask`, `unreadable-mask`, or `size-mismatch`.
    """
    return _read(path, size, record, png.decode_ids)


def read_indices(path: Path, size: Size | None, *, record: str) -> NDArray[Any]:
    """The (H, W) uint8 or uint16 indices of a gray (1, 2, 4, 8, 16 bit) or palette PNG; arguments
    as `read_ids`.

    Raises:
        ImageError: `missing-mask`, `unreadable-mask` (RGB files too: their colors are not indices),
            `size-mismatch`.
    """
    return _read(path, size, record, png.decode_indices)


def _read(
    path: Path,
    size: Size | None,
    record: str,
    decode: Callable[[bytes, png.PngHeader], NDArray[Any]],
) -> NDArray[Any]:
    def error(code: str, message: str) -> ImageError:
        return ImageError(code, message, file=path, record=record)

    try:
        data = storage.read_bytes(path)
    except FileNotFoundError:
        raise error("missing-mask", "there is no such mask") from None
    except OSError as failure:
        raise error("unreadable-mask", f"cannot be read ({failure.strerror})") from failure
    try:
        header = png.check_png(data)
        if size is not None and header.size != size:
            sizes = f"{header.width} x {header.height} pixels, its image {size[0]} x {size[1]}"
            raise error("size-mismatch", f"the mask has {sizes}")
        return decode(data, header)
    except ValueError as failure:
        raise error("unreadable-mask", str(failure)) from failure
