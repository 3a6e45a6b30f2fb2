import cv2
import numpy as np
import pytest

from segkit.errors import InputError
from segkit.images.decode import decode_rgb


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_the_error_of_invalid_bytes_names_the_file(data: bytes) -> None:
    with pytest.raises(InputError) as error:
        decode_rgb(data, file="photos/a.jpg", record="a", hint="replace the file")
    assert str(error.value) == "photos/a.jpg: a: the image cannot be decoded; replace the file"


def test_channels_are_red_green_blue() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    stored = cv2.imencode(".png", pixels[:, :, ::-1])[1].tobytes()
    assert (decode_rgb(stored, file="a.png", hint="") == pixels).all()
