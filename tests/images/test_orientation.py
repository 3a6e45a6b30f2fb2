import io

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from segkit.images.check import check_image
from segkit.images.orientation import orientation, turn, turned_png, without_orientation

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP")
ORIENTATIONS = range(1, 9)


def pixels(height: int = 40, width: int = 56) -> NDArray[np.uint8]:
    """Four quarters of different colors, smooth enough for a JPEG."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (200, 40, 40)
    image[: height // 2, width // 2 :] = (40, 200, 40)
    image[height // 2 :, : width // 2] = (40, 40, 200)
    return image


def photo(number: int, form: str = "JPEG", stored: NDArray[np.uint8] | None = None) -> bytes:
    """An image file with an orientation."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = number
    exif[0x010F] = "maker"  # another entry before it
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100}}.get(form, {})
    Image.fromarray(pixels() if stored is None else stored).save(file, form, exif=exif, **options)
    return file.getvalue()


def read(data: bytes) -> NDArray[np.uint8]:
    """As a program that knows no EXIF reads a file, and one that does: they must agree."""
    array = np.frombuffer(data, np.uint8)
    ignoring = cv2.imdecode(array, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    applying = cv2.imdecode(array, cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(ignoring, applying)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert shown.shape == ignoring.shape
    return cv2.cvtColor(ignoring, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


def displayed(data: bytes) -> NDArray[np.uint8]:
    """As Pillow turns it."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


@pytest.mark.parametrize("form", [*FORMATS, "AVIF"])
@pytest.mark.parametrize("number", ORIENTATIONS)
def test_a_photo_turns_as_pillow_turns_it(number: int, form: str) -> None:
    data = photo(number, form)
    assert orientation(data) == number
    png = turned_png(data, number)
    assert png.startswith(b"\x89PNG") and orientation(png) == 1
    difference = np.abs(read(png).astype(int) - displayed(data))
    assert difference.max() <= (2 if form == "JPEG" else 0)  # two decoders of a JPEG


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("number", ORIENTATIONS)
def test_the_tag_goes_and_the_stored_pixels_stay(number: int, form: str) -> None:
    data = photo(number, form)
    plain = without_orientation(data)
    assert orientation(plain) == 1
    np.testing.assert_array_equal(read(plain), read(photo(1, form)))
    assert len(plain) == len(data) and sum(a != b for a, b in zip(plain, data, strict=True)) <= 5
    check_image(plain, f".{form.lower()}")  # its checksums are right


@pytest.mark.parametrize("number", ORIENTATIONS)
def test_turning_a_jpeg_loses_nothing(number: int) -> None:
    """The PNG holds exactly the turned pixels that training would decode from the JPEG."""
    stored = np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8)
    data = photo(number, "JPEG", stored)
    decoded = read(without_orientation(data))
    np.testing.assert_array_equal(read(turned_png(data, number)), turn(decoded, number))


def test_16_bits_stay_16_bits() -> None:
    stored = np.arange(12 * 20, dtype=np.uint16).reshape(12, 20) * 200
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(file, "PNG", exif=exif)
    array = np.frombuffer(turned_png(file.getvalue(), 6), np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(array, cv2.IMREAD_UNCHANGED), np.rot90(stored, k=-1))


def test_an_orientation_outside_the_tag_goes_too() -> None:
    """Pillow reads XMP where EXIF has no orientation."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="6"/></x:xmpmeta>'
    file = io.BytesIO()
    Image.fromarray(pixels()).save(file, "JPEG", xmp=xmp)
    data = file.getvalue()
    assert orientation(data) == 6
    plain = without_orientation(data)
    assert orientation(plain) == 1 and read(plain).shape == pixels().shape


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_values_that_mean_nothing_are_ignored(value: int) -> None:
    assert orientation(photo(value)) == 1


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_files_have_no_orientation_or_one(form: str) -> None:
    """No input makes the functions that look for the tag fail or run on."""
    rng = np.random.default_rng(1)
    data = photo(6, form)
    for _ in range(60):
        damaged = bytearray(data[: int(rng.integers(1, len(data)))])
        for place in rng.integers(0, len(damaged), 4):
            damaged[place] = rng.integers(256)
        assert orientation(bytes(damaged)) in ORIENTATIONS
