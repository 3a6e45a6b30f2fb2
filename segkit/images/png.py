"""Check PNG files, and decode those that hold labels: ids or colors in RGB, indices in gray."""

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
_GRAY, _RGB, _PALETTE, _GRAY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_CHANNELS = {_GRAY: 1, _RGB: 3, _PALETTE: 1, _GRAY_ALPHA: 2, _RGBA: 4}
_NAMES = {
    _GRAY: "a gray PNG",
    _RGB: "an RGB PNG",
    _PALETTE: "a PNG with a palette",
    _GRAY_ALPHA: "a gray PNG with an alpha channel",
    _RGBA: "an RGB PNG",
}
_DEPTHS = {
    *((_GRAY, depth) for depth in (1, 2, 4, 8, 16)),
    *((_PALETTE, depth) for depth in (1, 2, 4, 8)),
    *((color, depth) for color in (_RGB, _GRAY_ALPHA, _RGBA) for depth in (8, 16)),
}
"""The pairs of color type and bit depth that PNG defines."""
_MAX_FILTER = 4
_ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
"""(first column, first row, column step, row step) of the passes of an interlaced PNG."""


class PixelTypeError(ValueError):
    """An undamaged PNG whose pixels are of another type than the labels of its data set."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


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

    @property
    def kind(self) -> str:
        """The type of the pixels, in words."""
        name = _NAMES.get(self.color_type, f"a PNG of color type {self.color_type}")
        return f"{name} of 16 bits" if self.bit_depth > 8 else name


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
        PixelTypeError: another kind of PNG.
        ValueError: damaged pixels.
    """
    import cv2

    if not _is_rgb(header):
        message = f"{header.kind}, not an 8-bit RGB one: its pixels hold no segment ids"
        raise PixelTypeError(message, "write ids as R + 256 G + 65536 B in an 8-bit RGB PNG")
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


def decode_colors(data: bytes, header: PngHeader) -> NDArray[np.uint32]:
    """The (H, W) map of R + 256 G + 65536 B of an 8-bit RGB or palette PNG, without its alpha.

    Raises:
        PixelTypeError: another kind of PNG.
        ValueError: damaged pixels.
    """
    if header.color_type == _PALETTE:
        check_rows(data, header)
        indices, palette = _palette_pixels(data)
        if indices.max() >= len(palette):
            raise ValueError(f"index {indices.max()} is not in its palette")
        return (palette @ np.array([1, 1 << 8, 1 << 16], np.uint32))[indices]
    if _is_rgb(header):
        return decode_ids(data, header)
    message = f"{header.kind}, but the list of classes gives colors"
    if header.color_type in (_GRAY, _GRAY_ALPHA):
        hint = "list the classes as `index name`"
        alpha = ", and save the mask without its alpha channel"
        raise PixelTypeError(message, hint + alpha * (header.color_type == _GRAY_ALPHA))
    raise PixelTypeError(message, "save the mask with 8 bits for each of R, G and B")


def _is_rgb(header: PngHeader) -> bool:
    return header.bit_depth == 8 and header.color_type in (_RGB, _RGBA)


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
        PixelTypeError: an RGB PNG, whose colors are not indices, or one with an alpha channel.
        ValueError: damaged pixels.
    """
    check_rows(data, header)
    if header.color_type == _PALETTE:
        return _palette_pixels(data)[0]
    if header.color_type == _GRAY_ALPHA:
        message = f"{header.kind}: its pixels are not indices only"
        raise PixelTypeError(message, "save the mask without its alpha channel")
    if header.color_type != _GRAY:
        message = f"{header.kind}, neither gray nor palette: its colors are not indices"
        colors = "give `segkit convert semantic` a list of classes with their colors (`R G B name`)"
        raise PixelTypeError(message, f"save indices as a gray or palette PNG, or {colors}")
    import cv2

    pixels: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("cannot be decoded")
    # decoders spread 1-, 2- and 4-bit grays over 0-255
    depth = header.bit_depth
    return pixels // np.uint8(255 // (2**depth - 1)) if depth < 8 else pixels


def _palette_pixels(data: bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """The (H, W) indices of a palette PNG, and its palette: (N, 3) red, green and blue."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            palette = np.array(image.getpalette("RGB"), np.uint32).reshape(-1, 3)
            return np.asarray(image, np.uint8), palette
    except Exception as error:  # Pillow raises many types on damaged input
        raise ValueError(f"cannot be decoded ({error})") from error
