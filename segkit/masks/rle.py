"""Run-length masks in COCO's compressed form: column-major runs, zeros first, delta-coded in 5-bit
characters.

The strings are those of pycocotools (`rleToString` in cocoapi's maskApi.c); here a whole label map,
or a whole list of masks, is coded in one vectorised pass.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.sample import Box

Counts = NDArray[np.int64]
_BASE, _MORE, _SIGN, _BITS = 48, 32, 16, 5
_LONGEST = 13  # characters of a 64-bit count; more than that is no count
_BATCH = 200
_POLYGON_LIMIT = (
    2.0**20
)  # pixels; pycocotools walks every edge point by point and overflows far beyond this


@dataclass(frozen=True, slots=True)
class Region:
    """The pixels of one id of a label map: their RLE counts, number and tight box (x, y, width,
    height)."""

    counts: bytes
    area: int
    box: Box


def encode(mask: NDArray[Any]) -> bytes:
    """Compressed counts of a (H, W) mask; every non-zero pixel is in."""
    flat = (np.asarray(mask) != 0).T.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate(([0], edges, [flat.size]))
    runs = np.diff(bounds)
    if flat.size and flat[0]:
        runs = np.concatenate(([0], runs))
    return compress(runs)


def decode(counts: bytes, height: int, width: int) -> NDArray[np.bool_]:
    """The (H, W) mask of compressed counts; ValueError where they do not fill height x width
    exactly."""
    return _flat(counts, height, width).reshape(width, height).T


def union(masks: Iterable[bytes], height: int, width: int) -> bytes:
    """Compressed counts of all pixels of the masks; ValueError where one does not fill height x
    width exactly."""
    covered = np.zeros((height, width), bool)
    for counts in masks:
        covered |= decode(counts, height, width)
    return encode(covered)


def area(counts: bytes, height: int, width: int) -> int:
    """Number of pixels in the mask; ValueError where the counts do not fill height x width."""
    return int(_runs(counts, height, width)[1::2].sum())


def areas(masks: Sequence[bytes]) -> NDArray[np.int64]:
    """Pixels of each of N masks; the image sizes are not checked. ValueError for a string that
    breaks off."""
    from pycocotools import mask as coco

    if any(counts and (counts[-1] - _BASE) & _MORE for counts in masks):
        raise ValueError("a malformed RLE")  # pycocotools would read beyond its end
    # ten times faster than NumPy can be here; more than 255 masks at once overflow a byte in
    # pycocotools
    batches = (masks[start : start + _BATCH] for start in range(0, len(masks), _BATCH))
    sizes = [
        coco.area([{"size": [1, 1], "counts": counts} for counts in batch]) for batch in batches
    ]
    return np.concatenate(sizes).astype(np.int64) if sizes else np.zeros(0, np.int64)


def box(counts: bytes, height: int, width: int) -> Box:
    """Tight box (x, y, width, height in pixels) of the mask; (0, 0, 0, 0) where it is empty."""
    runs = _runs(counts, height, width)
    ends = np.cumsum(runs)[1::2]
    lengths = runs[1::2]
    starts, ends = (ends - lengths)[lengths > 0], ends[lengths > 0] - 1
    if not starts.size:
        return (0.0, 0.0, 0.0, 0.0)
    left, right, top, bottom = _extent(starts, ends, np.zeros(1, np.intp), height)
    return (
        float(left[0]),
        float(top[0]),
        float(right[0] - left[0] + 1),
        float(bottom[0] - top[0] + 1),
    )


def regions(ids: NDArray[Any]) -> dict[int, Region]:
    """Counts, area and tight box of every id in a (H, W) integer map, ids ascending, in one pass of
    run lengths."""
    if not ids.size:
        return {}
    height = ids.shape[0]
    flat = np.ascontiguousarray(ids.T).reshape(-1)
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    values = flat[starts]
    ends = np.append(starts[1:], flat.size)
    distinct, rank = np.unique(values, return_inverse=True)
    # NumPy sorts 16-bit integers by radix; with the ranks found first it is still twice as fast as
    # to sort the ids
    order = np.argsort(rank.astype(np.uint16) if len(distinct) < 2**16 else rank, kind="stable")
    return _group_runs(values[order], starts[order], ends[order], height, flat.size)


def from_edges(masks: Counts, pixels: Counts, count: int, height: int, width: int) -> list[Region]:
    """Regions of `count` masks whose edges are known.

    Args:
        masks: (E,) index of the mask that each edge belongs to, ascending.
        pixels: (E,) column-major pixel at which the mask begins or, every second time, has ended;
            ascending in a mask.
        count: masks in all; one without an edge is empty.
        height: of the image, pixels.
        width: of the image, pixels.
    """
    found = (
        _group_runs(masks[::2], pixels[::2], pixels[1::2], height, height * width)
        if len(masks)
        else {}
    )
    empty = Region(compress(np.array([height * width])), 0, (0.0, 0.0, 0.0, 0.0))
    return [found.get(mask, empty) for mask in range(count)]


def _group_runs(
    values: NDArray[Any], starts: Counts, ends: Counts, height: int, size: int
) -> dict[int, Region]:
    """Region of each value, from runs (at least one) sorted by value and place."""
    first = np.concatenate(([0], np.flatnonzero(values[1:] != values[:-1]) + 1))
    number = np.diff(np.append(first, len(values)))
    strings = _label_strings(starts, ends, first, number, size)
    pixels = np.add.reduceat(ends - starts, first)
    left, right, top, bottom = _extent(starts, ends - 1, first, height)
    boxes = np.stack((left, top, right - left + 1, bottom - top + 1), axis=1).astype(float).tolist()
    return {
        value: Region(string, area, (x, y, w, h))
        for value, string, area, (x, y, w, h) in zip(
            values[first].tolist(), strings, pixels.tolist(), boxes, strict=True
        )
    }


def from_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> bytes:
    """Union of polygons [x1, y1, x2, y2, ...] (pixels) as pycocotools rasterises them.

    Raises:
        ValueError: no polygon, fewer than three points, an odd count of numbers, or a number that
            is not finite or beyond a million pixels.
    """
    from pycocotools import mask as coco

    if not polygons:
        raise ValueError("no polygon")
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"a polygon of {len(polygon)} numbers")
        if not (np.abs(np.asarray(polygon, float)) <= _POLYGON_LIMIT).all():
            raise ValueError("a polygon coordinate is not finite or out of range")
    merged = coco.merge(coco.frPyObjects([list(polygon) for polygon in polygons], height, width))
    return bytes(merged["counts"])


def from_uncompressed(counts: Sequence[int], height: int, width: int) -> bytes:
    """Compressed counts of a COCO uncompressed RLE; ValueError where it does not fill height x
    width."""
    runs = np.asarray(counts, np.int64)
    if runs.ndim != 1 or (runs < 0).any() or int(runs.sum()) != height * width:
        raise ValueError(f"run lengths do not fill {width} x {height} pixels")
    return compress(runs)


def paint(
    label: Mapping[int, bytes] | Iterable[tuple[int, bytes]], height: int, width: int
) -> NDArray[np.int32]:
    """A (H, W) map in which each mask's pixels carry its id; 0 elsewhere; later masks paint over
    earlier ones."""
    flat = np.zeros(height * width, np.int32)
    for value, counts in label.items() if isinstance(label, Mapping) else label:
        flat[_flat(counts, height, width)] = value
    return np.ascontiguousarray(flat.reshape(width, height).T)


def compress(runs: NDArray[np.integer[Any]]) -> bytes:
    """COCO's string of run lengths (zeros first)."""
    values = runs.astype(np.int64)
    values[3:] -= runs[1:-2]
    return _characters(values)[0].tobytes()


