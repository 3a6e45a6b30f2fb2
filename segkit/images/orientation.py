"""EXIF orientation: how a file asks viewers to turn its pixels, applied or removed without loss.

Browsers and most programs turn a photo as its tag says; segkit decodes the pixels as they are
stored. Labels fit one or the other, so `segkit convert --exif` says which.
"""

import warnings
import zlib
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segkit.images.decode import decode, open_image

Pixels = NDArray[np.generic]
TAG = 0x0112
"""EXIF and TIFF tag of the orientation, 1 to 8."""
_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}
"""Orientation -> stored pixels (H, W, ...) to displayed ones, as in EXIF (CIPA DC-008)."""
_SIZES = {3: 2, 4: 4}
"""Bytes of an integer in an EXIF entry, by its type."""


def orientation(data: bytes) -> int:
    """The orientation of an image file, 1 (stored as displayed) to 8; 1 without a valid tag."""
    marks = b"Exif", b"eXIf", b"EXIF", b"Orientation", b"Raw profile type", b"irot", b"imir"
    if not data.startswith((b"II", b"MM")) and not any(mark in data for mark in marks):
        return 1
    try:
        with warnings.catch_warnings(action="ignore"):  # of damaged tags
            value = open_image(data).getexif().get(TAG, 1)
    except Exception:  # decoders raise many types on damaged input
        return 1
    return value if value in _TURNS else 1


def turn(pixels: Pixels, number: int) -> Pixels:
    """Turn stored pixels (H, W, ...) as they are displayed; a copy in row order."""
    return np.ascontiguousarray(_TURNS[number](pixels))


def turned_png(data: bytes, number: int) -> bytes:
    """The image as it is displayed, as a PNG without an orientation.

    Args:
        data: an image file.
        number: its orientation.
    """
    return _png(turn(_stored_pixels(without_orientation(data)), number))


def without_orientation(data: bytes) -> bytes:
    """The file with the same stored pixels and orientation 1: one number of its tag changes.

    A file whose orientation is elsewhere than in that tag becomes a PNG.
    """
    if orientation(data) == 1:
        return data
    start = _tiff_start(data)
    changed = data if start is None else _with_first_orientation(data, start)
    return changed if orientation(changed) == 1 else _png(_stored_pixels(data))


def _stored_pixels(data: bytes) -> Pixels:
    import cv2

    # an AVIF has its 10 or 12 bits unscaled in 16
    has_8_bits = data.startswith(b"\xff\xd8") or data[4:8] == b"ftyp"
    flags = cv2.IMREAD_ANYCOLOR if has_8_bits else cv2.IMREAD_UNCHANGED
    hint = "replace the file with an undamaged copy"
    return decode(data, flags, file="a photo with an EXIF orientation", hint=hint)


def _png(pixels: Pixels) -> bytes:
    import cv2

    return cv2.imencode(".png", pixels)[1].tobytes()


def _with_first_orientation(data: bytes, start: int) -> bytes:
    """The file with orientation 1 in the TIFF structure that begins at `start`."""
    order: Literal["little", "big"] = "little" if data[start : start + 2] == b"II" else "big"

    def number(place: int, size: int) -> int:
        return int.from_bytes(data[place : place + size], order)

    table = start + number(start + 4, 4)
    for index in range(number(table, 2)):
        entry = table + 2 + 12 * index
        size = _SIZES.get(number(entry + 2, 2))
        if number(entry, 2) == TAG and size:
            value = (1).to_bytes(size, order)
            changed = data[: entry + 8] + value + data[entry + 8 + size :]
            return _with_checksum(changed, start) if data.startswith(b"\x89PNG") else changed
    return data


def _with_checksum(data: bytes, start: int) -> bytes:
    """A PNG with the right checksum of the chunk whose content begins at `start`."""
    end = start + int.from_bytes(data[start - 8 : start - 4])
    checksum = zlib.crc32(data[start - 4 : end])
    return data[:end] + checksum.to_bytes(4) + data[end + 4 :]


def _tiff_start(data: bytes) -> int | None:
    """Where the TIFF structure of a file's EXIF data begins."""
    if data.startswith((b"II", b"MM")):
        return 0
    if data.startswith(b"\xff\xd8"):
        return _in_chunks(data, 2, b"\xff\xe1", b"Exif\0\0", _jpeg_chunk)
    if data.startswith(b"\x89PNG"):
        return _in_chunks(data, 8, b"eXIf", b"", _png_chunk)
    if data.startswith(b"RIFF"):
        start = _in_chunks(data, 12, b"EXIF", b"", _webp_chunk)
        has_prefix = start is not None and data[start : start + 6] == b"Exif\0\0"
        return start + 6 if start is not None and has_prefix else start
    return None


Chunk = tuple[bytes, int, int]
"""Name, start of the content, start of the next chunk."""


def _in_chunks(
    data: bytes, place: int, name: bytes, prefix: bytes, chunk: Callable[[bytes, int], Chunk]
) -> int | None:
    """Where the content of the first chunk of this name and prefix begins, behind the prefix."""
    while place + 8 <= len(data):
        chunk_name, start, following = chunk(data, place)
        if chunk_name == name and data.startswith(prefix, start):
            return start + len(prefix)
        if following <= place:
            return None
        place = following
    return None


def _jpeg_chunk(data: bytes, place: int) -> Chunk:
    length = int.from_bytes(data[place + 2 : place + 4])
    return data[place : place + 2], place + 4, place + 2 + length


def _png_chunk(data: bytes, place: int) -> Chunk:
    length = int.from_bytes(data[place : place + 4])
    return data[place + 4 : place + 8], place + 8, place + 12 + length


def _webp_chunk(data: bytes, place: int) -> Chunk:
    length = int.from_bytes(data[place + 4 : place + 8], "little")
    return data[place : place + 4], place + 8, place + 8 + length + length % 2
