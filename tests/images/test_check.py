"""Which image files count as complete, and agreement with the decoder of training."""

import io
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segkit.images.check import check_image
from segkit.images.decode import decode_rgb
from segkit.images.png import check_png, decode_ids, decode_indices


def noise(height: int = 64, width: int = 96, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(pixels: NDArray[Any], kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def png_of_rows(rows: int, color_type: int, channels: int, filter_type: int = 0) -> bytes:
    """A PNG of 48 rows of 64 pixels, with right checksums, that holds only some of its rows."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    body = (bytes([filter_type]) + bytes(range(64)) * channels) * rows
    header = struct.pack(">IIBBBBB", 64, 48, 8, color_type, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(768)) if color_type == 3 else b""
    pixels = chunk(b"IDAT", zlib.compress(body))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + pixels + chunk(b"IEND", b"")


@contextmanager
def kornia_missing() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "kornia_rs", None)
        yield


JPEG_OPTIONS = [
    {},
    {"progressive": True},
    {"subsampling": 0},
    {"restart_marker_rows": 1},
    {"quality": 100},
]


@pytest.mark.parametrize("part", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("options", JPEG_OPTIONS)
def test_a_cut_jpeg_with_an_end_marker_is_found(options: dict[str, Any], part: float) -> None:
    for pixels in (noise(160, 200), noise(160, 200)[..., 0]):
        data = encoded(pixels, "JPEG", **options)
        assert check_image(data, ".jpg").width == 200
        with pytest.raises(ValueError, match="end before the last pixel"):
            check_image(data[: int(len(data) * part)] + b"\xff\xd9", ".jpg")


@pytest.mark.parametrize("options", JPEG_OPTIONS)
@pytest.mark.parametrize("value", [0, 127, 128, 129, 255])
def test_a_complete_gray_jpeg_is_accepted(options: dict[str, Any], value: int) -> None:
    pixels = noise(160, 200)
    pixels[100:] = value
    for trailer in (b"", b"\0\0\0", b"trailer of a camera"):
        assert check_image(encoded(pixels, "JPEG", **options) + trailer, ".jpg").height == 160


@pytest.mark.parametrize(("color_type", "channels"), [(0, 1), (2, 3), (3, 1), (4, 2), (6, 4)])
@pytest.mark.parametrize("rows", [1, 30, 47])
def test_a_png_that_lacks_rows_is_found(color_type: int, channels: int, rows: int) -> None:
    check_image(png_of_rows(48, color_type, channels), ".png")
    short = png_of_rows(rows, color_type, channels)
    with pytest.raises(ValueError, match="lacks rows"):
        check_image(short, ".png")
    if color_type in (0, 3):
        with pytest.raises(ValueError, match="lacks rows"):
            decode_indices(short, check_png(short))
    if color_type in (2, 6):
        with pytest.raises(ValueError, match="decode"):
            decode_ids(short, check_png(short))
        with pytest.raises(ValueError, match="lacks rows"), kornia_missing():
            decode_ids(short, check_png(short))


def test_a_png_of_an_unknown_filter_is_found() -> None:
    with pytest.raises(ValueError, match="unknown filter"):
        check_image(png_of_rows(48, 2, 3, filter_type=9), ".png")


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("options", [{}, {"compress_level": 0}, {"transparency": (1, 2, 3)}])
def test_ids_are_the_same_without_kornia(mode: str, options: dict[str, Any]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (17, 33, len(mode)), np.uint8)
    data = encoded(pixels, "PNG", **(options if mode == "RGB" else {}))
    expected = pixels[..., :3].astype(np.uint32) @ np.array([1, 256, 65536], np.uint32)
    assert np.array_equal(decode_ids(data, check_png(data)), expected)
    with kornia_missing():
        assert np.array_equal(decode_ids(data, check_png(data)), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_pngs_of_every_mode_pass_and_decode(mode: str) -> None:
    for size in ((1, 1), (5, 3), (33, 17)):
        buffer = io.BytesIO()
        Image.new(mode, size).save(buffer, "PNG")
        info = check_image(buffer.getvalue(), ".png")
        assert (info.width, info.height) == size
        assert decode_rgb(buffer.getvalue(), file="x", hint="").shape == (size[1], size[0], 3)


def adam7(width: int, height: int, missing: int = 0) -> bytes:
    """An interlaced gray PNG of zeros, whose pixel data lack some bytes."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2))
    size = 0
    for x, y, right, down in (*passes, (0, 1, 1, 2)):
        columns, rows = len(range(x, width, right)), len(range(y, height, down))
        size += rows * (1 + columns) if columns else 0

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
    pixels = chunk(b"IDAT", zlib.compress(bytes(size - missing)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (8, 8), (13, 9)])
def test_interlaced_pngs_pass_and_lose_no_byte(size: tuple[int, int]) -> None:
    assert check_image(adam7(*size), ".png").width == size[0]
    assert cv2.imdecode(np.frombuffer(adam7(*size), np.uint8), cv2.IMREAD_UNCHANGED) is not None
    with pytest.raises(ValueError, match="lacks rows"):
        check_image(adam7(*size, missing=1), ".png")


@pytest.mark.parametrize("kind", ["TGA", "PCX", "DDS", "SGI", "EPS", "ICO"])
@pytest.mark.parametrize("extension", [".jpg", ".png", ".tif"])
def test_other_formats_are_never_opened(kind: str, extension: str) -> None:
    with pytest.raises(ValueError, match="format that is read"):
        check_image(encoded(noise(), kind), extension)


def test_no_program_runs_on_an_eps(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.Popen", fail)
    with pytest.raises(ValueError, match="format that is read"):
        check_image(encoded(noise(), "EPS"), ".jpg")


@pytest.mark.parametrize(
    "kind", ["BMP", "TIFF", "WEBP", "PPM", "PNG", "JPEG", "AVIF", "GIF", "JPEG2000"]
)
def test_stated_formats_pass_and_decode(kind: str) -> None:
    data = encoded(noise(), kind)
    info = check_image(data, ".x")
    assert decode_rgb(data, file="x", hint="").shape == (info.height, info.width, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_what_training_cannot_decode_is_refused_and_nothing_else(dtype: type) -> None:
    data = encoded(noise()[..., 0].astype(dtype), "TIFF")
    try:
        decode_rgb(data, file="x", hint="")
        readable = True
    except Exception:
        readable = False
    if readable:
        check_image(data, ".tif")
    else:
        with pytest.raises(ValueError, match="OpenCV cannot decode"):
            check_image(data, ".tif")


@pytest.mark.parametrize(
    ("peak", "dark"), [(4095, True), (16383, True), (16384, False), (0, False)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_low_values_of_16_bits_are_said(peak: int, dark: bool, channels: int) -> None:
    pixels = np.full((6, 7, channels), peak, np.uint16)
    for extension in (".png", ".tif"):
        data = cv2.imencode(extension, pixels)[1].tobytes()
        assert ("dark-16-bit" in check_image(data, extension).warnings) == dark


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "PPM"])
def test_claimed_sizes_are_checked_before_decoding(kind: str) -> None:
    if kind == "PPM":
        data = b"P6 40000 40000 255\n" + bytes(300)
    else:
        data = bytearray(encoded(noise(), kind))
        if kind == "BMP":
            data[18:26] = struct.pack("<ii", 40000, 40000)
        else:
            for tag in (256, 257):
                place = data.index(struct.pack("<HH", tag, 4))
                data[place + 8 : place + 12] = struct.pack("<I", 40000)
    with pytest.raises(ValueError, match=r"claims|exceeds limit"):
        check_image(bytes(data), ".x")
