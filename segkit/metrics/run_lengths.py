"""COCO run lengths of many masks at once: every step is one array operation over all masks of a
batch."""

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

    The format (maskApi.c of the COCO API): a number is a little-endian chain of 5-bit groups, each
    stored as a character from 48 on; bit 5 says that another group follows and bit 4 of the last
    group is the sign; from the fourth number of a mask on, the number is the difference to the
    number two before.

    Args:
        buffer: (B,) bytes of all masks, one after another.
        offsets: (S + 1,) where each mask begins; the last is B.
        base: (S,) number of each mask's first pixel; None: 0.
    """
    numbers, each = _numbers(buffer, offsets)
    rows = each // 2
    first = np.concatenate(([0], np.cumsum(rows)))
    present = np.flatnonzero(rows)
    begin, last, many = first[present], first[present + 1] - 1, rows[present]
    gap, run, tail = _gaps_and_runs(numbers, each, begin, first)
    area, total = np.zeros(len(each), np.int64), tail
    end = np.add(gap, run, out=gap).cumsum()
    if len(present):
        area[present] = np.add.reduceat(run, begin)
        before = np.concatenate(([0], end[last[:-1]]))
        total[present] += end[last] - before
        end -= np.repeat(before if base is None else before - base[present], many)
    mask = np.repeat(np.arange(len(each)), rows)
    if np.count_nonzero(run) < len(run):
        filled = np.flatnonzero(run)
        end, run, mask = end[filled], run[filled], mask[filled]
    return Runs(end - run, end, mask, area, total)


def _numbers(buffer: Bytes, offsets: Ints) -> tuple[Ints, Ints]:
    """Signed numbers of all masks, and how many each mask has."""
    groups = buffer - np.uint8(_BASE)
    follows = groups >= _MORE
    last = np.flatnonzero(~follows)
    pair = groups[last - 1].astype(
        np.uint16
    )  # before the first comes the last, which ends a number
    pair &= 2 * _MORE - 1
    pair <<= _BITS
    pair |= groups[last]
    value = _VALUE[pair]
    back, longer = 2, np.unique(np.searchsorted(last, np.flatnonzero(follows[1:] & follows[:-1])))
    while len(longer):
        at = last[longer] - back
        value[longer] = (value[longer] << _BITS) | (groups[at] & (_MORE - 1))
        back += 1
        longer = longer[follows[at - 1]]
    return value, np.diff(np.searchsorted(last, offsets))


def _values() -> Ints:
    """Value of the last two groups of a number: the last one's five bits are signed, the other one
    may not be there."""
    before, final = np.divmod(np.arange(2 * _MORE * _MORE), _MORE)
    signed = np.where(final < _MORE // 2, final, final - _MORE)
    return np.where(before < _MORE, signed, (signed << _BITS) | (before & (_MORE - 1)))


_BASE, _MORE, _BITS = 48, 32, 5
_VALUE = _values()


def _gaps_and_runs(numbers: Ints, each: Ints, begin: Ints, first: Ints) -> tuple[Ints, Ints, Ints]:
    """(R,) background and foreground counts in pairs, and (S,) the background behind each mask's
    last run."""
    odd = np.flatnonzero(each % 2)
    rest = np.cumsum(each)[odd] - 1
    pairs = np.delete(numbers, rest)
    gap, run = pairs[0::2].copy(), pairs[1::2].copy()
    lead = gap[begin]
    gap[begin] = 0  # the first number stands alone: the second gap is no difference to it
    for chain in (gap, run):
        if len(begin):
            chain[begin[1:]] -= np.add.reduceat(chain, begin)[
                :-1
            ]  # so that the running sum begins anew
            np.cumsum(chain, out=chain)
    gap[begin] = lead
    tail = np.zeros(len(each), np.int64)
    tail[odd] = numbers[rest]
    long = odd[each[odd] > 3]
    tail[long] += gap[first[long + 1] - 1]
    return gap, run, tail


def with_negative_runs(runs: Runs, pixels: int) -> list[int]:
    """Indices of masks of `pixels` pixels whose counts add up, but only with some below 0."""
    wrong = (runs.start < 0) | (runs.end <= runs.start) | (runs.end > pixels)
    wrong[1:] |= (runs.start[1:] < runs.end[:-1]) & (runs.mask[1:] == runs.mask[:-1])
    return [int(mask) for mask in runs.mask[wrong]]


def boxes(runs: Runs, height: int) -> list[tuple[float, float, float, float]]:
    """Tight boxes (x, y, width, height) of S masks of images `height` pixels tall; zeros where a
    mask is empty."""
    made = np.zeros((len(runs.total), 4))
    if len(runs.mask):
        left, top = np.divmod(runs.start, height)
        right, bottom = np.divmod(runs.end - 1, height)
        across = left != right  # a run over several columns touches the top and the bottom row
        top[across], bottom[across] = 0, height - 1
        begin = np.flatnonzero(np.diff(runs.mask, prepend=-1))
        x, y = np.minimum.reduceat(left, begin), np.minimum.reduceat(top, begin)
        sides = (
            x,
            y,
            np.maximum.reduceat(right, begin) - x + 1,
            np.maximum.reduceat(bottom, begin) - y + 1,
        )
        made[runs.mask[begin]] = np.stack(sides, axis=1)
    return [(x, y, w, h) for x, y, w, h in made.tolist()]
