"""Segments straight from the Parquet columns of a shard set: no sample is made, no other column is
read."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit import storage
from segkit.errors import SegkitError
from segkit.masks.run_lengths import Ints
from segkit.metrics.objects import By, Objects
from segkit.metrics.regions import Regions, boxes_only, unknown_class
from segkit.shards.arrow import boxes, elements, flags, numbers, reals, texts
from segkit.shards.reader import ShardSet

_IMAGE = ["id", "width", "height"]
_REGION = ("class_id", "mask", "is_crowd", "ignore")
_OBJECT = ("class_id", "is_crowd", "ignore", "area", "score")


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
    for table in _tables(shards, _IMAGE + _of_segments(_REGION), batch):
        yield from _cut(table, batch, shards, what)


def object_batches(shards: ShardSet, batch: int, by: By) -> Iterator[Objects]:
    """Batches of at most `batch` images with what they are compared by, masks or boxes; they end at
    the set's end only.

    Raises:
        SegkitError: a part cannot be read.
    """
    columns = [*_IMAGE, "annotated", "exhaustive", "not_exhaustive", *_of_segments((*_OBJECT, by))]
    for table in _tables(shards, columns, batch):
        for at in range(0, len(table), batch):
            yield _objects(table.slice(at, batch), by)


def _objects(table: Any, by: By) -> Objects:
    names = ("id", "width", "height", "annotated", "exhaustive")
    ids, width, height, annotated, exhaustive = (table.column(name).to_pylist() for name in names)
    later = "not_exhaustive" in table.column_names
    not_exhaustive = (
        [row or () for row in table.column("not_exhaustive").to_pylist()]
        if later
        else [()] * len(table)
    )
    segments, bounds = elements(table.column("segments").combine_chunks())
    none = [None] * len(segments)
    crowd = flags(segments.field("is_crowd")) | flags(segments.field("ignore"))
    return Objects(
        ids,
        width,
        height,
        annotated,
        exhaustive,
        not_exhaustive,
        np.repeat(np.arange(len(table)), np.diff(bounds)).tolist(),
        numbers(segments.field("class_id")).tolist(),
        texts(segments.field("mask")) if by == "mask" else none,
        boxes(segments.field("box")) if by == "box" else none,
        numbers(segments.field("area")).tolist(),
        crowd.tolist(),
        reals(segments.field("score")),
    )


def _of_segments(fields: Iterable[str]) -> list[str]:
    return [f"segments.list.element.{name}" for name in fields]


def _tables(shards: ShardSet, columns: list[str], batch: int) -> Iterator[Any]:
    """Tables of whole batches, whatever the row groups are; only the last one may hold a part of a
    batch."""
    import pyarrow as pa

    rest: Any = None
    for table in read_columns(shards, columns):
        rest = table if rest is None else pa.concat_tables([rest, table])
        whole = len(rest) - len(rest) % batch
        if whole:
            yield rest.slice(0, whole)
        rest = rest.slice(whole)
    if rest is not None and len(rest):
        yield rest


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
            message = str(error).splitlines()[0]
            raise SegkitError(
                f"{path}: labels not readable ({message}); `segkit validate` tells more"
            ) from error


def image_ids(shards: ShardSet) -> list[str]:
    """All image ids of a set, in order, without reading anything else."""
    return [
        image for table in read_columns(shards, ["id"]) for image in table.column("id").to_pylist()
    ]


def _cut(table: Any, batch: int, shards: ShardSet, what: str) -> Iterator[Regions]:
    """Regions of each `batch` rows; the text of the masks is used where it lies."""
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
        raise unknown_class(int(given[wrong[0]]), what, ids[image[wrong[0]]])
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
