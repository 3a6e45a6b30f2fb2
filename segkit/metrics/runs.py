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
    """(R,) first pixel of each run, in column-major order, counted from the `base` of its mask."""
    end: Ints
    """(R,) one past the last pixel; never equal to `start`."""
    mask: Ints
    """(R,) index of the mask, non-decreasing."""
    area: Ints
    """(S,) foreground pixels of each mask."""
    total: Ints
    """(S,) pixels that the counts of each mask add up to (foreground and background)."""


def join(counts: Sequence[bytes]) -> tuple[Bytes, Ints]:
    """Compressed counts in one buffer (B,) and the S + 1 offsets at which each begins and ends."""
    lengths = np.fromiter(map(len, counts), np.int64, len(counts))
    return np.frombuffer(b"".join(counts), np.uint8), np.concatenate(([0], np.cumsum(lengths)))


def decode_runs(buffer: Bytes, offsets: Ints, base: Ints | None = None) -> Runs:
    """Decode COCO compressed counts.

    The format (maskApi.c of the COCO API): a number is a little-endian chain of 5-bit groups, each stored as a
    character from 48 on; bit 5 says that another group follows and bit 4 of the last group is the sign; from the
    fourth number of a mask on, the number is the difference to the number two before.

    Args:
        buffer: (B,) bytes of all masks, one after another.
        offsets: (S + 1,) where each mask begins; the last is B.
        base: (S,) number of each mask's first pixel; None: 0.
    """
    numbers, each = _numbers(buffer, offsets)
    rows = (each + 1) // 2
    first = np.concatenate(([0], np.cumsum(rows)))
    present = np.flatnonzero(rows)
    begin, last, many = first[present], first[present + 1] - 1, rows[present]
    gap, run = _gaps_and_runs(numbers, each, begin, first)
    area, total = np.zeros(len(each), np.int64), np.zeros(len(each), np.int64)
    if len(present):
        area[present] = np.add.reduceat(run, begin)
        end = np.cumsum(gap + run)
        before = end[begin] - gap[begin] - run[begin]
        total[present] = end[last] - before
        end -= np.repeat(before if base is None else before - base[present], many)
    else:
        end = run
    mask = np.repeat(np.arange(len(each)), rows)
    if np.count_nonzero(run) < len(run):
        filled = np.flatnonzero(run)
        end, run, mask = end[filled], run[filled], mask[filled]
    return Runs(end - run, end, mask, area, total)


def _numbers(buffer: Bytes, offsets: Ints) -> tuple[Ints, Ints]:
    """Signed numbers of all masks, and how many each mask has."""
    groups = buffer - np.uint8(48)
    last = np.flatnonzero(groups < 32)
    final = groups[last]
    value = _SIGNED[final]
    back, longer = 1, np.flatnonzero(groups[last - 1] >= 32)  # before the first comes the last, which ends a number
    while len(longer):
        group = groups[last[longer] - back]
        value[longer] = (value[longer] << 5) | (group & 0x1F)
        back += 1
        longer = longer[groups[last[longer] - back] >= 32]
    return value, np.diff(np.searchsorted(last, offsets))


_SIGNED = np.concatenate((np.arange(16), np.arange(-16, 0))).astype(np.int64)
"""Value of the last group of a number: five bits, two's complement."""


def _gaps_and_runs(numbers: Ints, each: Ints, begin: Ints, first: Ints) -> tuple[Ints, Ints]:
    """Background and foreground counts in pairs; a mask with an odd count of numbers ends with an empty run."""
    odd = first[1:][each % 2 == 1] - 1
    kept = np.ones(2 * int(first[-1]), np.bool_)
    kept[2 * odd + 1] = False
    pairs = np.zeros(len(kept), np.int64)
    pairs[kept] = numbers
    gap, run = pairs[0::2].copy(), pairs[1::2].copy()
    lead = gap[begin]
    gap[begin] = 0  # the first number stands alone: the second gap is no difference to it
    for chain in (gap, run):
        if len(begin):
            chain[begin[1:]] -= np.add.reduceat(chain, begin)[:-1]  # so that the running sum begins anew
            np.cumsum(chain, out=chain)
    gap[begin] = lead
    run[odd] = 0
    return gap, run


def boxes(runs: Runs, height: int) -> list[tuple[float, float, float, float]]:
    """Tight boxes (x, y, width, height) of S masks of images `height` pixels tall; zeros where a mask is empty."""
    made = np.zeros((len(runs.total), 4))
    if len(runs.mask):
        left, top = np.divmod(runs.start, height)
        right, bottom = np.divmod(runs.end - 1, height)
        across = left != right  # a run over several columns touches the top and the bottom row
        top[across], bottom[across] = 0, height - 1
        begin = np.flatnonzero(np.diff(runs.mask, prepend=-1))
        x, y = np.minimum.reduceat(left, begin), np.minimum.reduceat(top, begin)
        sides = (x, y, np.maximum.reduceat(right, begin) - x + 1, np.maximum.reduceat(bottom, begin) - y + 1)
        made[runs.mask[begin]] = np.stack(sides, axis=1)
    return [(x, y, w, h) for x, y, w, h in made.tolist()]
