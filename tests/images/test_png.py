import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.images.png import check_png


def png(width: int, height: int) -> bytes:
    """A PNG whose header claims a size, with one pixel in it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0\0"))
        + chunk(b"IEND", b"")
    )


PNG = png(1, 1)


@given(st.integers(0, 10**6), st.integers(0, 7))
def test_any_flipped_bit_of_a_png_is_detected(place: int, bit: int) -> None:
    data = bytearray(PNG)
    data[place % len(PNG)] ^= 1 << bit
    with pytest.raises(ValueError, match=r"PNG"):
        check_png(bytes(data))