def decompress(counts: bytes) -> Counts:
    """Run lengths (zeros first) of COCO's string; ValueError where it is malformed."""
    return decompress_many([counts])[0]


def decompress_many(masks: Sequence[bytes]) -> list[Counts]:
    """Run lengths of each of N strings, decoded in one pass: several times faster than one by
    one."""
    if not masks:
        return []
    values, per_mask = _values(masks)
    runs = np.split(values, np.cumsum(per_mask)[:-1])
    for run in runs:  # from the fourth on, a count is the difference to the one two places before
        np.cumsum(run[1::2], out=run[1::2])
        np.cumsum(run[2::2], out=run[2::2])
    if (values < 0).any():
        raise ValueError("an RLE with a negative run")
    return runs


def _runs(counts: bytes, height: int, width: int) -> Counts:
    runs = decompress(counts)
    if runs.max(initial=0) > height * width or int(runs.sum()) != height * width:
        raise ValueError(f"an RLE of {int(runs.sum())} pixels for an image of {width} x {height}")
    return runs


def _flat(counts: bytes, height: int, width: int) -> NDArray[np.bool_]:
    runs = _runs(counts, height, width)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs)


def _label_strings(
    starts: Counts, ends: Counts, first: Counts, number: Counts, size: int
) -> list[bytes]:
    """Strings of all groups of sorted runs: each becomes gap, run, gap, run, ..., and the rest if
    there is one."""
    before = np.concatenate(([0], ends[:-1]))
    before[first] = 0
    rest = size - ends[np.append(first[1:], len(ends)) - 1]
    sizes = 2 * number + (rest > 0)
    begin = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    place = 2 * np.arange(len(starts)) + np.repeat(begin - 2 * first, number)
    runs = np.empty(int(sizes.sum()), np.int64)
    runs[place], runs[place + 1] = starts - before, ends - starts
    runs[(begin + sizes - 1)[rest > 0]] = rest[rest > 0]
    values = runs.copy()
    values[2:] -= runs[:-2]
    for rank in range(3):  # the first three counts of a string are not differences
        at = begin[sizes > rank] + rank
        values[at] = runs[at]
    characters, lengths = _characters(values)
    bounds = np.concatenate(([0], np.cumsum(lengths)))
    cuts = np.append(bounds[begin], bounds[-1]).tolist()
    text = characters.tobytes()
    return [text[a:b] for a, b in pairwise(cuts)]


