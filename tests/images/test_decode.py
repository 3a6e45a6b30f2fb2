import os
import resource
import struct

import cv2
import numpy as np
import pytest

from segkit.errors import InputError
from segkit.images.decode import decode_rgb
from segkit.images.png import MAX_PIXELS


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_the_error_of_invalid_bytes_names_the_file(data: bytes) -> None:
    with pytest.raises(InputError) as error:
        decode_rgb(data, file="photos/a.jpg", record="a", hint="replace the file")
    assert str(error.value) == "photos/a.jpg: a: the image cannot be decoded; replace the file"


def test_channels_are_red_green_blue() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    stored = cv2.imencode(".png", pixels[:, :, ::-1])[1].tobytes()
    assert (decode_rgb(stored, file="a.png", hint="") == pixels).all()


def test_claimed_sizes_are_refused_before_memory_is_taken() -> None:
    small = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    frame = small.index(b"\xff\xc0") + 5
    large = small[:frame] + struct.pack(">HH", 30_000, 30_000) + small[frame + 4 :]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="cannot be decoded"):
        decode_rgb(large, file="a.jpg", hint="")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB
    assert int(os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"]) == MAX_PIXELS


def test_a_png_with_a_wrong_checksum_is_refused_without_a_word_of_libpng(
    capfd: pytest.CaptureFixture[str],
) -> None:
    data = bytearray(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    data[-16] ^= 1
    with pytest.raises(InputError, match="cannot be decoded"):
        decode_rgb(bytes(data), file="a.png", hint="")
    assert capfd.readouterr().err == ""
