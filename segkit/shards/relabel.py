"""Map labels to another taxonomy by a table of classes; no image is rewritten."""

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from segkit import parse
from segkit.errors import InputError, Notice, plural, short, short_list
from segkit.masks import rle
from segkit.sample import Sample
from segkit.shards.header import Header
from segkit.shards.join_segments import join_segments
from segkit.shards.manifest import Count, Ledger, SetKind
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_view
from segkit.taxonomy import Category, Taxonomy

UNMAPPED = "unmapped-class"
"""Ledger code of the segments whose class the table drops."""
_ID = re.compile(r"-?[0-9]{1,10}")
ClassMap = Mapping[int, int | None]
"""Class id of the old taxonomy -> class id of the new one, or None to drop the class."""


def read_table(path: Path, old: Taxonomy, new: Taxonomy) -> dict[int, int | None]:
    """Read a class map: CSV with the columns `from` and `to`.

    Each holds a class name or id; a blank `to` drops the class.

    Raises:
        InputError: the file cannot be read, names a class that a taxonomy lacks or a class twice,
            or leaves one out.
    """
    class_map: dict[int, int | None] = {}
    old_names, new_names = _by_name(old), _by_name(new)
    for number, row in parse.read_csv(path, ("from", "to")):
        line = f"line {number}"
        source = _find_class(row["from"], old, old_names, path, line).id
        target = None
        if row["to"].strip():
            target = _find_class(row["to"], new, new_names, path, line).id
        if class_map.setdefault(source, target) != target:
            message = f"class {short(row['from'])} has two targets"
            raise InputError(message, file=path, record=line, hint="keep one of them")
    missing = [category.name for category in old.categories if category.id not in class_map]
    if missing:
        classes = plural(len(missing), "class", "classes")
        message = f"has no line for {short_list(missing, 8)} ({classes})"
        hint = "add a line for each; a blank `to` drops a class"
        raise InputError(message, file=path, hint=hint)
    return class_map


def relabel(
    data: ShardSet,
    destination: str | Path,
    taxonomy: Taxonomy,
    class_map: ClassMap,
    arguments: dict[str, Any],
    *,
    verify_images: bool = True,
    force: bool = False,
    on_image: Callable[[], None] = lambda: None,
) -> ShardSet:
    """Publish the set in another taxonomy, as a layer.

    If labels cover whole images (panoptic, semantic), pixels of a dropped class become void, and
    regions that are one region in the new classes (semantic classes, stuff) are joined. A new class
    is annotated in an image if any class that maps to it is, and exhaustively if all are. Each
    region of stuff that becomes a thing counts as one object: a Notice names its classes.

    Args:
        data: the set.
        destination: directory of the new set's versions.
        taxonomy: the new classes.
        class_map: the new class of each class.
        arguments: the command's arguments.
        verify_images: read each image and compare its bytes with the SHA-256 in its row.
        force: publish a version that equals the newest one too; without it, that one is returned,
            with an UnchangedWarning.
        on_image: called after each image.

    Raises:
        InputError: an image is missing or damaged.
    """
    kept: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    joined = 0
    names = data.taxonomy.unique_names

    def rows() -> Iterator[tuple[Sample, ShardSet]]:
        nonlocal joined
        for sample in data.samples(check_masks=True):
            if verify_images:
                data.verify_image(sample)
            mapped = 0
            for segment in sample.segments:
                is_mapped = class_map.get(segment.class_id) is not None
                name = names.get(segment.class_id, str(segment.class_id))
                kept[name] += is_mapped
                dropped[name] += not is_mapped
                mapped += is_mapped
            relabeled = relabel_sample(sample, data.manifest.kind, taxonomy, class_map)
            joined += mapped - len(relabeled.segments)
            yield relabeled, data
            on_image()

    def ledger() -> Ledger:
        of_all = {UNMAPPED: dropped.total()}
        return Ledger(
            annotations=Count.from_kept(kept.total(), of_all, {"joined": joined}),
            images=Count(input=len(data), kept=len(data)),
            per_class={
                name: Count.from_kept(kept[name], {UNMAPPED: dropped[name]}) for name in kept
            },
        )

    header = Header.from_set(data, "relabel", arguments).with_taxonomy(taxonomy)
    relabeled = write_view(destination, rows(), (data,), header, ledger=ledger, force=force)
    things = {category.id for category in taxonomy.categories if category.kind == "thing"}
    objects = [
        repr(names[category.id])
        for category in data.taxonomy.categories
        if category.kind == "stuff" and class_map.get(category.id) in things
        if kept[names[category.id]]
    ]
    if objects and data.manifest.kind == "panoptic":
        verb = "becomes" if len(objects) == 1 else "become"
        message = f"stuff {short_list(objects)} {verb} things: each region counts as one object"
        warnings.warn(message, Notice, stacklevel=2)
    return relabeled


def relabel_sample(
    sample: Sample, kind: SetKind, taxonomy: Taxonomy, class_map: ClassMap
) -> Sample:
    """One sample in the new taxonomy; see `relabel`."""
    segments, dropped = [], []
    for segment in sample.segments:
        target = class_map.get(segment.class_id)
        if target is None:
            dropped.append(segment)
        else:
            segments.append(replace(segment, class_id=target, kind=taxonomy.by_id[target].kind))
    relabeled = replace(sample, segments=tuple(segments), **_annotated(sample, taxonomy, class_map))
    if kind not in ("panoptic", "semantic"):
        return relabeled
    void, masks = sample.void, [segment.mask for segment in dropped if segment.mask is not None]
    if masks:
        void = rle.union(masks if void is None else [*masks, void], sample.height, sample.width)
    joined = join_segments(
        segments,
        (sample.height, sample.width),
        is_region=lambda segment: kind == "semantic" or segment.kind == "stuff",
        score=min,
    )
    return replace(relabeled, segments=joined, void=void)


def _annotated(sample: Sample, taxonomy: Taxonomy, class_map: ClassMap) -> dict[str, Any]:
    """The fields of a relabeled sample that say which classes are annotated, and how fully."""
    before = set(class_map) if sample.annotated is None else set(sample.annotated)
    after = {target for source, target in class_map.items() if source in before} - {None}
    incomplete_before = set(class_map) - before | set(sample.not_exhaustive)
    incomplete = after & {class_map[source] for source in incomplete_before if source in class_map}
    unknown = not sample.exhaustive and not sample.not_exhaustive
    return {
        "annotated": None if after == set(taxonomy.by_id) else tuple(sorted(after)),
        "exhaustive": not unknown and not incomplete,
        "not_exhaustive": () if unknown else tuple(sorted(incomplete)),
    }


def _by_name(taxonomy: Taxonomy) -> dict[str, list[Category]]:
    """The classes of each name and of each spelling of the source."""
    names = defaultdict(list)
    for category in taxonomy.categories:
        for name in {category.name, category.source_name or category.name}:
            names[name].append(category)
    return names


def _find_class(
    text: str, taxonomy: Taxonomy, names: Mapping[str, list[Category]], path: Path, line: str
) -> Category:
    """The class with a name, or else with an id."""
    text = text.strip()
    named = names.get(text, [])
    if len(named) == 1:
        return named[0]
    category = taxonomy.by_id.get(int(text)) if _ID.fullmatch(text) else None
    if category is None:
        quoted = short(repr(text))
        message = f"{quoted} is the name of several classes" if named else f"no class {quoted}"
        hint = "give its id" if named else "check the name"
        raise InputError(f"{message} in {taxonomy.name}", file=path, record=line, hint=hint)
    return category