def _characters(values: Counts) -> tuple[NDArray[np.uint8], Counts]:
    """COCO's characters of signed values, and how many each takes: 5 bits each, low first, the last
    one's sign bit."""
    magnitude = values ^ (values >> 63)
    lengths = np.ones(len(values), np.int64)
    reach, largest = _SIGN, int(magnitude.max(initial=0))
    while largest >= reach:
        lengths += magnitude >= reach
        reach <<= _BITS
    ends = np.cumsum(lengths)
    text = np.empty(int(lengths.sum()), np.uint8)
    rest, left, place = values, lengths, ends - lengths
    while len(rest):  # first characters, then the second ones of those that have any, ...
        text[place] = (rest & (_MORE - 1)) + (_BASE + _MORE)
        more = np.flatnonzero(left > 1)
        rest, left, place = rest[more] >> _BITS, left[more] - 1, place[more] + 1
    text[ends - 1] -= _MORE
    return text, lengths


def _values(masks: Sequence[bytes]) -> tuple[Counts, Counts]:
    """The signed values that the strings of N masks code, one after the other, and how many each
    mask has."""
    codes = np.frombuffer(b"".join(masks), np.uint8).astype(np.int64) - _BASE
    last = (codes & _MORE) == 0
    closing = np.cumsum([len(counts) for counts in masks]) - 1
    if codes.size and (
        codes.min() < 0 or codes.max() >= 2 * _MORE or not last[closing[closing >= 0]].all()
    ):
        raise ValueError("a malformed RLE")
    stops = np.flatnonzero(last)
    begins = np.concatenate(([0], stops[:-1] + 1)) if stops.size else np.zeros(0, np.int64)
    lengths = stops - begins + 1
    if lengths.size and lengths.max() > _LONGEST - 1:
        raise ValueError("a malformed RLE")
    shift = _BITS * (np.arange(len(codes)) - np.repeat(begins, lengths))
    parts = (codes & (_MORE - 1)) << shift
    values = np.add.reduceat(parts, begins) if begins.size else parts
    values -= np.where(codes[stops] & _SIGN, np.int64(1) << (_BITS * lengths), 0)
    return values, np.diff(np.searchsorted(stops, closing, side="right"), prepend=0)


def _extent(
    starts: Counts, ends: Counts, first: NDArray[np.intp], height: int
) -> tuple[Counts, Counts, Counts, Counts]:
    """First and last column and row of each group of runs; `ends` is each run's last pixel."""
    left, right = starts // height, ends // height
    top, bottom = starts - left * height, ends - right * height  # % takes longer
    wraps = (
        left < right
    )  # a run over a column's end holds its bottom pixel and the next one's top pixel
    return (
        np.minimum.reduceat(left, first),
        np.maximum.reduceat(right, first),
        np.minimum.reduceat(np.where(wraps, 0, top), first),
        np.maximum.reduceat(np.where(wraps, height - 1, bottom), first),
    )
