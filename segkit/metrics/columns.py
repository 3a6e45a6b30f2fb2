"""Masked segments straight from the Parquet columns of a shard set: no sample is made, no other column is read."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit import storage
from segkit.errors import InputError, SegkitError
from segkit.metrics.regions import Regions, boxes_only
from segkit.metrics.runs import Ints
from segkit.shards.arrow import elements, flags, numbers
from segkit.shards.reader import ShardSet

_SEGMENT = ("class_id", "mask", "is_crowd", "ignore")
_COLUMNS = ["id", "width", "height", *(f"segments.list.element.{name}" for name in _SEGMENT)]


def region_batches(shards: ShardSet, batch: int, what: str) -> Iterator[Regions]:
    """Batches of at most `batch` images, in the set's order; they end at the set's end only.

    Args:
        shards: every segment must have a mask; its taxonomy numbers the labels.
        batch: images at once.
        what: what the set is, for messages.

    Raises:
        InputError: a segment has no mask, or a class that the taxonomy lacks.
        SegkitError: a part cannot be read.
    """
    import pyarrow as pa

    rest: Any = None
    for table in read_columns(shards, _COLUMNS):
        rest = table if rest is None else pa.concat_tables([rest, table])
        whole = len(rest) - len(rest) % batch
        yield from _cut(rest.slice(0, whole), batch, shards, what)
        rest = rest.slice(whole)
    if rest is not None and len(rest):
        yield from _cut(rest, batch, shards, what)


def read_columns(shards: ShardSet, columns: list[str]) -> Iterator[Any]:
    """Arrow tables of some columns, row group after row group.

    `pyarrow.parquet.read_table` would do, but it imports pandas: half a second.

    Raises:
        SegkitError: a part cannot be read.
    """
    import pyarrow as pa

    for part in shards.manifest.parts:
        path = shards.path / part.labels
        try:
            with storage.parquet_file(path) as file:
                for group in range(file.num_row_groups):
                    yield file.read_row_group(group, columns=columns, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            problem = str(error).splitlines()[0]
            raise SegkitError(f"{path}: labels not readable ({problem}); `segkit validate` tells more") from error


def image_ids(shards: ShardSet) -> list[str]:
    """All image ids of a set, in order, without reading anything else."""
    return [image for table in read_columns(shards, ["id"]) for image in table.column("id").to_pylist()]


def _cut(table: Any, batch: int, shards: ShardSet, what: str) -> Iterator[Regions]:
    """Regions of each `batch` rows; the text of the masks is used where it lies."""
    if not len(table):
        return
    table = table.combine_chunks()
    ids = table.column("id").to_pylist()
    height, width = (numbers(table.column(name).chunk(0)) for name in ("height", "width"))
    segments, first = elements(table.column("segments").chunk(0))
    image = np.repeat(np.arange(len(ids)), np.diff(first))
    label = _labels(segments, image, ids, shards, what)
    crowd, ignore = (flags(segments.field(name)) for name in ("is_crowd", "ignore"))
    buffer, offsets = _text(segments, image, ids, what)
    for at in range(0, len(ids), batch):
        rows = slice(at, at + batch)
        chosen = slice(int(first[at]), int(first[min(at + batch, len(ids))]))
        own = offsets[chosen.start : chosen.stop + 1]
        columns = (image[chosen] - at, label[chosen], crowd[chosen], ignore[chosen])
        text = buffer[own[0] : own[-1]]
        yield Regions(tuple(ids[rows]), height[rows], width[rows], text, own - own[0], *columns)


def _labels(segments: Any, image: Ints, ids: list[str], shards: ShardSet, what: str) -> Ints:
    """Class indices; a taxonomy is ordered by id."""
    column = segments.field("class_id")
    if not len(column):
        return np.zeros(0, np.int64)
    given = numbers(column)
    known = np.array([category.id for category in shards.taxonomy.categories], np.int64)
    label = np.minimum(np.searchsorted(known, given), len(known) - 1)
    wrong = np.flatnonzero(known[label] != given)
    if len(wrong):
        problem = f"category {given[wrong[0]]} is not in the vocabulary"
        raise InputError(problem, file=what, record=ids[image[wrong[0]]])
    return np.asarray(label, np.int64)


def _text(segments: Any, image: Ints, ids: list[str], what: str) -> tuple[NDArray[np.uint8], Ints]:
    """Bytes of all masks, and the offsets at which each begins and the last one ends."""
    masks = segments.field("mask")
    if masks.null_count:
        bare = next(k for k, mask in enumerate(masks.to_pylist()) if mask is None)
        raise boxes_only(what, ids[image[bare]])
    _, offsets, data = masks.buffers()
    if data is None or not len(masks):
        return np.zeros(0, np.uint8), np.zeros(len(masks) + 1, np.int64)
    starts = np.frombuffer(offsets, np.int32)[masks.offset : masks.offset + len(masks) + 1]
    return np.frombuffer(data, np.uint8), starts.astype(np.int64)
