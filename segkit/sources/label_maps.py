"""PNG label maps read exactly: ids in RGB (COCO panoptic, ADE instances), indices in grey or
palette (semantic)."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit import storage
from segkit.sources.image_files import check_png
from segkit.sources.ledger import ImageError

Size = tuple[int, int]
_GREY, _RGB, _PALETTE, _RGBA = 0, 2, 3, 6


def read_ids(path: Path, size: Size | None, *, record: str) -> NDArray[np.uint32]:
    """The (H, W) map of R + 256 G + 65536 B of an 8-bit RGB PNG (an alpha channel is left out).

    Args:
        path: the PNG.
        size: (width, height) that it must have, or None for any.
        record: what errors name.

    Raises:
        ImageError: `missing-mask`, `unreadable-mask`, or `size-mismatch`.
    """
    import cv2

    data, (width, height, depth, color) = _read(path, size, record)
    if depth != 8 or color not in (_RGB, _RGBA):
        what = "the mask is no 8-bit RGB PNG, so its pixels carry no segment ids"
        raise ImageError("unreadable-mask", what, file=path, record=record)
    pixels = _decode_colors(data, (height, width), "rgb" if color == _RGB else "rgba", path, record)
    packed = (cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA) if color == _RGB else pixels).view(np.int32)[
        ..., 0
    ]
    # run lengths go down columns: transposed in memory here, in a third of the time that NumPy
    # takes later
    ids: NDArray[np.uint32] = cv2.transpose(packed).view("<u4").T
    return np.bitwise_and(ids, np.uint32(0xFFFFFF), out=ids)


def _decode_colors(
    data: bytes, shape: tuple[int, int], mode: str, path: Path, record: str
) -> NDArray[np.uint8]:
    """(H, W, 3 or 4) of an 8-bit PNG; 640x480 take 0.3 ms of CPU, and 2.4 in libpng, which OpenCV
    and Pillow use."""
    from kornia_rs import io

    try:
        pixels: NDArray[np.uint8] = io.decode_image_png_u8(data, shape, mode)
    except Exception as error:  # the library raises no narrower type
        raise ImageError(
            "unreadable-mask", f"cannot be decoded ({error})", file=path, record=record
        ) from error
    return pixels


def read_indices(path: Path, size: Size | None, *, record: str) -> NDArray[Any]:
    """The (H, W) uint8 or uint16 indices of a grey (1, 2, 4, 8, 16 bit) or palette PNG; arguments
    as `read_ids`.

    Raises:
        ImageError: `missing-mask`, `unreadable-mask` (RGB files too: their colors are no indices),
            `size-mismatch`.
    """
    import cv2

    data, (_, _, depth, color) = _read(path, size, record)
    if color == _PALETTE:
        return _palette_indices(data, path, record)
    if color != _GREY:
        raise ImageError(
            "unreadable-mask", "the mask is no grey or palette PNG", file=path, record=record
        )
    pixels = _decode(data, cv2.IMREAD_UNCHANGED, path, record)
    # decoders spread 1-, 2- and 4-bit greys over 0-255
    return pixels // np.uint8(255 // (2**depth - 1)) if depth < 8 else pixels


def _palette_indices(data: bytes, path: Path, record: str) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        return np.asarray(Image.open(io.BytesIO(data)), np.uint8)
    except Exception as error:  # Pillow raises many types on damaged input
        raise ImageError(
            "unreadable-mask", f"cannot be decoded ({error})", file=path, record=record
        ) from error


def _read(path: Path, size: Size | None, record: str) -> tuple[bytes, tuple[int, int, int, int]]:
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError:
        raise ImageError(
            "missing-mask", "there is no such mask", file=path, record=record
        ) from None
    except OSError as error:
        raise ImageError(
            "unreadable-mask", f"cannot be read ({error.strerror})", file=path, record=record
        ) from error
    try:
        header = check_png(data)
    except ValueError as error:
        raise ImageError("unreadable-mask", str(error), file=path, record=record) from error
    if size is not None and header[:2] != size:
        what = f"the mask has {header[0]} x {header[1]} pixels, its image {size[0]} x {size[1]}"
        raise ImageError("size-mismatch", what, file=path, record=record)
    return data, header


def _decode(data: bytes, flags: int, path: Path, record: str) -> NDArray[Any]:
    import cv2

    pixels: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise ImageError("unreadable-mask", "cannot be decoded", file=path, record=record)
    return pixels
