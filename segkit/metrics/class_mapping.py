"""Classes of one vocabulary scored in another: the map from names to names, and what it leaves
out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from segkit.errors import InputError
from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.taxonomy import Category, Taxonomy


@dataclass(frozen=True)
class ClassMap:
    """Class ids of predictions -> class ids of the ground truth."""

    ids: dict[int, int]
    unmapped: tuple[str, ...] = ()
    """Predicted classes that the ground truth's vocabulary has no word for: their segments count as
    nothing."""
    unreachable: tuple[str, ...] = ()
    """Classes of the ground truth that no prediction can have."""
    ambiguous: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Predicted classes that fit several classes of the ground truth; the first listed was
    taken."""
    merged: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Classes of the ground truth that several predicted classes were mapped to."""


def class_map(source: Taxonomy, target: Taxonomy) -> ClassMap:
    """Map by shared words (names and synonyms, ignoring case and punctuation); same ids and names
    map to themselves.

    Raises:
        InputError: no class of `source` has a word in common with `target`.
    """
    if {c.id: c.name for c in source.categories} == {c.id: c.name for c in target.categories}:
        return ClassMap({category.id: category.id for category in target.categories})
    fits = {category.id: _fitting(category, target) for category in source.categories}
    ids = {class_id: found[0].id for class_id, found in fits.items() if found}
    if not ids:
        raise InputError(
            f"no class of {source.name} is a class of {target.name}",
            hint="predict with the data set's vocabulary",
        )
    onto: dict[str, list[str]] = {}
    for category in source.categories:
        if fits[category.id]:
            onto.setdefault(fits[category.id][0].name, []).append(category.name)
    return ClassMap(
        ids,
        unmapped=tuple(category.name for category in source.categories if not fits[category.id]),
        unreachable=tuple(
            category.name for category in target.categories if category.id not in ids.values()
        ),
        ambiguous={
            source.by_id[i].name: tuple(c.name for c in found)
            for i, found in fits.items()
            if len(found) > 1
        },
        merged={name: tuple(names) for name, names in onto.items() if len(names) > 1},
    )


def stated(given: Mapping[str, Any]) -> list[str]:
    """`class_map` of metrics.json in sentences, for people; none where nothing was lost or
    chosen."""
    notes = []
    if unmapped := given.get("unmapped"):
        notes.append(
            f"{len(unmapped)} predicted classes have no name in the ground truth and count as nothing."
        )
    if unreachable := given.get("unreachable"):
        notes.append(
            f"{len(unreachable)} classes of the ground truth have no predicted class and cannot be hit."
        )
    for name, fits in given.get("ambiguous", {}).items():
        notes.append(
            f"Predicted {name!r} fits {len(fits)} classes ({', '.join(fits)}): taken for the first."
        )
    for name, parts in given.get("merged", {}).items():
        notes.append(f"Predicted {', '.join(map(repr, parts))} count as one class, {name!r}.")
    return notes


def apply(mapping: ClassMap, sample: Sample, target: Taxonomy) -> Sample:
    """The sample in the target's classes, without the segments of unmapped ones.

    A class of stuff is one region of an image: what several classes of the source were mapped to it
    becomes one.
    """
    groups: dict[tuple[int, int], list[Segment]] = {}
    for place, segment in enumerate(s for s in sample.segments if s.class_id in mapping.ids):
        category = target.by_id[mapping.ids[segment.class_id]]
        own = -1 if category.kind == "stuff" and segment.mask is not None else place
        moved = replace(segment, class_id=category.id, kind=category.kind)
        groups.setdefault((category.id, own), []).append(moved)
    segments = (parts[0] if len(parts) == 1 else _union(parts, sample) for parts in groups.values())
    return replace(sample, segments=tuple(segments))


def _union(parts: Sequence[Segment], image: Sample) -> Segment:
    """All pixels of the parts, with the highest score."""
    size = (image.height, image.width)
    counts = rle.union([part.mask for part in parts if part.mask is not None], *size)
    scores = [part.score for part in parts if part.score is not None]
    box, area = rle.box(counts, *size), float(rle.area(counts, *size))
    return replace(parts[0], mask=counts, box=box, area=area, score=max(scores, default=None))


def _fitting(category: Category, target: Taxonomy) -> list[Category]:
    """Target classes of the same name, or else those that share a word."""
    name = _plain([category.name])
    same = [other for other in target.categories if _plain([other.name]) & name]
    return same or [
        other for other in target.categories if _plain(other.words) & _plain(category.words)
    ]


def _plain(words: Iterable[str]) -> set[str]:
    return {"".join(letter for letter in word.lower() if letter.isalnum()) for word in words}
