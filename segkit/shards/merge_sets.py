"""Merge several sets into one: their samples one after the other, without copying an image."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segkit.errors import InputError
from segkit.sample import Sample
from segkit.shards.header import Header
from segkit.shards.manifest import ZERO_SHOT, Count, Ledger
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_view
from segkit.taxonomy import Category, Taxonomy

_RECORD_LISTS = ("categories", "licenses")
"""Keys of COCO's header whose values are lists of records with ids."""


def merge_sets(
    sets: Sequence[ShardSet],
    destination: str | Path,
    *,
    name: str,
    rename: bool,
    arguments: dict[str, Any],
    verify_images: bool = True,
    force: bool = False,
    on_image: Callable[[], None] = lambda: None,
) -> ShardSet:
    """Publish the samples of all sets as one set that copies no image.

    The annotated classes of an image stay the same: a sample of a set with fewer classes lists them
    in `annotated`. Of the source headers, what the sets agree in is kept.

    Args:
        sets: at least two sets of one kind.
        destination: directory of the new set's versions.
        name: its name.
        rename: put the set's number (from 1) and a hyphen before every id, so that equal ids of
            different sets do not clash.
        arguments: the command's arguments.
        verify_images: read each image and compare its bytes with the SHA-256 in its row.
        force: publish a version that equals the newest one too; without it, that one is returned,
            with an UnchangedWarning.
        on_image: called after each image.

    Raises:
        InputError: there is one set, an image is missing or damaged, kinds differ, classes
            contradict each other, or an id occurs in two sets.
    """
    if len(sets) < 2:
        raise InputError("nothing to merge with one set", hint="give two or more")
    kinds = {data.manifest.kind for data in sets}
    if len(kinds) > 1:
        names = sorted({f"{data.path} is {data.manifest.kind}" for data in sets})
        message = f"sets of kinds {' and '.join(sorted(kinds))} cannot be merged"
        hint = "train with each of them, --data SET --data SET, which takes sets of any kinds"
        if kinds == {"boxes", "instance"}:  # which is what masks of boxes become
            hint += "; or give the boxes masks first, by `segkit pseudolabel`"
        raise InputError(f"{message}: {', '.join(names)}", file=destination, hint=hint)
    taxonomy = merge_taxonomies([data.taxonomy for data in sets], name)
    segments = sum(data.manifest.statistics.segments for data in sets)
    images = sum(map(len, sets))
    splits = {data.manifest.split for data in sets}
    records = [data.manifest.source_header.get(ZERO_SHOT) for data in sets]
    if any(record != records[0] for record in records):
        message = "the sets are not parts of one zero-shot split: merged, it would be lost"
        raise InputError(message, file=destination, hint="split them alike, or merge them first")
    header = Header(
        name=name,
        kind=kinds.pop(),
        taxonomy=taxonomy,
        command="merge",
        arguments=arguments,
        split=splits.pop() if len(splits) == 1 else None,
        source_header=merge_source_headers([data.manifest.source_header for data in sets]),
    )
    ledger = Ledger(
        annotations=Count(input=segments, kept=segments), images=Count(input=images, kept=images)
    )
    rows = _rows(sets, taxonomy, rename, verify_images, on_image)
    return write_view(destination, rows, sets, header, ledger=lambda: ledger, force=force)


def merge_taxonomies(taxonomies: Sequence[Taxonomy], name: str) -> Taxonomy:
    """All classes of all taxonomies; InputError if an id or a name means different classes."""
    by_id: dict[int, Category] = {}
    ids: dict[str, set[int]] = {}
    hint = (
        "bring the sets to one taxonomy, each by `segkit relabel SET --taxonomy NAMES.txt --map "
        "MAP.csv --out NEW`, where NAMES.txt lists the classes of all sets, one a line"
    )
    for taxonomy in taxonomies:
        own_ids: defaultdict[str, set[int]] = defaultdict(set)
        for category in taxonomy.categories:
            own_ids[category.name].add(category.id)
        for category in taxonomy.categories:
            known = by_id.setdefault(category.id, category)
            record = f"taxonomy {taxonomy.name}, class {category.id} {category.name!r}"
            if (known.name, known.kind) != (category.name, category.kind):
                message = f"elsewhere it is {known.name!r} ({known.kind})"
                raise InputError(message, record=record, hint=hint)
            known_ids = ids.setdefault(category.name, own_ids[category.name])
            if known_ids != own_ids[category.name]:
                listed = " and ".join(map(str, sorted(known_ids)))
                raise InputError(f"elsewhere it has id {listed}", record=record, hint=hint)
    complete = {taxonomy.name for taxonomy in taxonomies if len(taxonomy.categories) == len(by_id)}
    return Taxonomy(complete.pop() if len(complete) == 1 else name, tuple(by_id.values()))


def merge_source_headers(headers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The keys that all headers have with one value, and their joined categories and licenses.

    Of the latter, an id that has different records in two headers is left out.
    """
    first, *rest = headers
    merged = {
        key: value
        for key, value in first.items()
        if all(key in header and header[key] == value for header in rest)
    }
    for key in _RECORD_LISTS:
        lists = [header[key] for header in headers if key in header]
        if key not in merged and (records := _join_records(lists)):
            merged[key] = records
    return merged


def _join_records(lists: Sequence[Any]) -> list[dict[str, Any]]:
    """The records of all lists, each id once; none if a value is not a list of records with ids."""
    records: dict[str, dict[str, Any]] = {}
    ambiguous: set[str] = set()
    for rows in lists:
        if not isinstance(rows, list):
            return []
        for row in rows:
            if not isinstance(row, dict) or "id" not in row:
                return []
            record_id = str(row["id"])  # readers may take 1 and "1" for one id
            if records.setdefault(record_id, row) != row:
                ambiguous.add(record_id)
    return [row for record_id, row in records.items() if record_id not in ambiguous]


def differing_words(taxonomies: Sequence[Taxonomy]) -> list[str]:
    """Names of the classes whose words differ between taxonomies; a merge takes the first's."""
    first: dict[int, Category] = {}
    return [
        category.name
        for taxonomy in taxonomies
        for category in taxonomy.categories
        if first.setdefault(category.id, category).words != category.words
    ]


def _rows(
    sets: Sequence[ShardSet],
    taxonomy: Taxonomy,
    rename: bool,
    verify_images: bool,
    on_image: Callable[[], None],
) -> Iterator[tuple[Sample, ShardSet]]:
    set_of_id: dict[str, ShardSet] = {}
    for number, data in enumerate(sets, start=1):
        complete = len(data.taxonomy.categories) == len(taxonomy.categories)
        annotated = None if complete else tuple(data.taxonomy.by_id)
        for sample in data.samples(check_masks=True):
            if verify_images:
                data.verify_image(sample)
            sample_id = f"{number}-{sample.id}" if rename else sample.id
            if sample_id in set_of_id:
                files = f"{set_of_id[sample_id].path} and {data.path}"
                record = f"image {sample_id}"
                raise InputError("occurs in both", file=files, record=record, hint="use --rename")
            set_of_id[sample_id] = data
            if sample.annotated is None:
                sample = replace(sample, annotated=annotated)
            yield replace(sample, id=sample_id), data
            on_image()
