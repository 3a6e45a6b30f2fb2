"""Check PNG files, and decode those that hold labels: segment ids in RGB, class indices in gray."""

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_PIXELS = 178_956_970
"""Pillow's own limit; an image whose header claims more pixels is refused before decoding."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GRAY, _RGB, _PALETTE, _RGBA = 0, 2, 3, 6
_CHANNELS = {_GRAY: 1, _RGB: 3, _PALETTE: 1, 4: 2, _RGBA: 4}
_DEPTHS = {
    *((_GRAY, depth) for depth in (1, 2, 4, 8, 16)),
    *((_PALETTE, depth) for depth in (1, 2, 4, 8)),
    *((color, depth) for color in (_RGB, 4, _RGBA) for depth in (8, 16)),
}
"""The pairs of color type and bit depth that PNG defines."""
_MAX_FILTER = 4
_ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
"""(first column, first row, column step, row step) of the passes of an interlaced PNG."""


@dataclass(frozen=True, slots=True)
class PngHeader:
    """The fields of a PNG's IHDR chunk."""

    width: int = 0
    height: int = 0
    bit_depth: int = 0
    color_type: int = 0
    interlaced: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether pixels are rows of 8-bit or smaller grays or colors, without a palette."""
        return self.bit_depth <= 8 and self.color_type != _PALETTE and not self.interlaced

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.width, self.height


def check_png(data: bytes) -> PngHeader:
    """Check the structure and the checksums of a PNG.

    Decoders differ in which damage they notice, and some print to stderr; checksums settle it
    beforehand in microseconds.

    Raises:
        ValueError: not a PNG, truncated, a wrong checksum, or more than `MAX_PIXELS` pixels.
    """
    if not data.startswith(SIGNATURE):
        raise ValueError("not a PNG file")
    header, start, kind = PngHeader(), len(SIGNATURE), b""
    while kind != b"IEND":
        if start + 12 > len(data):
            raise ValueError("the PNG file is truncated")
        (length,), kind = struct.unpack_from(">I", data, start), data[start + 4 : start + 8]
        end = start + 8 + length
        if end + 4 > len(data):
            raise ValueError("the PNG file is truncated")
        if zlib.crc32(data[start + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError(f"the PNG file has a wrong checksum (chunk {kind!r})")
        if kind == b"IHDR":
            width, height, depth, color, _, _, interlaced = struct.unpack_from(
                ">IIBBBBB", data, start + 8
            )
            header = PngHeader(width, height, depth, color, bool(interlaced))
        start = end + 4
    if not 0 < header.width * header.height <= MAX_PIXELS:
        raise ValueError(f"the PNG header claims {header.width} x {header.height} pixels")
    return header


def check_rows(data: bytes, header: PngHeader) -> None:
    """Inflate the pixels of a checked PNG; ValueError if rows are missing or have no valid filter.

    Some decoders leave missing rows black and say nothing.
    """
    sizes = _pass_sizes(header)
    size = sum(height * (1 + stride) for height, stride in sizes)
    inflate = zlib.decompressobj()
    try:
        rows = inflate.decompress(_pixel_data(data), size)
    except zlib.error as error:
        raise ValueError(f"the PNG file has damaged pixels ({error})") from error
    if len(rows) < size:
        raise ValueError("the PNG file lacks rows: its pixels end too early")
    start = 0
    for height, stride in sizes:
        end = start + height * (1 + stride)
        if max(rows[start : end : 1 + stride], default=0) > _MAX_FILTER:
            raise ValueError("the PNG file has a row of an unknown filter")
        start = end


def _pass_sizes(header: PngHeader) -> list[tuple[int, int]]:
    """(rows, bytes of a row) of each pass: one, or the seven of an interlaced PNG."""
    if (header.color_type, header.bit_depth) not in _DEPTHS:
        message = f"color type {header.color_type} with {header.bit_depth} bits"
        raise ValueError(f"the PNG file has {message}, which does not exist")
    bits = header.bit_depth * _CHANNELS[header.color_type]
    passes = _ADAM7 if header.interlaced else ((0, 0, 1, 1),)
    sizes = []
    for x, y, step_x, step_y in passes:
        width = len(range(x, header.width, step_x))
        height = len(range(y, header.height, step_y))
        if width and height:
            sizes.append((height, (width * bits + 7) // 8))
    return sizes


def _pixel_data(data: bytes) -> bytes:
    """The joined IDAT chunks of a checked PNG."""
    chunks, start, kind = [], len(SIGNATURE), b""
    while kind != b"IEND":
        (length,), kind = struct.unpack_from(">I", data, start), data[start + 4 : start + 8]
        if kind == b"IDAT":
            chunks.append(data[start + 8 : start + 8 + length])
        start += 12 + length
    return b"".join(chunks)


def decode_ids(data: bytes, header: PngHeader) -> NDArray[np.uint32]:
    """The (H, W) map of R + 256 G + 65536 B of an 8-bit RGB PNG; an alpha channel is ignored.

    kornia decodes it: 0.3 ms of CPU for 640 x 480 pixels, where libpng (OpenCV, Pillow) takes 2.4.
    Where kornia has no wheel, OpenCV does.

    Raises:
        ValueError: another kind of PNG, or damaged pixels.
    """
    import cv2

    if header.bit_depth != 8 or header.color_type not in (_RGB, _RGBA):
        raise ValueError("not an 8-bit RGB PNG, so its pixels hold no segment ids")
    try:
        from kornia_rs import io as kornia_io
    except ImportError:
        rgba = _decode_by_opencv(data, header)
    else:
        mode = "rgb" if header.color_type == _RGB else "rgba"
        try:
            pixels = kornia_io.decode_image_png_u8(data, (header.height, header.width), mode)
        except Exception as error:  # the library raises no narrower type
            raise ValueError(f"cannot be decoded ({error})") from error
        rgba = cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA) if mode == "rgb" else pixels
    # run lengths are column-major; transposing here takes a third of NumPy's time later
    ids: NDArray[np.uint32] = cv2.transpose(rgba.view(np.int32)[..., 0]).view("<u4").T
    return np.bitwise_and(ids, np.uint32(0xFFFFFF), out=ids)


def _decode_by_opencv(data: bytes, header: PngHeader) -> NDArray[np.uint8]:
    """The (H, W, 4) RGBA pixels of an 8-bit RGB or RGBA PNG; ValueError if they are damaged."""
    import cv2

    check_rows(data, header)  # OpenCV leaves missing rows black
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("cannot be decoded")
    has_alpha = pixels.shape[2] == 4
    code = cv2.COLOR_BGRA2RGBA if has_alpha else cv2.COLOR_BGR2RGBA
    return np.asarray(cv2.cvtColor(pixels, code), np.uint8)


def decode_indices(data: bytes, header: PngHeader) -> NDArray[Any]:
    """The (H, W) uint8 or uint16 indices of a gray (1, 2, 4, 8, 16 bit) or palette PNG.

    Raises:
        ValueError: an RGB PNG, whose colors are not indices, or damaged pixels.
    """
    check_rows(data, header)
    if header.color_type == _PALETTE:
        return _palette_indices(data)
    if header.color_type != _GRAY:
        raise ValueError(
            "an RGB PNG, neither gray nor palette: its colors are not indices "
            "(with `R G B name` lines in its list of classes they are read as classes)"
        )
    import cv2

    pixels: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("cannot be decoded")
    # decoders spread 1-, 2- and 4-bit grays over 0-255
    depth = header.bit_depth
    return pixels // np.uint8(255 // (2**depth - 1)) if depth < 8 else pixels


def _palette_indices(data: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        return np.asarray(Image.open(io.BytesIO(data), formats=("PNG",)), np.uint8)
    except Exception as error:  # Pillow raises many types on damaged input
        raise ValueError(f"cannot be decoded ({error})") from error
