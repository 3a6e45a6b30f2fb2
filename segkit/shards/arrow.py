"""Samples as rows of an Arrow table: one row an image, a nested list of its segments; and back."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from segkit.sample import ImageRef, Sample, Segment

_BOX = pa.struct([pa.field(side, pa.float64(), nullable=False) for side in ("x", "y", "width", "height")])
SEGMENT = pa.struct(
    [
        pa.field("class_id", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("box", _BOX, nullable=False),
        pa.field("mask", pa.string()),  # COCO's counts are ASCII: text in DuckDB and JSON, bytes here
        pa.field("area", pa.float64(), nullable=False),
        pa.field("is_crowd", pa.bool_(), nullable=False),
        pa.field("ignore", pa.bool_(), nullable=False),
        pa.field("mask_from", pa.string()),
        pa.field("score", pa.float64()),
        pa.field("source_id", pa.string()),
        pa.field("source_polygon", pa.string()),
    ]
)
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("width", pa.int64(), nullable=False),
        pa.field("height", pa.int64(), nullable=False),
        pa.field("tar", pa.string()),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("path", pa.string()),
        pa.field("annotated", pa.list_(pa.field("element", pa.int64(), nullable=False))),
        pa.field("exhaustive", pa.bool_(), nullable=False),
        pa.field("void", pa.string()),
        pa.field("source", pa.string()),
        pa.field("segments", pa.list_(pa.field("element", SEGMENT, nullable=False)), nullable=False),
    ]
)
_IMAGE_FIELDS = ("tar", "offset", "length", "sha256", "path")
_ASCII = frozenset({"mask", "void"})


def to_table(samples: Sequence[Sample]) -> pa.Table:
    """Rows of samples, in `SCHEMA`."""
    segments = [segment for sample in samples for segment in sample.segments]
    offsets = np.concatenate(([0], np.cumsum([len(sample.segments) for sample in samples]))).astype(np.int32)
    columns = []
    for field in SCHEMA:
        if field.name == "segments":
            structs = pa.StructArray.from_arrays([_segment_column(f, segments) for f in SEGMENT], fields=list(SEGMENT))
            columns.append(pa.ListArray.from_arrays(pa.array(offsets), structs, type=field.type))
        elif field.name in _IMAGE_FIELDS:
            columns.append(pa.array([getattr(sample.image, field.name) for sample in samples], field.type))
        else:
            columns.append(_column([getattr(sample, field.name) for sample in samples], field))
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def from_table(table: pa.Table) -> Iterator[Sample]:
    """Inverse of `to_table`."""
    table = table.combine_chunks()
    values = {field.name: _values(table.column(field.name), field) for field in SCHEMA if field.name != "segments"}
    lists = table.column("segments").combine_chunks()
    segments = _segments(lists.flatten())
    ends = np.cumsum(lists.value_lengths().to_numpy(zero_copy_only=False)).tolist()
    start = 0
    for row, end in enumerate(ends):
        field = {name: column[row] for name, column in values.items()}
        image = ImageRef(*(field.pop(name) for name in _IMAGE_FIELDS))
        annotated = field.pop("annotated")
        yield Sample(
            **field,
            segments=tuple(segments[start:end]),
            image=image,
            annotated=None if annotated is None else tuple(annotated),
        )
        start = end


def to_row(sample: Sample) -> dict[str, Any]:
    """A sample as the JSON object of `schemas/sample.schema.json`."""
    row: dict[str, Any] = to_table([sample]).to_pylist()[0]
    return row


def _column(values: list[Any], field: pa.Field) -> pa.Array:
    if field.name in _ASCII:
        return pa.array(values, pa.binary()).cast(pa.string())
    return pa.array(values, field.type)


def _segment_column(field: pa.Field, segments: list[Segment]) -> pa.Array:
    values = [getattr(segment, field.name) for segment in segments]
    if field.name != "box":
        return _column(values, field)
    sides = np.asarray(values, np.float64).reshape(-1, 4)
    return pa.StructArray.from_arrays([pa.array(sides[:, side]) for side in range(4)], fields=list(_BOX))


def _values(column: Any, field: pa.Field) -> list[Any]:
    values: list[Any] = (column.cast(pa.binary()) if field.name in _ASCII else column).to_pylist()
    return values


def _segments(structs: pa.StructArray) -> list[Segment]:
    columns = []
    for field, column in zip(SEGMENT, structs.flatten(), strict=True):
        if field.name == "box":
            sides = [side.to_numpy(zero_copy_only=False).tolist() for side in column.flatten()]
            columns.append(list(zip(*sides, strict=True)))
        else:
            columns.append(_values(column, field))
    return [Segment(*values) for values in zip(*columns, strict=True)]
