"""Read and write Label Studio's run lengths of brush masks.

The format (`rle` of `brushlabels`, written by its package @thi.ng/rle-pack): a stream of bits, the
highest of each byte first. Header: 32 bits number of values, 5 bits size of a value minus 1, four
times 4 bits size of a length minus 1. Then blocks: 1 bit whether one value is repeated, 2 bits
which size the length has, the length minus 1, and one value or `length` values. Values are the
bytes of an RGBA image, row by row; alpha says which pixels are painted.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_CHANNELS = 4
_VALUE_BITS = 8
_LENGTH_BITS = (3, 4, 8, 16)
_HEADER_BITS = 32 + 5 + 4 * len(_LENGTH_BITS)
_MIN_ALPHA = 128  # half of full opacity


def decode(numbers: Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """The (H, W) mask of the painted pixels: alpha of at least one half.

    Args:
        numbers: bytes, 0-255.
        height: of the image, pixels.
        width: of the image, pixels.

    Raises:
        ValueError: a number is not a byte, the stream breaks off, its values are not bytes, or
            they do not fill an RGBA image of this size.
    """
    try:
        data = bytes(numbers)
    except (TypeError, ValueError) as error:
        raise ValueError("run lengths are not bytes") from error
    if 8 * len(data) < _HEADER_BITS:
        raise ValueError("run lengths break off")
    bits = _Bits(data)
    count = bits.read(32)
    if count != _CHANNELS * height * width:
        raise ValueError(f"{count} values do not fill an RGBA image of {width} x {height} pixels")
    if bits.read(5) + 1 != _VALUE_BITS:
        raise ValueError("values of run lengths are not bytes")
    sizes = [bits.read(4) + 1 for _ in _LENGTH_BITS]
    values, lengths = bits.blocks(count, sizes)
    # alpha is each fourth value: keep the runs that reach one, without unpacking the image
    ends = np.cumsum(lengths)
    first, last = (ends - lengths) // _CHANNELS, ends // _CHANNELS
    return np.repeat(values >= _MIN_ALPHA, last - first).reshape(height, width)


def encode(mask: NDArray[np.bool_]) -> list[int]:
    """The run lengths of a (H, W) mask: painted pixels are opaque white, the others 0."""
    flat = np.asarray(mask, bool).reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate(([0], edges, [flat.size])) * _CHANNELS
    words = [
        f"{flat.size * _CHANNELS:032b}{_VALUE_BITS - 1:05b}",
        *(f"{size - 1:04b}" for size in _LENGTH_BITS),
    ]
    longest = 2 ** _LENGTH_BITS[-1]
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        value = 255 if flat[start // _CHANNELS] else 0
        for first in range(start, end, longest):
            words.append(_block(min(longest, end - first), value))
    text = "".join(words)
    text += "0" * (-len(text) % 8)
    # Python limits the digits of decimal integers only; a binary one is read in linear time
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def _block(length: int, value: int) -> str:
    """The bits of one repeated value."""
    which = next(i for i, size in enumerate(_LENGTH_BITS) if length <= 2**size)
    return f"1{which:02b}{length - 1:0{_LENGTH_BITS[which]}b}{value:08b}"


class _Bits:
    """A stream of bits."""

    def __init__(self, data: bytes) -> None:
        self._data, self._position, self._end = data, 0, 8 * len(data)

    def read(self, count: int) -> int:
        """The next bits, at most 32, as a number; ValueError at the end of the stream."""
        position = self._position
        if position + count > self._end:
            raise ValueError("run lengths break off")
        self._position = position + count
        first = position >> 3
        window = int.from_bytes(self._data[first : first + 5].ljust(5, b"\0"), "big")
        return (window >> (40 - (position & 7) - count)) & ((1 << count) - 1)

    def blocks(self, count: int, sizes: Sequence[int]) -> tuple[Ints, Ints]:
        """Values and their lengths until `count` values are read."""
        values, lengths = list[int](), list[int]()
        done, read = 0, self.read
        while done < count:
            repeated = read(1)
            length = read(sizes[read(2)]) + 1
            done += length
            if done > count:
                raise ValueError("run lengths exceed the image")
            if repeated:
                values.append(read(_VALUE_BITS))
                lengths.append(length)
            else:
                values.extend(read(_VALUE_BITS) for _ in range(length))
                lengths.extend([1] * length)
        return np.array(values, np.int64), np.array(lengths, np.int64)
