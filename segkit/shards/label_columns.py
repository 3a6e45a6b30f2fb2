"""Read some columns of a set's labels, without making segments.

Row groups are read one by one: a set may have more labels than fit in memory.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from segkit.sample import Sample
from segkit.shards.arrow import SCHEMA, Rows, elements
from segkit.shards.label_files import check_sizes, checked_samples, open_labels, read_group
from segkit.shards.reader import ShardSet


def read_columns(shards: ShardSet, columns: list[str], rows: range | None = None) -> Iterator[Any]:
    """Arrow tables of some columns, a table for each row group.

    `pyarrow.parquet.read_table` would do, but it imports pandas, which takes half a second.

    Args:
        shards: the set.
        columns: names, such as `id` or `segments.list.element.mask`.
        rows: some consecutive images of the set; None for all.

    Raises:
        InputError: a part cannot be read.
    """
    rows, stop = range(len(shards)) if rows is None else rows, 0
    for part in shards.manifest.parts:
        first, stop = stop, stop + part.rows
        if stop <= rows.start or first >= rows.stop:
            continue
        path = shards.locations.part(part.labels)
        with open_labels(path, part.rows) as file:
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                start, end = max(rows.start - first, 0), min(rows.stop - first, count)
                first += count
                if start >= end:
                    continue
                table = read_group(file, group, columns)
                if "width" in columns:
                    check_sizes(table, path)
                yield table.slice(start, end - start)


def read_images(shards: ShardSet) -> Iterator[Sample]:
    """The samples of a set in order, without their segments.

    Raises:
        InputError: as of `ShardSet.samples`.
    """
    columns = [name for name in SCHEMA.names if name != "segments"]
    for table in read_columns(shards, columns):
        yield from checked_samples(Rows(table), shards.taxonomy, shards.path)


def read_segments(shards: ShardSet, field: str) -> Iterator[list[Any]]:
    """The values of a field of each image's segments, such as `source_id`, image by image.

    Raises:
        InputError: a part cannot be read.
    """
    for table in read_columns(shards, [f"segments.list.element.{field}"]):
        segments, offsets = elements(table.column("segments").combine_chunks())
        values = segments.field(field).to_pylist()
        yield from (values[start:end] for start, end in pairwise(offsets.tolist()))
