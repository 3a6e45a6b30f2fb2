"""Encode, decode and combine COCO run-length masks.

The strings are those of pycocotools; a whole label map, or a whole list of masks, is coded in one
vectorized pass.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.masks.boxes import boxes_of_runs
from segkit.masks.run_lengths import Ints, decode_counts, encode_numbers, ends_with_number
from segkit.sample import Box

_PYCOCOTOOLS_BATCH = 200
"""Masks a call: more than 255 overflow a byte in pycocotools."""
_MAX_COORDINATE = 2.0**20
"""Pixels; pycocotools walks every polygon edge point by point and overflows far beyond this."""
_MIN_EDGE_LIMIT = 5_000_000
"""Pixels that the edges of a mask may cross in any image; rasterizing takes 40 bytes for each."""


@dataclass(frozen=True, slots=True)
class Region:
    """The pixels of one id of a label map."""

    counts: bytes
    """COCO compressed RLE."""
    area: int
    """Pixels."""
    box: Box
    """Tight box: x, y, width, height in pixels; zeros for an empty region."""


def encode(mask: NDArray[Any]) -> bytes:
    """Compressed counts of the non-zero pixels of a (H, W) mask."""
    return compress(uncompressed(mask))


def uncompressed(mask: NDArray[Any]) -> Ints:
    """Run lengths (zeros first) of the non-zero pixels of a (H, W) mask, column after column."""
    flat = (np.asarray(mask) != 0).T.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate(([0], edges, [flat.size]))
    runs = np.diff(bounds)
    return np.concatenate(([0], runs)) if flat.size and flat[0] else runs


def decode(counts: bytes, height: int, width: int) -> NDArray[np.bool_]:
    """The (H, W) mask of compressed counts; ValueError unless they fill height x width exactly."""
    return _flat(counts, height, width).reshape(width, height).T


def decode_box(counts: bytes, height: int, width: int) -> tuple[NDArray[np.bool_], int, int]:
    """The part of a mask in its tight box, and the x and y of that box; only its columns decoded.

    Raises:
        ValueError: the counts do not fill height x width exactly.
    """
    x, y, across, down = map(int, box(counts, height, width))
    runs = decompress(counts)
    ends = np.cumsum(runs).clip(x * height, (x + across) * height)
    lengths = np.diff(ends, prepend=x * height)
    columns = np.repeat(np.arange(len(runs)) % 2 == 1, lengths).reshape(across, height)
    return columns[:, y : y + down].T, x, y


def union(masks: Iterable[bytes], height: int, width: int) -> bytes:
    """Compressed counts of the union of masks; ValueError unless each fills height x width."""
    covered = np.zeros((height, width), bool)
    for counts in masks:
        covered |= decode(counts, height, width)
    return encode(covered)


def area(counts: bytes, height: int, width: int) -> int:
    """Pixels of a mask; ValueError unless its counts fill height x width exactly."""
    return int(_runs(counts, height, width)[1::2].sum())


def areas(masks: Sequence[bytes]) -> Ints:
    """(S,) pixels of each of S masks, by pycocotools: twenty times faster than decoding them here.

    Raises:
        ValueError: a string breaks off. The pixels that a mask adds up to are not checked.
    """
    from pycocotools import mask as coco

    if any(not ends_with_number(counts) for counts in masks):
        raise ValueError("a malformed RLE")  # pycocotools would read beyond its end
    records = [{"size": [1, 1], "counts": counts} for counts in masks]
    starts = range(0, len(masks), _PYCOCOTOOLS_BATCH)
    sizes = [coco.area(records[start : start + _PYCOCOTOOLS_BATCH]) for start in starts]
    return np.concatenate([np.zeros(0, np.int64), *sizes]).astype(np.int64)


def region(counts: bytes, height: int, width: int) -> Region:
    """A mask with its pixels and tight box, by pycocotools, which is faster than `area` and `box`.

    Args:
        counts: canonical counts that fill the image; they are not checked.
        height: of the image, pixels.
        width: of the image, pixels.
    """
    from pycocotools import mask as coco

    record = {"size": [height, width], "counts": counts}
    pixels = int(coco.area(record))
    x, y, w, h = coco.toBbox(record).tolist() if pixels else (0.0, 0.0, 0.0, 0.0)
    return Region(counts, pixels, (x, y, w, h))


def canonical(counts: bytes, height: int, width: int) -> bytes:
    """The counts that pycocotools writes for a mask: no empty run but the first, each number short.

    Raises:
        ValueError: the counts do not fill height x width exactly.
    """
    runs = _runs(counts, height, width)
    if (runs[1:] > 0).all():
        return compress(runs)
    return encode(decode(counts, height, width))


def box(counts: bytes, height: int, width: int) -> Box:
    """Tight box (x, y, width, height) of a mask in pixels; zeros where it is empty."""
    runs = _runs(counts, height, width)
    lengths, end = runs[1::2], np.cumsum(runs)[1::2]
    filled = np.flatnonzero(lengths)
    if not filled.size:
        return (0.0, 0.0, 0.0, 0.0)
    end = end[filled]
    [(x, y, w, h)] = boxes_of_runs(end - lengths[filled], end, np.zeros(1, np.intp), height)
    return float(x), float(y), float(w), float(h)


def regions(ids: NDArray[Any]) -> dict[int, Region]:
    """The region of every id in a (H, W) integer map, ids ascending, in one pass."""
    if not ids.size:
        return {}
    height = ids.shape[0]
    flat = np.ascontiguousarray(ids.T).reshape(-1)
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    values = flat[starts]
    ends = np.append(starts[1:], flat.size)
    distinct, rank = np.unique(values, return_inverse=True)
    # NumPy sorts 16-bit integers by radix: twice as fast as sorting the ids, the ranking included
    order = np.argsort(rank.astype(np.uint16) if len(distinct) < 2**16 else rank, kind="stable")
    return _group_runs(values[order], starts[order], ends[order], height, flat.size)


def from_edges(masks: Ints, pixels: Ints, count: int, height: int, width: int) -> list[Region]:
    """Regions of `count` masks, from the edges between background and foreground.

    Args:
        masks: (E,) index of the mask that each edge belongs to, ascending.
        pixels: (E,) column-major pixel at which, alternately, a run begins and has ended; ascending
            within a mask.
        count: number of masks; one without an edge is empty.
        height: of the image, pixels.
        width: of the image, pixels.
    """
    size, by_mask = height * width, dict[int, Region]()
    if len(masks):
        by_mask = _group_runs(masks[::2], pixels[::2], pixels[1::2], height, size)
    empty = Region(compress(np.array([size])), 0, (0.0, 0.0, 0.0, 0.0))
    return [by_mask.get(mask, empty) for mask in range(count)]


def _group_runs(
    values: NDArray[Any], starts: Ints, ends: Ints, height: int, size: int
) -> dict[int, Region]:
    """Region of each value, from runs (at least one) sorted by value and start."""
    first = np.concatenate(([0], np.flatnonzero(values[1:] != values[:-1]) + 1))
    number = np.diff(np.append(first, len(values)))
    strings = _label_strings(starts, ends, first, number, size)
    pixels = np.add.reduceat(ends - starts, first)
    boxes = boxes_of_runs(starts, ends, first, height).astype(float).tolist()
    return {
        value: Region(string, area, (x, y, w, h))
        for value, string, area, (x, y, w, h) in zip(
            values[first].tolist(), strings, pixels.tolist(), boxes, strict=True
        )
    }


def from_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> bytes:
    """Compressed counts of the union of polygons, as pycocotools rasterizes them.

    Args:
        polygons: [x1, y1, x2, y2, ...] each, in pixels.
        height: of the image, pixels.
        width: of the image, pixels.

    Raises:
        ValueError: no polygon, fewer than three points, an odd count of numbers, or a number that
            is not finite or beyond a million pixels.
    """
    from pycocotools import mask as coco

    if not polygons:
        raise ValueError("no polygon")
    bound = 0.0  # of the length of all edges; cheap, and far above it
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"a polygon of {len(polygon)} numbers")
        peak = float(np.abs(np.asarray(polygon, float)).max())
        if not peak <= _MAX_COORDINATE:
            raise ValueError("a polygon coordinate is not finite or out of range")
        bound += len(polygon) * peak
    max_length = _MIN_EDGE_LIMIT + 2 * height * width
    if bound > max_length and (length := sum(map(_edge_length, polygons))) > max_length:
        message = f"its edges are {length:.0f} pixels long, too many for {width} x {height} pixels"
        raise ValueError(message)
    merged = coco.merge(coco.frPyObjects([list(polygon) for polygon in polygons], height, width))
    return bytes(merged["counts"])


def _edge_length(polygon: Sequence[float]) -> float:
    """The number of pixels that the edges of a polygon cross along their longer axis."""
    points = np.asarray(polygon, float).reshape(-1, 2)  # (N, 2)
    steps = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1)  # (N,)
    return float(steps.sum())


def from_uncompressed(counts: Sequence[int], height: int, width: int) -> bytes:
    """Compressed counts of uncompressed ones; ValueError unless these fill height x width."""
    pixels = height * width
    if not all(0 <= count <= pixels for count in counts) or sum(counts) != pixels:
        raise ValueError(f"run lengths do not fill {width} x {height} pixels")
    return compress(np.asarray(counts, np.int64))


def paint(layers: Iterable[tuple[int, bytes]], height: int, width: int) -> NDArray[np.int32]:
    """A (H, W) map in which the pixels of each mask carry its id, the others 0.

    Args:
        layers: id and compressed counts of each mask; later masks paint over earlier ones.
        height: of the image, pixels.
        width: of the image, pixels.
    """
    flat = np.zeros(height * width, np.int32)
    for value, counts in layers:
        flat[_flat(counts, height, width)] = value
    return np.ascontiguousarray(flat.reshape(width, height).T)


def compress(runs: NDArray[np.integer[Any]]) -> bytes:
    """COCO's string of run lengths (zeros first)."""
    values = runs.astype(np.int64)
    values[3:] -= runs[1:-2]
    return encode_numbers(values)[0].tobytes()


