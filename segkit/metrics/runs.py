"""COCO run lengths of many masks at once: every step is one array operation over all masks of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Runs:
    """Foreground runs of S masks, mask after mask."""

    start: Ints
    """(R,) first pixel of each run, in column-major order of its own image."""
    end: Ints
    """(R,) one past the last pixel; never equal to `start`."""
    mask: Ints
    """(R,) index of the mask, non-decreasing."""
    total: Ints
    """(S,) pixels that the counts of each mask add up to (foreground and background)."""

    def area(self) -> Ints:
        """(S,) foreground pixels of each mask."""
        lengths = np.bincount(self.mask, weights=self.end - self.start, minlength=len(self.total))
        return lengths.astype(np.int64)


def join(counts: Sequence[bytes]) -> tuple[Bytes, Ints]:
    """Compressed counts in one buffer (B,) and the S + 1 offsets at which each begins and ends."""
    lengths = np.fromiter((len(text) for text in counts), np.int64, len(counts))
    return np.frombuffer(b"".join(counts), np.uint8), np.concatenate(([0], np.cumsum(lengths)))


def decode_runs(buffer: Bytes, offsets: Ints) -> Runs:
    """Decode COCO compressed counts.

    The format (maskApi.c of the COCO API): a number is a little-endian chain of 5-bit groups, each stored as a
    character from 48 on; bit 5 says that another group follows and bit 4 of the last group is the sign; from the
    fourth number of a mask on, the number is the difference to the number two before.

    Args:
        buffer: (B,) bytes of all masks, one after another.
        offsets: (S + 1,) where each mask begins; the last is B.
    """
    values, mask = _numbers(buffer, offsets)
    edges = _cumulative(_undo_differences(values, mask), mask)
    first = np.searchsorted(mask, np.arange(len(offsets)))
    last = first[1:] - 1
    total = np.zeros(len(offsets) - 1, np.int64)
    present = first[1:] > first[:-1]
    total[present] = edges[last[present]]
    foreground = np.flatnonzero((np.arange(len(values)) - first[mask]) % 2)
    start, end, owner = edges[foreground - 1], edges[foreground], mask[foreground]
    filled = end > start
    return Runs(start[filled], end[filled], owner[filled], total)


def _numbers(buffer: Bytes, offsets: Ints) -> tuple[Ints, Ints]:
    """Signed numbers of all masks and the mask each belongs to."""
    groups = buffer - np.uint8(48)
    last = np.flatnonzero((groups & 0x20) == 0)
    first = np.concatenate(([0], last[:-1] + 1)) if len(last) else last
    length = last - first + 1
    value = (groups[first] & 0x1F).astype(np.int64)
    for position in range(1, int(length.max(initial=0))):
        longer = np.flatnonzero(length > position)
        value[longer] |= (groups[first[longer] + position] & 0x1F).astype(np.int64) << (5 * position)
    negative = np.flatnonzero(groups[last] & 0x10)
    value[negative] -= np.int64(1) << (5 * length[negative])
    return value, np.searchsorted(offsets, first, side="right") - 1


def _undo_differences(values: Ints, mask: Ints) -> Ints:
    """Counts from numbers: odd and even positions are two chains of running sums, the first number stands alone."""
    begin = np.flatnonzero(np.diff(mask, prepend=-1))
    place = np.arange(len(values)) - np.repeat(begin, np.diff(np.append(begin, len(values))))
    counts = values.copy()
    for chain in (np.flatnonzero(place % 2 == 1), np.flatnonzero((place % 2 == 0) & (place > 0))):
        counts[chain] = _cumulative(values[chain], mask[chain])
    return counts


def _cumulative(values: Ints, group: Ints) -> Ints:
    """Running sum that begins anew with each group (`group` is non-decreasing)."""
    sums = np.cumsum(values)
    begin = np.flatnonzero(np.diff(group, prepend=-1))
    base = sums[begin] - values[begin]
    return sums - np.repeat(base, np.diff(np.append(begin, len(values))))
