"""Regions and objects read from the Parquet columns of a shard set, without making samples."""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.masks.run_lengths import Ints
from segkit.metrics.objects import IouType, Objects
from segkit.metrics.regions import Regions, annotated_labels
from segkit.metrics.sides import Side, missing_mask, unknown_class
from segkit.shards.arrow import boxes, elements, flags, numbers, reals, texts
from segkit.shards.label_columns import read_columns
from segkit.shards.reader import ShardSet

_IMAGE = ["id", "width", "height", "annotated"]
_REGION = ("class_id", "mask", "is_crowd", "ignore")
_OBJECT = ("class_id", "is_crowd", "ignore", "area", "score")


def read_regions(
    shards: ShardSet, batch: int, source: Side, rows: range | None = None
) -> Iterator[Regions]:
    """Batches of `batch` images in the set's order; only the last may be smaller.

    Args:
        shards: every segment must have a mask; its taxonomy numbers the labels.
        batch: images at once.
        source: the side that errors name.
        rows: some consecutive images of the set; None for all.

    Raises:
        InputError: a part cannot be read; a segment has no mask, or a class that the taxonomy
            lacks.
    """
    for table in _tables(shards, _IMAGE + _segment_columns(_REGION), batch, rows):
        yield from _regions(table, batch, shards, source)


def read_objects(
    shards: ShardSet, batch: int, iou_types: Collection[IouType], rows: range | None = None
) -> Iterator[Objects]:
    """Batches of `batch` images with their masks, boxes or both; only the last may be smaller.

    `rows` as of `read_regions`.

    Raises:
        InputError: a part cannot be read.
    """
    segment_columns = _segment_columns((*_OBJECT, *iou_types))
    columns = [*_IMAGE, "exhaustive", "not_exhaustive", *segment_columns]
    for table in _tables(shards, columns, batch, rows):
        for start in range(0, len(table), batch):
            yield _objects(table.slice(start, batch), iou_types)


def is_federated(shards: ShardSet) -> bool:
    """Whether some image is annotated for only some classes, or not exhaustively for them."""
    for table in read_columns(shards, ["annotated", "exhaustive"]):
        exhaustive = table.column("exhaustive").to_pylist()
        if table.column("annotated").null_count < len(table) or not all(exhaustive):
            return True
    return False


def _segment_columns(fields: Iterable[str]) -> list[str]:
    return [f"segments.list.element.{name}" for name in fields]


def _tables(shards: ShardSet, columns: list[str], batch: int, rows: range | None) -> Iterator[Any]:
    """Tables of full batches, independent of the row groups; only the last may be smaller."""
    import pyarrow as pa

    rest: Any = None
    for table in read_columns(shards, columns, rows):
        rest = table if rest is None else pa.concat_tables([rest, table])
        full = len(rest) - len(rest) % batch
        if full:
            yield rest.slice(0, full)
        rest = rest.slice(full)
    if rest is not None and len(rest):
        yield rest


def _objects(table: Any, iou_types: Collection[IouType]) -> Objects:
    names = ("id", "width", "height", "annotated", "exhaustive")
    ids, width, height, annotated, exhaustive = (table.column(name).to_pylist() for name in names)
    not_exhaustive = [()] * len(table)
    if "not_exhaustive" in table.column_names:
        not_exhaustive = [row or () for row in table.column("not_exhaustive").to_pylist()]
    segments, bounds = elements(table.column("segments").combine_chunks())
    absent = [None] * len(segments)
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
        texts(segments.field("mask")) if "mask" in iou_types else absent,
        boxes(segments.field("box")) if "box" in iou_types else absent,
        numbers(segments.field("area")).tolist(),
        crowd.tolist(),
        reals(segments.field("score")),
    )


def _regions(table: Any, batch: int, shards: ShardSet, source: Side) -> Iterator[Regions]:
    """Regions of each `batch` rows; the bytes of the masks are not copied."""
    table = table.combine_chunks()
    ids = table.column("id").to_pylist()
    height, width = (numbers(table.column(name).chunk(0)) for name in ("height", "width"))
    annotated = annotated_labels(table.column("annotated").to_pylist(), shards.taxonomy.index)
    segments, first = elements(table.column("segments").chunk(0))
    image = np.repeat(np.arange(len(ids)), np.diff(first))
    label = _labels(segments, image, ids, shards, source)
    crowd, ignore = (flags(segments.field(name)) for name in ("is_crowd", "ignore"))
    buffer, offsets = _mask_bytes(segments, image, ids, source)
    for start in range(0, len(ids), batch):
        rows = slice(start, start + batch)
        at = slice(int(first[start]), int(first[min(start + batch, len(ids))]))
        bounds = offsets[at.start : at.stop + 1]
        images = (tuple(ids[rows]), height[rows], width[rows], annotated[rows])
        columns = (image[at] - start, label[at], crowd[at], ignore[at])
        text = buffer[bounds[0] : bounds[-1]]
        yield Regions(*images, text, bounds - bounds[0], *columns)


def _labels(segments: Any, image: Ints, ids: list[str], shards: ShardSet, source: Side) -> Ints:
    """(S,) class indices; a taxonomy is ordered by id."""
    column = segments.field("class_id")
    if not len(column):
        return np.zeros(0, np.int64)
    class_id = numbers(column)
    known = np.array([category.id for category in shards.taxonomy.categories], np.int64)
    if not len(known):
        raise unknown_class(int(class_id[0]), source, ids[image[0]])
    label = np.minimum(np.searchsorted(known, class_id), len(known) - 1)
    wrong = np.flatnonzero(known[label] != class_id)
    if len(wrong):
        raise unknown_class(int(class_id[wrong[0]]), source, ids[image[wrong[0]]])
    return np.asarray(label, np.int64)


def _mask_bytes(
    segments: Any, image: Ints, ids: list[str], source: Side
) -> tuple[NDArray[np.uint8], Ints]:
    """(B,) bytes of all masks, and (S + 1,) offsets at which each begins and the last one ends."""
    masks = segments.field("mask")
    if masks.null_count:
        bare = next(k for k, mask in enumerate(masks.to_pylist()) if mask is None)
        raise missing_mask(source, ids[image[bare]])
    _, offsets, data = masks.buffers()
    if data is None or not len(masks):
        return np.zeros(0, np.uint8), np.zeros(len(masks) + 1, np.int64)
    starts = np.frombuffer(offsets, np.int32)[masks.offset : masks.offset + len(masks) + 1]
    return np.frombuffer(data, np.uint8), starts.astype(np.int64)
