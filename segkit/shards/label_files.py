"""Open the Parquet files of labels, and check what they hold: other tools can write them too.

The checks cover what the rest of segkit computes with: columns and their types, sizes of images,
known classes, finite boxes, masks that fill their image. `segkit validate` checks far more.
"""

import math
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from segkit import storage
from segkit.errors import InputError, short
from segkit.images.png import MAX_PIXELS
from segkit.masks.run_lengths import first_malformed
from segkit.sample import Sample
from segkit.shards import arrow
from segkit.taxonomy import Taxonomy

DAMAGE_HINT = "`segkit validate` lists the damage"
_SIZE = ("width", "height")
_KINDS = frozenset({"thing", "stuff"})
_SOURCES = frozenset({None, "human", "derived", "pseudo", "prediction"})
_SCHEMAS = (
    arrow.SCHEMA,
    pa.schema([field for field in arrow.SCHEMA if field.name not in arrow.LATER]),
)


@contextmanager
def open_labels(
    path: Path, rows: int | None = None, content: pa.NativeFile | None = None
) -> Iterator[pq.ParquetFile]:
    """Open a file of labels; errors in reading it end the block with an InputError.

    Args:
        path: the file.
        rows: the number of rows that it must have; None for any.
        content: its content, where it need not be read from `path`.

    Raises:
        InputError: it is not Parquet, its columns are not those of `arrow.SCHEMA`, it has another
            number of rows, or one of its pages is damaged.
    """
    try:
        with storage.parquet_file(path, content) as file:
            if not has_schema(file.schema_arrow):
                message = "the columns are not those of schemas/sample.schema.json"
                raise InputError(message, file=path, hint=DAMAGE_HINT)
            if rows is not None and file.metadata.num_rows != rows:
                message = f"has {file.metadata.num_rows} rows, the manifest says {rows}"
                raise InputError(message, file=path, hint=DAMAGE_HINT)
            yield file
    except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: text that is not UTF-8
        message = f"labels not readable ({storage.reason(error)})"
        raise InputError(message, file=path, hint=DAMAGE_HINT) from error


def read_group(file: pq.ParquetFile, group: int, columns: list[str] | None = None) -> pa.Table:
    """Read a row group of an open file, and check that its text is UTF-8."""
    table = file.read_row_group(group, columns=columns, use_threads=False)
    table.validate(full=True)
    return table


def has_schema(schema: pa.Schema) -> bool:
    """Whether the columns of a file are those of labels, or those of an older segkit's."""
    return any(schema.equals(known) for known in _SCHEMAS)


def check_sizes(table: Any, file: Path) -> None:
    """Raise InputError if a row of a table claims a size that no image may have."""
    width, height = (arrow.numbers(table.column(name).combine_chunks()) for name in _SIZE)
    # each side by itself first: their product may not fit in 64 bits
    sides = (width >= 1) & (height >= 1) & (width <= MAX_PIXELS) & (height <= MAX_PIXELS)
    wrong = np.flatnonzero(~sides | (np.where(sides, width * height, 0) > MAX_PIXELS))
    if len(wrong):
        place = int(wrong[0])
        message = f"invalid size of {width[place]} x {height[place]} pixels"
        record = f"image {table.column('id')[place].as_py()}"
        raise InputError(message, file=file, record=record, hint=DAMAGE_HINT)


def checked_samples(samples: Iterable[Sample], taxonomy: Taxonomy, file: Path) -> Iterator[Sample]:
    """The samples; InputError before one with values that cannot be computed with.

    The run lengths of masks are left to `check_masks`, because decoding checks them as well.

    Args:
        samples: samples of one file.
        taxonomy: the classes of their set.
        file: the file that the error names.
    """
    classes = taxonomy.by_id
    for sample in samples:
        if message := _problem(sample, classes):
            raise _error(message, file, sample)
        yield sample


def check_masks(samples: Sequence[Sample], file: Path) -> None:
    """Raise InputError if a mask of a sample, or its void, does not fill the image.

    Args:
        samples: samples of one file.
        file: the file that the error names.
    """
    masks: list[bytes] = []
    ends = []
    for sample in samples:
        masks += [segment.mask for segment in sample.segments if segment.mask is not None]
        if sample.void is not None:
            masks.append(sample.void)
        ends.append(len(masks))
    sizes = np.array([sample.width * sample.height for sample in samples], np.int64)
    pixels = np.repeat(sizes, np.diff(ends, prepend=0))
    if (place := first_malformed(masks, pixels)) is not None:
        message = "a mask whose run lengths are damaged or do not fill the image"
        raise _error(message, file, samples[int(np.searchsorted(ends, place, "right"))])


def _problem(sample: Sample, classes: Container[int]) -> str | None:
    image = sample.image
    if image.offset < 0 or image.length < 0:
        return f"its image is at byte {image.offset} with {image.length} bytes"
    for class_id in (*(sample.annotated or ()), *sample.not_exhaustive):
        if class_id not in classes:
            return f"annotated class {class_id} is not in the taxonomy"
    for number, segment in enumerate(sample.segments):
        x, y, width, height = segment.box
        if segment.class_id not in classes:
            message = f"class {segment.class_id} is not in the taxonomy"
        elif segment.kind not in _KINDS:
            message = f"kind {short(repr(segment.kind))} is neither thing nor stuff"
        elif segment.mask_from not in _SOURCES:
            message = f"mask_from {short(repr(segment.mask_from))} is unknown"
        elif not math.isfinite(x + y + width + height + segment.area + (segment.score or 0)):
            message = "its box, area or score is not finite"
        else:
            continue
        return f"segment {number}: {message}"
    return None


def _error(message: str, file: Path, sample: Sample) -> InputError:
    return InputError(message, file=file, record=f"image {short(sample.id)}", hint=DAMAGE_HINT)
