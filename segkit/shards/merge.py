"""Several sets as one: their samples one after the other, over their own images."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segkit.errors import InputError
from segkit.sample import Sample
from segkit.shards.header import Header
from segkit.shards.manifest import Count, Ledger
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_view
from segkit.taxonomy import Category, Taxonomy


def merge(
    sets: Sequence[ShardSet],
    destination: Path,
    *,
    name: str,
    rename: bool,
    arguments: dict[str, Any],
) -> ShardSet:
    """Publish the samples of all sets as one set that copies no image.

    What was looked for in an image stays what it was: a sample of a set with fewer classes says so
    in `annotated`.

    Args:
        sets: at least two sets of one kind.
        destination: directory of the new set's versions.
        name: its name.
        rename: put `<number of the set>-` before every id, so that equal ids of different sets do
            not clash.
        arguments: the command's arguments.

    Raises:
        InputError: kinds differ, classes contradict each other, or an id occurs in two sets.
    """
    kinds = {one.manifest.kind for one in sets}
    if len(kinds) > 1:
        message = f"sets of kinds {' and '.join(sorted(kinds))} do not merge"
        raise InputError(message, file=destination, hint="give sets of one kind")
    taxonomy = union([one.taxonomy for one in sets], name)
    segments = sum(one.manifest.statistics.segments for one in sets)
    images = sum(map(len, sets))
    splits = {one.manifest.split for one in sets}
    header = Header(
        name=name,
        kind=kinds.pop(),
        taxonomy=taxonomy,
        command="merge",
        arguments=arguments,
        split=splits.pop() if len(splits) == 1 else None,
    )
    ledger = Ledger(
        annotations=Count(input=segments, kept=segments), images=Count(input=images, kept=images)
    )
    rows = _rows(sets, taxonomy, rename)
    return write_view(destination, rows, sets, header, ledger=lambda: ledger)


def union(taxonomies: Sequence[Taxonomy], name: str) -> Taxonomy:
    """All classes of all taxonomies; InputError where an id or a name does not mean the same class
    everywhere."""
    by_id: dict[int, Category] = {}
    by_name: dict[str, int] = {}
    for taxonomy in taxonomies:
        for category in taxonomy.categories:
            known = by_id.setdefault(category.id, category)
            where = f"taxonomy {taxonomy.name}, class {category.id} {category.name!r}"
            hint = "bring the sets to one taxonomy with segkit relabel"
            if (known.name, known.kind) != (category.name, category.kind):
                raise InputError(
                    f"elsewhere it is {known.name!r} ({known.kind})", record=where, hint=hint
                )
            if (
                len(taxonomies) > 1
                and by_name.setdefault(category.name, category.id) != category.id
            ):
                raise InputError(
                    f"elsewhere it has id {by_name[category.name]}", record=where, hint=hint
                )
    same = {taxonomy.name for taxonomy in taxonomies if len(taxonomy.categories) == len(by_id)}
    return Taxonomy(same.pop() if len(same) == 1 else name, tuple(by_id.values()))


def _rows(
    sets: Sequence[ShardSet], taxonomy: Taxonomy, rename: bool
) -> Iterator[tuple[Sample, ShardSet]]:
    seen: dict[str, ShardSet] = {}
    for number, one in enumerate(sets, start=1):
        whole = len(one.taxonomy.categories) == len(taxonomy.categories)
        looked_for = None if whole else tuple(one.taxonomy.by_id)
        for sample in one.samples():
            made = replace(
                sample, annotated=looked_for if sample.annotated is None else sample.annotated
            )
            if rename:
                made = replace(made, id=f"{number}-{sample.id}")
            if made.id in seen:
                where = f"{seen[made.id].path} and {one.path}"
                raise InputError(
                    "occurs in both",
                    file=where,
                    record=f"image {made.id}",
                    hint="merge with --rename",
                )
            seen[made.id] = one
            yield made, one
