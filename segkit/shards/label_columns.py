"""Read some columns of a set's labels, without making samples.

Row groups are read one by one: a set may have more labels than fit in memory.
"""

from collections.abc import Iterator
from typing import Any

from segkit.shards.label_files import check_sizes, open_labels, read_group
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
