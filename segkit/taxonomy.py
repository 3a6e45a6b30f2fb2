"""Class lists: ids, names, thing or stuff, and the words that a text encoder reads."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import resources
from importlib.resources.abc import Traversable
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
    """The name in tables: the source's, without blanks around it."""
    kind: Kind
    text: tuple[str, ...] = ()
    """Words that a text encoder reads for this class (clean name first, then synonyms); empty means
    the name itself."""
    source_name: str | None = None
    """The source's spelling if it differs from `name`: typos and blanks, kept for a loss-free
    export."""

    @property
    def words(self) -> tuple[str, ...]:
        """The texts whose mean embedding represents this class."""
        return self.text or (self.name,)


@dataclass(frozen=True)
class Taxonomy:
    """A class list in the order of ids, so that a class index never depends on a file's order."""

    name: str
    categories: tuple[Category, ...]

    def __post_init__(self) -> None:
        ids = [category.id for category in self.categories]
        if len(set(ids)) != len(ids):
            repeated = next(i for i in ids if ids.count(i) > 1)
            message = f"category id {repeated} occurs twice"
            raise InputError(message, record=self.name, hint="make ids unique")
        by_id = sorted(self.categories, key=lambda category: category.id)
        object.__setattr__(self, "categories", tuple(by_id))

    @cached_property
    def by_id(self) -> dict[int, Category]:
        """The category of each id."""
        return {category.id: category for category in self.categories}

    @cached_property
    def index(self) -> dict[int, int]:
        """The class index 0..K-1 (the row of the class embeddings) of each id."""
        return {category.id: i for i, category in enumerate(self.categories)}

    @property
    def names(self) -> tuple[str, ...]:
        """Names in index order."""
        return tuple(category.name for category in self.categories)

    @cached_property
    def unique_names(self) -> dict[int, str]:
        """A distinct name of each id: the id is added where several classes share a name."""
        counts = Counter(self.names)
        return {
            c.id: c.name if counts[c.name] == 1 else f"{c.name} [{c.id}]" for c in self.categories
        }

    def to_json(self) -> dict[str, Any]:
        """The taxonomy as the JSON object that manifests and `schemas/taxonomies` hold."""
        return {"name": self.name, "categories": [asdict(category) for category in self.categories]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Taxonomy":
        """Inverse of `to_json`; raises InputError if a category lacks a field."""
        try:
            rows: Iterable[dict[str, Any]] = data["categories"]
            categories = tuple(_category(row) for row in rows)
            return cls(str(data["name"]), categories)
        except (KeyError, TypeError, ValueError) as error:
            hint = "see schemas/taxonomy.schema.json"
            raise InputError(f"not a taxonomy ({error!r})", hint=hint) from error


def _category(row: dict[str, Any]) -> Category:
    return Category(
        int(row["id"]),
        str(row["name"]),
        row["kind"],
        tuple(row.get("text", ())),
        row.get("source_name"),
    )


def known_taxonomies() -> tuple[str, ...]:
    """Names of the taxonomies that ship with the package."""
    files = (entry.name for entry in _shipped().iterdir())
    return tuple(sorted(name.removesuffix(".json") for name in files if name.endswith(".json")))


def load_taxonomy(name_or_file: str) -> Taxonomy:
    """A shipped taxonomy by its name (`coco-panoptic-133`), or one from a JSON file.

    Raises:
        InputError: neither a known name nor a file, or not a taxonomy in JSON.
    """
    if name_or_file in known_taxonomies():
        text = (_shipped() / f"{name_or_file}.json").read_text("utf-8")
    elif Path(name_or_file).is_file():
        text = Path(name_or_file).read_text("utf-8")
    else:
        hint = f"give a JSON file or one of: {', '.join(known_taxonomies())}"
        raise InputError(f"unknown vocabulary {name_or_file!r}", hint=hint)
    try:
        return Taxonomy.from_json(json.loads(text))
    except json.JSONDecodeError as error:
        hint = "see schemas/taxonomy.schema.json"
        raise InputError(f"not JSON ({error})", file=name_or_file, hint=hint) from error


def _shipped() -> Traversable:
    return resources.files("segkit.schemas") / "taxonomies"
