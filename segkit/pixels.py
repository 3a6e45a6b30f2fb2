"""The pixels of an image file, as they are stored."""

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError


def decode_rgb(data: bytes, *, file: object, record: str | None = None, mend: str) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB; EXIF orientation is ignored, as labels ignore it.

    Args:
        data: the file's bytes.
        file: its name, for the error.
        record: the sample that shows it, for the error.
        mend: what the user can do where it cannot be decoded.

    Raises:
        InputError: the bytes are no image.
    """
    import cv2

    try:
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # of no bytes at all, and of sizes beyond all measure
        found = None
    if found is None:
        raise InputError("the image cannot be decoded", file=file, record=record, mend=mend)
    rgb: NDArray[np.uint8] = cv2.cvtColor(found, cv2.COLOR_BGR2RGB)
    return rgb
