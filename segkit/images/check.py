"""Check that an image file is complete, without keeping its pixels."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.images.decode import decode, decode_rgb, formats, open_image
from segkit.images.orientation import TAG, orientation, without_orientation
from segkit.images.png import MAX_PIXELS, SIGNATURE, check_png, check_rows

IMAGE_EXTENSIONS = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm"),
        *(".avif", ".gif", ".jp2"),
    }
)
"""Extensions of the files in a folder that count as images."""
_FORMAT_EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "MPO": (".jpg", ".jpeg", ".mpo"),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx"),
}
_ANIMATED = frozenset({"GIF", "WEBP", "AVIF"})
_RECENT = frozenset({"GIF", "AVIF", "JPEG2000"})
"""Formats that some builds of OpenCV do not decode."""
_END_MARKER = b"\xff\xd9"
_MORE_DATA = b"".join(bytes([*range(250), 0xFF, 0xD0 + number]) for number in range(8))
"""Entropy-coded data, with every restart marker."""
_MID_GRAY = 128
_DARK = 1 << 14
"""A 16-bit image whose values are all lower is shown nearly black: 16-bit values become 8-bit ones
by division by 256."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image file that decodes to its end."""

    width: int
    height: int
    """As stored, before any EXIF orientation."""
    warnings: tuple[str, ...]
    """Ledger codes: `exif-orientation`, `wrong-extension`."""
    orientation: int = 1
    """As of `segkit.images.orientation`."""


def check_image(data: bytes, extension: str) -> ImageInfo:
    """Decode an image far enough to know that it is complete and that training can read it.

    Only JPEG, PNG, BMP, TIFF, WebP, PPM, AVIF, GIF and JPEG 2000 are opened, whatever the
    extension. A JPEG is decoded at one eighth of its size: that still reads the entropy-coded
    stream to its end, where truncation and damage show, and saves the inverse transforms at full
    size (640 x 480: 0.43 ms of CPU instead of 0.72 ms). Of a PNG, all rows are inflated. Other
    formats are decoded in full, also by the decoder of training. An animation (GIF, WebP, AVIF) is
    refused, since labels fit one of its frames.

    Args:
        data: the file's bytes.
        extension: of the file's name, in lower case, with its dot.

    Raises:
        ValueError: the bytes are not an image in one of these formats, or damaged; in words that
            complete a sentence about the file.
    """
    try:
        return _check(data, extension)
    except Exception as error:  # decoders raise many types, SyntaxError and struct.error among them
        raise ValueError(_reason(error)) from error


def _check(data: bytes, extension: str) -> ImageInfo:
    if not data:
        raise ValueError("the file is empty")
    header = check_png(data) if data.startswith(SIGNATURE) else None
    with warnings.catch_warnings(action="ignore"):  # Pillow warns from half of its limit on
        image = open_image(data)
    width, height = image.size
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"the header claims {width} x {height} pixels")
    if image.format in _ANIMATED and getattr(image, "is_animated", False):
        raise ValueError("an animation; save the frame that the labels fit as a PNG")
    codes = []
    if header is not None:
        check_rows(data, header)
    # Pillow decodes a PNG to find EXIF data behind its pixels
    has_exif = header is None or b"eXIf" in data or b"Raw profile type" in data
    turned = orientation(data) if has_exif and image.getexif().get(TAG, 1) not in (0, 1) else 1
    if turned != 1:
        codes.append("exif-orientation")
        if image.format == "TIFF":  # its decoders turn it: without the tag, it is as stored
            data = without_orientation(data)
            image = open_image(data)
            width, height = image.size
    if extension not in _FORMAT_EXTENSIONS.get(str(image.format), (extension,)):
        codes.append("wrong-extension")
    if image.format in ("JPEG", "MPO"):
        _check_jpeg(image, data)
    elif header is None or not header.is_plain:
        image.load()
        codes += _check_with_opencv(data, width, height, str(image.format))
    return ImageInfo(width, height, tuple(codes), turned)


def _check_jpeg(image: Any, data: bytes) -> None:
    """Decode a JPEG; ValueError if its data end before its pixels, even at an end marker.

    Decoders fill the rest of a baseline JPEG with mid-gray and say nothing. Whether such a corner
    belongs to the picture shows when more data are put before the end marker: a decoder reads them
    only if pixels are missing. A progressive JPEG has no such sign: its pixels are always compared.
    """
    progressive = bool(image.info.get("progressive"))
    if progressive:
        pixels = np.asarray(image)
    else:
        pixels = _eighth(image)
        if (pixels[-1, -1] != _MID_GRAY).any():
            return
    end = data.rfind(_END_MARKER)
    if end < 0:
        return
    longer = open_image(data[:end] + _MORE_DATA + data[end:])
    if not np.array_equal(pixels, np.asarray(longer) if progressive else _eighth(longer)):
        raise ValueError("the JPEG data end before the last pixel")


def _eighth(image: Any) -> NDArray[np.uint8]:
    """A JPEG at one eighth of its size, in gray where it has colors."""
    mode = "L" if image.mode in ("L", "RGB") else image.mode
    image.draft(mode, (max(1, image.width // 8), max(1, image.height // 8)))
    return np.asarray(image)


def _check_with_opencv(data: bytes, width: int, height: int, format_name: str) -> list[str]:
    """Decode an image as training does; returns codes of warnings, ValueError if that fails."""
    import cv2

    try:
        shown = decode_rgb(data, file="", hint="")
        pixels = decode(data, cv2.IMREAD_UNCHANGED, file="", hint="")
    except (InputError, cv2.error):
        remedy = "save them with 8 or 16 bits a channel"
        if format_name in _RECENT:
            remedy = f"save them as a PNG, or update OpenCV {cv2.__version__}"
        raise ValueError(f"OpenCV cannot decode such pixels of {format_name}; {remedy}") from None
    if pixels.shape[:2] != (height, width):
        raise ValueError(f"OpenCV decodes {pixels.shape[1]} x {pixels.shape[0]} pixels")
    # the 10 and 12 bits of an AVIF come as they are, but its 8-bit pixels are scaled
    dark = pixels.dtype == np.uint16 and 0 < int(pixels.max()) < _DARK and shown.max() <= _DARK >> 8
    return ["dark-16-bit"] if dark else []


def _reason(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "cannot identify" in text:
        return f"not an image in a format that is read ({', '.join(formats())})"
    return f"cannot be decoded ({text})"
