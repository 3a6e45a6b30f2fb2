"""Class lists: ids, names, thing or stuff, and the words by which a text encoder knows each
class."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from segkit.errors import InputError
from segkit.sample import Kind


@dataclass(frozen=True, slots=True)
class Category:
    """One class of a taxonomy."""

    id: int
    """The source's own id."""
    name: str
    """The name shown in tables: the source's, trimmed of blanks."""
    kind: Kind
    text: tuple[str, ...] = ()
    """What a text encoder reads for this class (clean name first, then synonyms); empty means the
    name itself."""
    source_name: str | None = None
    """The source's spelling where it differs from `name` (typos and blanks kept for loss-free
    export)."""

    @property
    def words(self) -> tuple[str, ...]:
        """The texts whose mean embedding stands for this class."""
        return self.text or (self.name,)


@dataclass(frozen=True)
class Taxonomy:
    """An ordered class list; the order is that of ids, so a class index never depends on the order
    in a file."""

    name: str
    categories: tuple[Category, ...]

    def __post_init__(self) -> None:
        ids = [category.id for category in self.categories]
        if len(set(ids)) != len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise InputError(
                f"category id {twice} occurs twice", record=self.name, hint="make ids unique"
            )
        object.__setattr__(
            self, "categories", tuple(sorted(self.categories, key=lambda category: category.id))
        )

    @cached_property
    def by_id(self) -> dict[int, Category]:
        """Category of each id."""
        return {category.id: category for category in self.categories}

    @cached_property
    def index(self) -> dict[int, int]:
        """Contiguous index 0..K-1 (the row in a classifier table) of each id."""
        return {category.id: i for i, category in enumerate(self.categories)}

    @property
    def names(self) -> tuple[str, ...]:
        """Display names in index order."""
        return tuple(category.name for category in self.categories)

    @cached_property
    def unique_names(self) -> dict[int, str]:
        """A distinct name of each id: the id is added where several classes share a name."""
        names = self.names
        return {
            c.id: c.name if names.count(c.name) == 1 else f"{c.name} [{c.id}]"
            for c in self.categories
        }

    def to_json(self) -> dict[str, Any]:
        """The taxonomy as the JSON object that manifests and `schemas/taxonomies` hold."""
        return {"name": self.name, "categories": [asdict(category) for category in self.categories]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Taxonomy":
        """Inverse of `to_json`; raises InputError where a category lacks a field."""
        try:
            rows: Iterable[dict[str, Any]] = data["categories"]
            categories = tuple(
                Category(
                    int(row["id"]),
                    str(row["name"]),
                    row["kind"],
                    tuple(row.get("text", ())),
                    row.get("source_name"),
                )
                for row in rows
            )
            return cls(str(data["name"]), categories)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"not a taxonomy ({error!r})", hint="see schemas/taxonomy.schema.json"
            ) from error


def known_taxonomies() -> tuple[str, ...]:
    """Names of the taxonomies that ship with the package."""
    folder = resources.files("segkit.schemas") / "taxonomies"
    return tuple(
        sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".json"))
    )


def load_taxonomy(name_or_file: str) -> Taxonomy:
    """A shipped taxonomy by name (`coco-panoptic-133`), or one from a JSON file."""
    if name_or_file in known_taxonomies():
        text = (
            resources.files("segkit.schemas") / "taxonomies" / f"{name_or_file}.json"
        ).read_text("utf-8")
    elif Path(name_or_file).is_file():
        text = Path(name_or_file).read_text("utf-8")
    else:
        known = ", ".join(known_taxonomies())
        raise InputError(
            f"unknown vocabulary {name_or_file!r}", hint=f"give a JSON file or one of: {known}"
        )
    try:
        return Taxonomy.from_json(json.loads(text))
    except json.JSONDecodeError as error:
        raise InputError(
            f"not JSON ({error})", file=name_or_file, hint="see schemas/taxonomy.schema.json"
        ) from error
