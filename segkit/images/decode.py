"""Decode the pixels of an image file as they are stored, without its EXIF orientation."""

import io
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.images.png import SIGNATURE, check_png

_PLUGINS = {
    "JPEG": "Jpeg",
    "PNG": "Png",
    "BMP": "Bmp",
    "TIFF": "Tiff",
    "WEBP": "WebP",
    "PPM": "Ppm",
    "GIF": "Gif",
    "JPEG2000": "Jpeg2K",
    "AVIF": "Avif",
}
"""Pillow's name of each format that is read, and of the plugin that reads it."""


@cache
def formats() -> tuple[str, ...]:
    """The formats that this Pillow reads; it has AVIF from 11.3 on."""
    names = []
    for name, plugin in _PLUGINS.items():
        with suppress(ImportError):
            import_module(f"PIL.{plugin}ImagePlugin")  # it registers itself
            names.append(name)
    return tuple(names)


def open_image(data: bytes) -> Any:
    """Open an image with Pillow, in the stated formats only: on some it runs programs (EPS)."""
    from PIL import Image

    return Image.open(io.BytesIO(data), formats=formats())


def decode_rgb(
    data: bytes, *, file: object, record: str | None = None, hint: str
) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB; arguments and errors as `decode`."""
    import cv2

    bgr = decode(data, cv2.IMREAD_COLOR, file=file, record=record, hint=hint)
    rgb: NDArray[np.uint8] = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return rgb


def decode(
    data: bytes, flags: int, *, file: object, record: str | None = None, hint: str
) -> NDArray[Any]:
    """The pixels that OpenCV decodes; labels ignore EXIF orientation, so it is ignored here.

    Args:
        data: the file's bytes.
        flags: OpenCV's, for channels (colors are BGR) and size.
        file: its name, for the error.
        record: the sample that shows it, for the error.
        hint: what the user can do if it cannot be decoded.

    Raises:
        InputError: the bytes are not an image.
    """
    import cv2

    decoded = None
    try:
        if data.startswith(SIGNATURE):
            check_png(data)  # libpng prints to stderr on a wrong checksum
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except (cv2.error, ValueError):  # no bytes at all, or a size that OpenCV refuses
        pass
    if decoded is None:
        raise InputError("the image cannot be decoded", file=file, record=record, hint=hint)
    pixels: NDArray[Any] = decoded
    return pixels


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from the header of an image file; None where it is not an image."""
    try:
        size: tuple[int, int] = open_image(data).size
    except Exception:  # decoders raise many types on damaged input
        return None
    return size
