"""Check that an image file is complete, without keeping its pixels."""

import io
import warnings
from dataclasses import dataclass

from segkit.images.png import SIGNATURE, check_png

IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm"}
)
"""Extensions of the files in a folder that count as images."""
_FORMAT_EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "MPO": (".jpg", ".jpeg", ".mpo"),
}
_ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image file that decodes to its end."""

    width: int
    height: int
    """As stored, before any EXIF orientation."""
    warnings: tuple[str, ...]
    """Ledger codes: `exif-orientation`, `wrong-extension`."""


def check_image(data: bytes, extension: str) -> ImageInfo:
    """Decode an image far enough to know that it is complete.

    A JPEG is decoded at one eighth of its size: that still reads the entropy-coded stream to its
    end, where truncation and damage show, and saves the inverse transforms at full size (640 x 480:
    0.43 ms of CPU instead of 0.72 ms). Other formats are decoded in full.

    Args:
        data: the file's bytes.
        extension: of the file's name, in lower case, with its dot.

    Raises:
        ValueError: the bytes are not an image, or damaged; in words that complete a sentence about
            the file.
    """
    try:
        return _check(data, extension)
    except Exception as error:  # decoders raise many types, SyntaxError and struct.error among them
        raise ValueError(_reason(error)) from error


def _check(data: bytes, extension: str) -> ImageInfo:
    from PIL import Image

    if not data:
        raise ValueError("the file is empty")
    if data.startswith(SIGNATURE):
        check_png(data)
    with warnings.catch_warnings(action="ignore"):  # Pillow warns from half of its limit on
        image = Image.open(io.BytesIO(data))
    width, height = image.size
    codes = []
    if image.getexif().get(_ORIENTATION, 1) not in (0, 1):
        codes.append("exif-orientation")
    if extension not in _FORMAT_EXTENSIONS.get(str(image.format), (extension,)):
        codes.append("wrong-extension")
    if image.format in ("JPEG", "MPO"):
        mode = "L" if image.mode in ("L", "RGB") else image.mode
        image.draft(mode, (max(1, width // 8), max(1, height // 8)))
    image.load()
    return ImageInfo(width, height, tuple(codes))


def _reason(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "cannot identify" in text:
        return "not an image in any known format"
    return f"cannot be decoded ({text})"
