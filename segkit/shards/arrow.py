"""Convert samples to the rows of an Arrow table, with a nested list of segments, and back."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segkit.sample import Box, ImageRef, Sample, Segment

_BOX = pa.struct(
    [pa.field(side, pa.float64(), nullable=False) for side in ("x", "y", "width", "height")]
)
SEGMENT = pa.struct(
    [
        pa.field("class_id", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("box", _BOX, nullable=False),
        # COCO's counts are ASCII: text in DuckDB and JSON, bytes in Python
        pa.field("mask", pa.string()),
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
        pa.field("not_exhaustive", pa.list_(pa.field("element", pa.int64(), nullable=False))),
        pa.field("void", pa.string()),
        pa.field("source", pa.string()),
        pa.field(
            "segments", pa.list_(pa.field("element", SEGMENT, nullable=False)), nullable=False
        ),
    ]
)
LATER = frozenset({"not_exhaustive"})
"""Columns that sets of older versions of segkit lack."""
_IMAGE_FIELDS = ("tar", "offset", "length", "sha256", "path")
_ASCII = frozenset({"mask", "void"})


def to_table(samples: Sequence[Sample]) -> pa.Table:
    """A table of samples, in `SCHEMA`."""
    segments = [segment for sample in samples for segment in sample.segments]
    lengths = np.cumsum([len(sample.segments) for sample in samples])
    offsets = np.concatenate(([0], lengths)).astype(np.int32)
    columns = []
    for field in SCHEMA:
        if field.name == "segments":
            structs = pa.StructArray.from_arrays(
                [_segment_column(f, segments) for f in SEGMENT], fields=list(SEGMENT)
            )
            columns.append(pa.ListArray.from_arrays(pa.array(offsets), structs, type=field.type))
        elif field.name in _IMAGE_FIELDS:
            values = [getattr(sample.image, field.name) for sample in samples]
            columns.append(pa.array(values, field.type))
        else:
            columns.append(_column([getattr(sample, field.name) for sample in samples], field))
    return pa.Table.from_arrays(columns, schema=SCHEMA)


class Rows:
    """The rows of a table of labels; each is converted to a sample on access."""

    def __init__(self, table: pa.Table) -> None:
        """Prepare the columns; missing ones of `LATER` have their defaults.

        Without the column `segments`, the samples have none.
        """
        present = set(table.column_names)
        names = [name for name in SCHEMA.names if name in present or name not in LATER]
        names.remove("segments")
        self._columns = {
            name: _cutter(table.column(name).combine_chunks(), SCHEMA.field(name)) for name in names
        }
        self._segments: list[Callable[[int, int], list[Any]]] = []
        self._offsets = [0] * (len(table) + 1)
        if "segments" not in present:
            return
        structs, offsets = elements(table.column("segments").combine_chunks())
        columns = zip(SEGMENT, structs.flatten(), strict=True)
        self._segments = [_cutter(column, field) for field, column in columns]
        self._offsets = offsets.tolist()

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __iter__(self) -> Iterator[Sample]:
        return self._samples(0, len(self))

    def __getitem__(self, row: int) -> Sample:
        return next(self._samples(row, row + 1))

    def _samples(self, start: int, stop: int) -> Iterator[Sample]:
        """The samples of rows from `start` up to but not including `stop`."""
        values = {name: cut(start, stop) for name, cut in self._columns.items()}
        first, last = self._offsets[start], self._offsets[stop]
        columns = (cut(first, last) for cut in self._segments)
        segments = [Segment(*fields) for fields in zip(*columns, strict=True)]
        for row in range(stop - start):
            fields = {name: column[row] for name, column in values.items()}
            image = ImageRef(*[fields.pop(name) for name in _IMAGE_FIELDS])
            annotated, not_exhaustive = fields.pop("annotated"), fields.pop("not_exhaustive", None)
            begin, end = self._offsets[start + row], self._offsets[start + row + 1]
            yield Sample(
                **fields,
                segments=tuple(segments[begin - first : end - first]),
                image=image,
                annotated=None if annotated is None else tuple(annotated),
                not_exhaustive=tuple(not_exhaustive or ()),
            )


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
    return pa.StructArray.from_arrays(
        [pa.array(sides[:, side]) for side in range(4)], fields=list(_BOX)
    )


# Arrow's own `flatten`, `cast`, `value_lengths` and `to_numpy` import pyarrow.compute and, if
# installed, pandas: a quarter of a second, longer than reading a thousand images.


def elements(lists: Any) -> tuple[Any, NDArray[np.int64]]:
    """The elements of a list array without nulls, and the (N + 1,) offsets of its lists in them."""
    buffer = np.frombuffer(lists.buffers()[1] or bytes(4), np.int32)
    offsets = buffer[lists.offset : lists.offset + len(lists) + 1].astype(np.int64)
    first, last = int(offsets[0]), int(offsets[-1])
    return lists.values.slice(first, last - first), offsets - first


def numbers(array: Any) -> NDArray[Any]:
    """The values of an int64 or float64 array without nulls, without a copy."""
    dtype = np.dtype(np.int64 if pa.types.is_int64(array.type) else np.float64)
    return np.frombuffer(array.buffers()[1] or b"", dtype)[array.offset : array.offset + len(array)]


def flags(array: Any) -> NDArray[np.bool_]:
    """The values of a boolean array without nulls."""
    packed = np.frombuffer(array.buffers()[1] or b"", np.uint8)
    bits = np.unpackbits(packed, bitorder="little")
    return bits[array.offset : array.offset + len(array)].astype(np.bool_)


def texts(array: Any) -> list[bytes | None]:
    """The bytes of a string array."""
    if array.null_count or not len(array):
        values: list[bytes | None] = array.view(pa.binary()).to_pylist()
        return values
    return [*_text_cutter(array)(0, len(array))]


def reals(array: Any) -> list[float | None]:
    """The values of a float64 array."""
    values: list[float | None] = array.to_pylist() if array.null_count else numbers(array).tolist()
    return values


def boxes(array: Any) -> list[Box]:
    """x, y, width and height of each element of a box array."""
    return list(zip(*(numbers(side).tolist() for side in array.flatten()), strict=True))


def _cutter(array: Any, field: pa.Field) -> Callable[[int, int], list[Any]]:
    """A function from two rows to the values between them, as `Sample` and `Segment` have them."""
    if field.name == "box":
        sides = [numbers(side) for side in array.flatten()]
        return lambda a, b: list(zip(*(side[a:b].tolist() for side in sides), strict=True))
    if array.null_count == len(array):
        return lambda a, b: [None] * (b - a)
    is_text = pa.types.is_string(field.type)
    if not array.null_count and not pa.types.is_list(field.type):
        # Arrow makes a scalar of each value on the way to a list
        if is_text:
            cut = _text_cutter(array)
            if field.name in _ASCII:
                return cut
            return lambda a, b: [str(text, "utf-8") for text in cut(a, b)]
        values = flags(array) if pa.types.is_boolean(field.type) else numbers(array)
        return lambda a, b: values[a:b].tolist()
    if field.name in _ASCII:
        return lambda a, b: texts(array.slice(a, b - a))
    return lambda a, b: array.slice(a, b - a).to_pylist()


def _text_cutter(array: Any) -> Callable[[int, int], list[bytes]]:
    """A function from two rows of a string array without nulls to the bytes of those between."""
    _, buffer, data = array.buffers()
    offsets = np.frombuffer(buffer, np.int32)[array.offset : array.offset + len(array) + 1]
    content = memoryview(data or b"")

    def cut(a: int, b: int) -> list[bytes]:
        ends = offsets[a : b + 1].tolist()
        first = ends[0]
        # cut here, because Arrow makes an object of each value on the way
        text = bytes(content[first : ends[-1]])
        return [text[a - first : b - first] for a, b in pairwise(ends)]

    return cut
