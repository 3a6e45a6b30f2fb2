"""The pixels of an image file, as they are stored."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError


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
    """What OpenCV makes of an image file; EXIF orientation is ignored, as labels ignore it.

    Args:
        data: the file's bytes.
        flags: OpenCV's, for channels (colors are BGR) and size.
        file: its name, for the error.
        record: the sample that shows it, for the error.
        hint: what the user can do where it cannot be decoded.

    Raises:
        InputError: the bytes are no image.
    """
    import cv2

    try:
        found = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # of no bytes at all, and of sizes beyond all measure
        found = None
    if found is None:
        raise InputError("the image cannot be decoded", file=file, record=record, hint=hint)
    pixels: NDArray[Any] = found
    return pixels