def decompress(counts: bytes) -> Ints:
    """Run lengths (zeros first) of COCO's string; ValueError where it is malformed."""
    return decode_counts([counts])[0]


def _runs(counts: bytes, height: int, width: int) -> Ints:
    runs = decompress(counts)
    if runs.max(initial=0) > height * width or int(runs.sum()) != height * width:
        raise ValueError(f"an RLE of {int(runs.sum())} pixels for an image of {width} x {height}")
    return runs


def _flat(counts: bytes, height: int, width: int) -> NDArray[np.bool_]:
    runs = _runs(counts, height, width)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs)


def _label_strings(starts: Ints, ends: Ints, first: Ints, number: Ints, size: int) -> list[bytes]:
    """Strings of all groups of sorted runs: gap, run, gap, run, ..., and the rest if there is one.

    Args:
        starts: (R,) first pixel of each run.
        ends: (R,) one past each run's last pixel.
        first: (G,) index of each group's first run.
        number: (G,) runs of each group.
        size: pixels of the image.
    """
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
    characters, lengths = encode_numbers(values)
    bounds = np.concatenate(([0], np.cumsum(lengths)))
    cuts = np.append(bounds[begin], bounds[-1]).tolist()
    text = characters.tobytes()
    return [text[a:b] for a, b in pairwise(cuts)]
