"""Class lists: ids, names, thing or stuff, and the words that a text encoder reads."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from segkit import parse
from segkit.arguments import check_choice
from segkit.errors import InputError, short
from segkit.sample import Kind

MAX_ID = 2**31 - 1
"""Class ids fit in 32 bits, as in the maps that masks are painted into."""
_HINT = "see schemas/taxonomy.schema.json"


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


_FIELDS = {field.name for field in fields(Category)}


@dataclass(frozen=True)
class Taxonomy:
    """A class list in the order of ids, so that a class index never depends on a file's order."""

    name: str
    categories: tuple[Category, ...]

    def __post_init__(self) -> None:
        for category in self.categories:
            check_choice(category.kind, Kind, "kind", record=category.name)
        ids = Counter(category.id for category in self.categories)
        if len(ids) != len(self.categories):
            message = f"category id {ids.most_common(1)[0][0]} occurs twice"
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

    @classmethod
    def union(cls, name: str, taxonomies: Sequence["Taxonomy"]) -> "Taxonomy":
        """All classes with different words, with ids 1, 2, ...; a single taxonomy stays as it is.

        Words that differ in case, spaces or underscores are the same to the text encoder.

        Args:
            name: of the result.
            taxonomies: at least one.
        """
        if len(taxonomies) == 1:
            return taxonomies[0]
        unique: dict[tuple[str, ...], Category] = {}
        for taxonomy in taxonomies:
            for category in taxonomy.categories:
                unique.setdefault(tuple(map(normalize, category.words)), category)
        numbered = enumerate(unique.values(), 1)
        return cls(name, tuple(replace(category, id=number) for number, category in numbered))

    @property
    def names(self) -> tuple[str, ...]:
        """Names in index order."""
        return tuple(category.name for category in self.categories)

    @cached_property
    def unique_names(self) -> dict[int, str]:
        """A distinct name of each id: the id is added where several classes share a name."""
        names = {category.id: category.name for category in self.categories}
        while len(set(names.values())) < len(names):  # "cat [3]" may be the name of a third class
            counts = Counter(names.values())
            names = {i: name if counts[name] == 1 else f"{name} [{i}]" for i, name in names.items()}
        return names

    def to_json(self) -> dict[str, Any]:
        """The taxonomy as the JSON object that manifests and `schemas/taxonomies` hold."""
        return {"name": self.name, "categories": [asdict(category) for category in self.categories]}

    @classmethod
    def from_json(cls, data: Any, *, file: object = None) -> "Taxonomy":
        """Inverse of `to_json`.

        Args:
            data: JSON values.
            file: the file that errors name.

        Raises:
            InputError: a field is missing or of another type, a name is blank, an id occurs twice
                or does not fit in 32 bits.
        """
        content = parse.convert(data, _Content, file=file, noun="a taxonomy", hint=_HINT)
        for place, (row, category) in enumerate(
            zip(data["categories"], content.categories, strict=True)
        ):
            if message := _problem(row, category):
                record = f"categories[{place}]"
                raise InputError(message, file=file, record=record, hint=_HINT)
        try:
            return cls(content.name, content.categories)
        except InputError as error:
            raise error.in_file(file) from error


@dataclass(frozen=True)
class _Content:
    """The fields of a taxonomy in JSON."""

    name: str
    categories: tuple[Category, ...]


def _problem(row: dict[str, Any], category: Category) -> str | None:
    """What the schema of taxonomies forbids in a category whose fields have the right types."""
    if unknown := row.keys() - _FIELDS:
        return f"has the unknown key {short(repr(min(unknown)))}"
    if not category.name.strip() or not all(word.strip() for word in category.text):
        return "has a blank name or text"
    if not -MAX_ID <= category.id <= MAX_ID:
        return f"has the id {category.id}, which does not fit in 32 bits"
    return None


def normalize(word: str) -> str:
    """The key of a word: lower case, with single spaces.

    The encoder ignores case. Underscores and runs of spaces become one space.
    """
    return re.sub(r"[\s_]+", " ", word).strip().lower()


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
        data = (_shipped() / f"{name_or_file}.json").read_bytes()
    elif parse.exists(name_or_file):
        data = parse.read_bytes(Path(name_or_file))
    else:
        hint = f"give a JSON file or one of: {', '.join(known_taxonomies())}"
        raise InputError(f"unknown vocabulary {name_or_file!r}", hint=hint)
    content = parse.parse_json(data, file=name_or_file, hint=_HINT)
    return Taxonomy.from_json(content, file=name_or_file)


def _shipped() -> Traversable:
    return resources.files("segkit.schemas") / "taxonomies"
