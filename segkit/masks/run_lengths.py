"""Decode the COCO run lengths of many masks at once, one array operation a step.

COCO's string format (`rleToString` in cocoapi's maskApi.c): a mask is a list of run lengths over
its column-major pixels, zeros first. From the fourth on, a number is stored as the difference to
the number two before. A number is a little-endian chain of 5-bit groups, each stored as one
character from 48 on: bit 5 says that another group follows, bit 4 of the last group is the sign.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

_BASE, _MORE, _SIGN, _BITS = 48, 32, 16, 5
_MAX_GROUPS = 12
"""A count takes 60 bits at most; a longer chain of groups is not a count."""
_MAX_COUNT = 2**31
"""Pixels of a run; the sum of as many as memory holds fits in 64 bits."""
_CHUNK = 24 << 10
"""Bytes of masks that are checked at once: larger arrays would be new pages of memory each time,
which take longer than the check."""


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
    is_wellformed: bool
    """Whether all strings are run lengths: COCO's characters, complete numbers, none negative or
    beyond 2**31. Such a mask fills its image if its total is that of the image."""


def join(masks: Sequence[bytes]) -> tuple[Bytes, Ints]:
    """The strings of S masks as one buffer (B,), and the S + 1 offsets between them."""
    lengths = np.fromiter(map(len, masks), np.int64, len(masks))
    return np.frombuffer(b"".join(masks), np.uint8), np.concatenate(([0], np.cumsum(lengths)))


def decode_runs(buffer: Bytes, offsets: Ints, base: Ints | None = None) -> Runs:
    """Foreground runs of S masks.

    Malformed strings raise no error: see `Runs.is_wellformed`.

    Args:
        buffer: (B,) strings of all masks, one after another.
        offsets: (S + 1,) where each string begins; the last is B.
        base: (S,) number of each mask's first pixel; None: 0.
    """
    last, groups = _ends_of_numbers(buffer)
    lengths = np.diff(np.searchsorted(last, offsets))
    rows = lengths // 2
    first = np.concatenate(([0], np.cumsum(rows)))
    present = np.flatnonzero(rows)
    begin, many = first[present], rows[present]
    final = begin + many - 1
    gap, run, tail = _gaps_and_runs(_numbers(buffer, last, groups), lengths)
    is_wellformed = _is_wellformed(buffer, offsets, groups) and all(
        counts.min(initial=0) >= 0 and counts.max(initial=0) <= _MAX_COUNT
        for counts in (gap, run, tail)
    )
    area, total = np.zeros(len(lengths), np.int64), tail
    end = np.add(gap, run, out=gap).cumsum()
    if len(present):
        area[present] = np.add.reduceat(run, begin)
        before = np.concatenate(([0], end[final[:-1]]))
        total[present] += end[final] - before
        end -= np.repeat(before if base is None else before - base[present], many)
    mask = np.repeat(np.arange(len(lengths)), rows)
    if np.count_nonzero(run) < len(run):
        filled = np.flatnonzero(run)
        end, run, mask = end[filled], run[filled], mask[filled]
    return Runs(end - run, end, mask, area, total, is_wellformed)


def decode_counts(masks: Sequence[bytes]) -> list[Ints]:
    """Run lengths (zeros first) of each of S strings, exactly as they were encoded.

    Raises:
        ValueError: a string holds other characters, breaks off, or codes a negative run length.
    """
    if not masks:
        return []
    buffer, offsets = join(masks)
    last, groups = _ends_of_numbers(buffer)
    if not _is_wellformed(buffer, offsets, groups):
        raise ValueError("a malformed RLE")
    numbers = _numbers(buffer, last, groups)
    counts = np.split(numbers, np.searchsorted(last, offsets[1:-1]))
    for chain in counts:  # in place: turn the differences into run lengths
        np.cumsum(chain[1::2], out=chain[1::2])
        np.cumsum(chain[2::2], out=chain[2::2])
    if numbers.size and numbers.min() < 0:
        raise ValueError("an RLE with a negative run")
    return counts


def first_malformed(masks: Sequence[bytes], pixels: Ints) -> int | None:
    """The index of the first of S masks whose counts do not fill its image; None if all do.

    Args:
        masks: (S,) strings of any characters.
        pixels: (S,) pixels of each mask's image.
    """
    ends = np.cumsum(np.fromiter(map(len, masks), np.int64, len(masks)))
    start = 0
    while start < len(masks):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _CHUNK, "right")))
        chunk = slice(start, stop)
        if not _all_fill(masks[chunk], pixels[chunk]):
            fills = map(_fills, masks[chunk], pixels[chunk].tolist())
            return start + list(fills).index(False)
        start = stop
    return None


def _all_fill(masks: Sequence[bytes], pixels: Ints) -> bool:
    """Whether the counts of all masks fill their images."""
    buffer, offsets = join(masks)
    last, groups = _ends_of_numbers(buffer)
    if not _is_wellformed(buffer, offsets, groups):
        return False
    lengths = np.diff(np.searchsorted(last, offsets))
    gap, run, total = _gaps_and_runs(_numbers(buffer, last, groups), lengths)
    limit = int(pixels.max(initial=0))
    for counts in (gap, run, total):
        if counts.min(initial=0) < 0 or counts.max(initial=0) > limit:
            return False
    pairs = lengths // 2
    present = np.flatnonzero(pairs)
    if len(present):
        begin = np.concatenate(([0], np.cumsum(pairs)))[present]
        total[present] += np.add.reduceat(gap + run, begin)
    return bool((total == pixels).all())


def _fills(mask: bytes, pixels: int) -> bool:
    try:
        (counts,) = decode_counts([mask])
    except ValueError:
        return False
    return counts.max(initial=0) <= pixels and int(counts.sum()) == pixels


def _is_wellformed(buffer: Bytes, offsets: Ints, groups: Ints) -> bool:
    """Whether strings are complete numbers in COCO's characters, `_MAX_GROUPS` groups at most.

    Args:
        buffer: (B,) strings of S masks, one after another.
        offsets: (S + 1,) where each string begins; the last is B.
        groups: (N,) groups of each number.
    """
    if not len(buffer):
        return True
    final = buffer[offsets[1:] - 1]  # of an empty string, the last of the one before, or of all
    return bool(
        buffer.min() >= _BASE
        and buffer.max() < _BASE + 2 * _MORE
        and final.max() < _BASE + _MORE
        and groups.max(initial=0) <= _MAX_GROUPS
    )


def ends_with_number(counts: bytes) -> bool:
    """Whether a string does not break off in the middle of a number."""
    return not (counts and (counts[-1] - _BASE) & _MORE)


def encode_numbers(values: Ints) -> tuple[Bytes, Ints]:
    """COCO's characters of signed numbers, and how many each takes."""
    magnitude = values ^ (values >> 63)
    lengths = np.ones(len(values), np.int64)
    reach, largest = _SIGN, int(magnitude.max(initial=0))
    while largest >= reach:
        lengths += magnitude >= reach
        reach <<= _BITS
    ends = np.cumsum(lengths)
    text = np.empty(int(lengths.sum()), np.uint8)
    rest, left, place = values, lengths, ends - lengths
    while len(rest):  # the first characters, then the second ones of the numbers that have any, ...
        text[place] = (rest & (_MORE - 1)) + (_BASE + _MORE)
        more = np.flatnonzero(left > 1)
        rest, left, place = rest[more] >> _BITS, left[more] - 1, place[more] + 1
    text[ends - 1] -= _MORE
    return text, lengths


