"""The classes that a task is evaluated on, and predictions in another vocabulary mapped to them."""

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from segkit.errors import InputError, plural, short_list
from segkit.sample import Sample
from segkit.shards.join_segments import join_segments
from segkit.shards.manifest import Task
from segkit.taxonomy import Category, Taxonomy


def class_names(taxonomy: Taxonomy) -> list[str]:
    """A distinct name of each class, in index order."""
    labels = taxonomy.unique_names
    return [labels[category.id] for category in taxonomy.categories]


def thing_classes(taxonomy: Taxonomy) -> list[Category]:
    """The classes that instances are evaluated on, in index order."""
    return [category for category in taxonomy.categories if category.kind == "thing"]


def task_class_names(taxonomy: Taxonomy, task: Task) -> list[str]:
    """Names of the classes that a task is evaluated on, in index order."""
    if task != "instance":
        return class_names(taxonomy)
    labels = taxonomy.unique_names
    return [labels[category.id] for category in thing_classes(taxonomy)]


@dataclass(frozen=True)
class ClassMap:
    """Class ids of predictions -> class ids of the ground truth."""

    ids: dict[int, int]
    unmapped: tuple[str, ...] = ()
    """Predicted classes without a name in the ground truth's vocabulary; their segments are
    dropped."""
    unreachable: tuple[str, ...] = ()
    """Classes of the ground truth that no prediction can have."""
    ambiguous: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Predicted classes that fit several classes of the ground truth; the first listed is used."""
    merged: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Classes of the ground truth that several predicted classes are mapped to."""

    @classmethod
    def from_taxonomies(cls, source: Taxonomy, target: Taxonomy) -> "ClassMap":
        """Map classes by name, or else by shared words (names and synonyms).

        A class of exactly the same name comes first, then one whose name differs in case and
        punctuation only, then one of the same spelling in its source; of several, the one of the
        same id. Last comes one that shares a word.
        Where ids and names are the same, every class maps to itself.

        Raises:
            InputError: no class of `source` has a word in common with `target`.
        """
        if {c.id: c.name for c in source.categories} == {c.id: c.name for c in target.categories}:
            return cls({category.id: category.id for category in target.categories})
        fits = {category.id: _fitting(category, target) for category in source.categories}
        ids = {class_id: categories[0].id for class_id, categories in fits.items() if categories}
        if not ids:
            message = f"no class of {source.name} is a class of {target.name}"
            raise InputError(message, hint="predict with the data set's vocabulary")
        sources: dict[str, list[str]] = {}
        for category in source.categories:
            if fits[category.id]:
                sources.setdefault(fits[category.id][0].name, []).append(category.name)
        return cls(
            ids,
            unmapped=tuple(c.name for c in source.categories if not fits[c.id]),
            unreachable=tuple(c.name for c in target.categories if c.id not in ids.values()),
            ambiguous={
                source.by_id[class_id].name: tuple(c.name for c in categories)
                for class_id, categories in fits.items()
                if len(categories) > 1
            },
            merged={name: tuple(names) for name, names in sources.items() if len(names) > 1},
        )

    @property
    def is_identity(self) -> bool:
        """Whether every class is mapped to the class of the same id."""
        return not self.unmapped and all(key == value for key, value in self.ids.items())

    def to_json(self) -> dict[str, Any]:
        """The `class_map` object of metrics.json; empty where nothing was lost or chosen."""
        columns = {
            "unmapped": self.unmapped,
            "unreachable": self.unreachable,
            "ambiguous": self.ambiguous,
            "merged": self.merged,
        }
        return columns if any(columns.values()) else {}

    def map_sample(self, sample: Sample, target: Taxonomy) -> Sample:
        """The sample in the target's classes, without the segments of unmapped ones.

        A class of stuff is one region of an image: the segments of several source classes that map
        to it become one, and their crowds another.
        """
        mapped = []
        for segment in sample.segments:
            if segment.class_id in self.ids:
                category = target.by_id[self.ids[segment.class_id]]
                mapped.append(replace(segment, class_id=category.id, kind=category.kind))
        size = (sample.height, sample.width)
        segments = join_segments(
            mapped, size, is_region=lambda segment: segment.kind == "stuff", score=max
        )
        return replace(sample, segments=segments)


def class_map_notes(class_map: Mapping[str, Any]) -> list[str]:
    """The `class_map` object of metrics.json in sentences; empty if no class was lost or chosen."""
    notes = []
    if unmapped := class_map.get("unmapped"):
        classes = plural(len(unmapped), "predicted class has", "predicted classes have")
        verb = "is" if len(unmapped) == 1 else "are"
        listed = short_list([repr(name) for name in unmapped])
        notes.append(f"{classes} no name in the ground truth and {verb} dropped: {listed}.")
    if unreachable := class_map.get("unreachable"):
        verb = "has" if len(unreachable) == 1 else "have"
        classes = f"{plural(len(unreachable), 'class', 'classes')} of the ground truth {verb}"
        listed = short_list([repr(name) for name in unreachable])
        notes.append(f"{classes} no predicted class and cannot be matched: {listed}.")
    for name, fits in class_map.get("ambiguous", {}).items():
        notes.append(
            f"Predicted {name!r} fits {len(fits)} classes ({', '.join(fits)}): the first is used."
        )
    for name, parts in class_map.get("merged", {}).items():
        notes.append(f"Predicted {', '.join(map(repr, parts))} count as one class, {name!r}.")
    return notes


def _fitting(category: Category, target: Taxonomy) -> list[Category]:
    """Target classes of the same name or spelling, of several that of the same id; or else those
    that share a word."""
    name, spellings = _plain([category.name]), _plain(_spellings(category))
    named = (
        [c for c in target.categories if c.name == category.name]
        or [c for c in target.categories if _plain([c.name]) & name]
        or [c for c in target.categories if _plain(_spellings(c)) & spellings]
    )
    if named:
        return [c for c in named if c.id == category.id] or named
    words = _plain(category.words)
    return [c for c in target.categories if _plain(c.words) & words]


def _spellings(category: Category) -> list[str]:
    """The name of a class, and that in its source."""
    return [category.name, category.source_name or category.name]


def _plain(words: Iterable[str]) -> set[str]:
    """Words without case, blanks and punctuation; none of those that hold nothing else."""
    return {_folded(word) for word in words} - {""}


@lru_cache(maxsize=1 << 14)
def _folded(word: str) -> str:
    """A word without case, blanks and punctuation; each is compared with all classes."""
    return "".join(filter(_is_meaningful, unicodedata.normalize("NFKC", word).casefold()))


def _is_meaningful(character: str) -> bool:
    """A letter with its marks (vowels of Hindi), a digit or a symbol such as the + of C++."""
    return unicodedata.category(character)[0] in "LMNS" or character == "#"
