"""Labels in another taxonomy: a table says which class becomes which; no image is rewritten."""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segkit.errors import InputError
from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.shards.header import Header
from segkit.shards.manifest import Count, Ledger
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_view
from segkit.taxonomy import Category, Taxonomy

UNMAPPED = "unmapped-class"


def read_table(path: Path, old: Taxonomy, new: Taxonomy) -> dict[int, int | None]:
    """A mapping table: CSV with the columns `from` and `to`, each a class name or id; a blank `to`
    drops the class.

    Returns:
        Class id of `old` -> class id of `new`, or None.

    Raises:
        InputError: the file cannot be read, names a class that a taxonomy lacks or a class twice,
            or leaves one out.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot be read ({error})", file=path, hint="give a CSV file") from error
    table: dict[int, int | None] = {}
    for number, row in enumerate(rows, start=2):
        line = f"line {number}"
        if row.get("from") is None or row.get("to") is None:
            raise InputError(
                "lacks a column", file=path, record=line, hint="give the columns from and to"
            )
        source = _find(row["from"], old, path, line).id
        target = _find(row["to"], new, path, line).id if row["to"].strip() else None
        if table.setdefault(source, target) != target:
            raise InputError(
                f"class {row['from']} has two targets",
                file=path,
                record=line,
                hint="leave one of them",
            )
    missing = [category.name for category in old.categories if category.id not in table]
    if missing:
        hint = "add a line for each; a blank `to` drops a class"
        raise InputError(
            f"says nothing of {', '.join(missing[:8])} ({len(missing)} classes)",
            file=path,
            hint=hint,
        )
    return table


def relabel(
    data: ShardSet,
    destination: Path,
    taxonomy: Taxonomy,
    table: Mapping[int, int | None],
    arguments: dict[str, Any],
) -> ShardSet:
    """Publish the set in another taxonomy, as a layer.

    Where labels are void-complete (panoptic, semantic), pixels of a dropped class become void, and
    regions that are one region in the new classes (semantic classes, stuff) are joined. An image
    was searched for a new class where it was searched for any class that maps to it, and
    exhaustively where for all and in each.

    Args:
        data: the set.
        destination: directory of the new set's versions.
        taxonomy: the new classes.
        table: class id of the set -> class id of `taxonomy`, or None to drop.
        arguments: the command's arguments.
    """
    tally: Counter[tuple[str, bool]] = Counter()
    joined: Counter[str] = Counter()
    labels = data.taxonomy.unique_names

    def rows() -> Iterator[tuple[Sample, ShardSet]]:
        for sample in data.samples():
            for segment in sample.segments:
                name = labels.get(segment.class_id, str(segment.class_id))
                tally[name, table.get(segment.class_id) is not None] += 1
            made = relabel_sample(sample, data.manifest.kind, taxonomy, table)
            kept = sum(table.get(segment.class_id) is not None for segment in sample.segments)
            joined["joined"] += kept - len(made.segments)
            yield made, data

    def ledger() -> Ledger:
        per_class = {
            name: _count(tally[name, True], tally[name, False])
            for name in dict.fromkeys(k for k, _ in tally)
        }
        whole = _count(
            sum(c.kept for c in per_class.values()),
            sum(c.input - c.kept for c in per_class.values()),
        )
        warned = whole.model_copy(update={"warnings": dict(+joined)})
        return Ledger(
            annotations=warned, images=Count(input=len(data), kept=len(data)), per_class=per_class
        )

    header = Header.from_set(data, "relabel", arguments)
    source_header = {
        key: value for key, value in header.source_header.items() if key != "categories"
    }
    header = replace(header, taxonomy=taxonomy, source_header=source_header)
    return write_view(destination, rows(), (data,), header, ledger=ledger)


def relabel_sample(
    sample: Sample, kind: str, taxonomy: Taxonomy, table: Mapping[int, int | None]
) -> Sample:
    """One sample in the new taxonomy; see `relabel`."""
    segments, dropped = [], []
    for segment in sample.segments:
        target = table.get(segment.class_id)
        if target is None:
            dropped.append(segment)
        else:
            segments.append(replace(segment, class_id=target, kind=taxonomy.by_id[target].kind))
    made = replace(sample, segments=tuple(segments), **_looked_for(sample, taxonomy, table))
    if kind not in ("panoptic", "semantic"):
        return made
    void, masks = sample.void, [segment.mask for segment in dropped if segment.mask is not None]
    if masks:
        void = rle.union(masks if void is None else [*masks, void], sample.height, sample.width)
    return replace(made, segments=tuple(_join(segments, kind, sample)), void=void)


def _looked_for(
    sample: Sample, taxonomy: Taxonomy, table: Mapping[int, int | None]
) -> dict[str, Any]:
    before = set(table) if sample.annotated is None else set(sample.annotated)
    any_of = {target for source, target in table.items() if source in before and target is not None}
    open_before = set(table) - before | set(sample.not_exhaustive)
    left_open = any_of & {target for source, target in table.items() if source in open_before}
    unknown = not sample.exhaustive and not sample.not_exhaustive
    return {
        "annotated": None if any_of == set(taxonomy.by_id) else tuple(sorted(any_of)),
        "exhaustive": not unknown and not left_open,
        "not_exhaustive": () if unknown else tuple(sorted(left_open)),
    }


def _join(segments: Sequence[Segment], kind: str, sample: Sample) -> list[Segment]:
    """One segment a class in semantic sets, one a stuff class in panoptic sets; crowds and bare
    boxes stay apart."""
    groups: dict[Any, list[Segment]] = {}
    for number, segment in enumerate(segments):
        one_region = (kind == "semantic" or segment.kind == "stuff") and segment.mask is not None
        groups.setdefault(
            (segment.class_id, segment.is_crowd) if one_region else number, []
        ).append(segment)
    return [group[0] if len(group) == 1 else _joined(group, sample) for group in groups.values()]


def _joined(group: Sequence[Segment], sample: Sample) -> Segment:
    size = (sample.height, sample.width)
    mask = rle.union([segment.mask for segment in group if segment.mask is not None], *size)
    scores = [segment.score for segment in group if segment.score is not None]
    return replace(
        group[0],
        box=rle.box(mask, *size),
        mask=mask,
        area=float(rle.area(mask, *size)),
        ignore=all(segment.ignore for segment in group),
        mask_from=group[0].mask_from
        if len({segment.mask_from for segment in group}) == 1
        else "derived",
        score=min(scores, default=None),
        source_polygon=None,
    )


def _count(kept: int, dropped: int) -> Count:
    return Count(input=kept + dropped, kept=kept, dropped={UNMAPPED: dropped} if dropped else {})


def _find(text: str, taxonomy: Taxonomy, path: Path, line: str) -> Category:
    """The class of a name, or else of an id."""
    text = text.strip()
    named = [
        category
        for category in taxonomy.categories
        if text in (category.name, category.source_name)
    ]
    if len(named) == 1:
        return named[0]
    category = taxonomy.by_id.get(int(text)) if text.isascii() and text.isdigit() else None
    if category is None:
        message = "is the name of several classes" if named else "is no class"
        hint = "give its id" if named else "check the name"
        raise InputError(
            f"{text!r} {message} of {taxonomy.name}", file=path, record=line, hint=hint
        )
    return category