def _ends_of_numbers(buffer: Bytes) -> tuple[Ints, Ints]:
    """Index of the last group of each number, and how many groups each has."""
    last = np.flatnonzero(buffer < _BASE + _MORE)
    groups = last + 1
    groups[1:] -= groups[:-1].copy()
    return last, groups


def _numbers(buffer: Bytes, last: Ints, groups: Ints) -> Ints:
    """Signed numbers, from the ends and sizes that `_ends_of_numbers` returns.

    The value of the last two groups is computed at every group, which is faster than gathering
    first: arrays of 16 bits in order.
    """
    values = buffer - np.uint8(_BASE)
    low = values & np.uint8(_MORE - 1)
    numbers = (low ^ np.uint8(_SIGN)).astype(np.int16)
    numbers -= _SIGN  # the number that this group ends, if it is the only one
    if len(numbers) > 1:
        longer_by = numbers[1:] << _BITS
        longer_by |= low[:-1]
        longer_by -= numbers[1:]
        longer_by *= values[:-1] >> np.uint8(_BITS)  # 1 where the group before continues
        numbers[1:] += longer_by
    result = numbers[last].astype(np.int64)
    longer = np.flatnonzero(groups > 2)
    for back in range(2, _MAX_GROUPS):
        if not len(longer):
            break
        result[longer] = (result[longer] << _BITS) | (values[last[longer] - back] & (_MORE - 1))
        longer = longer[groups[longer] > back + 1]
    return result


def _gaps_and_runs(numbers: Ints, lengths: Ints) -> tuple[Ints, Ints, Ints]:
    """Undo the differences.

    Args:
        numbers: signed numbers of S masks.
        lengths: (S,) numbers of each mask.

    Returns:
        (R,) background and foreground run lengths in pairs, and (S,) the background behind each
        mask's last run.
    """
    rows = lengths // 2
    first = np.concatenate(([0], np.cumsum(rows)))
    begin = first[np.flatnonzero(rows)]
    odd = np.flatnonzero(lengths % 2)
    rest = np.cumsum(lengths)[odd] - 1
    pairs = np.delete(numbers, rest)
    gap, run = pairs[0::2].copy(), pairs[1::2].copy()
    lead = gap[begin]
    gap[begin] = 0  # the first number is absolute; the second gap is not relative to it
    for chain in (gap, run):
        if len(begin):  # let the running sum start again at zero with each mask
            chain[begin[1:]] -= np.add.reduceat(chain, begin)[:-1]
            np.cumsum(chain, out=chain)
    gap[begin] = lead
    tail = np.zeros(len(lengths), np.int64)
    tail[odd] = numbers[rest]
    long = odd[lengths[odd] > 3]
    tail[long] += gap[first[long + 1] - 1]
    return gap, run, tail
