"""Class names as taxonomies, and what the shipped taxonomies say of names."""

from collections import Counter
from collections.abc import Sequence
from functools import cache

from segkit.errors import InputError, short
from segkit.sample import Kind
from segkit.taxonomy import Category, Taxonomy, known_taxonomies, load_taxonomy, normalize


def require_classes(taxonomy: Taxonomy, file: object = None) -> Taxonomy:
    """The taxonomy; InputError, which names a file, where it has no class."""
    if not taxonomy.categories:
        raise InputError("no class names", file=file, hint="give at least one")
    return taxonomy


def taxonomy_from_names(names: Sequence[str]) -> Taxonomy:
    """Class names as classes 1, 2, ...

    A class is stuff if a shipped taxonomy lists its name as stuff, else a thing.

    Raises:
        InputError: no name, or a repeated one.
    """
    if isinstance(names, str):
        raise InputError(f"classes are one text, {short(repr(names))}", hint="give a list of names")
    keys = [normalize(name) for name in names]
    if not keys:
        raise InputError("no class names", hint="give at least one")
    if not all(keys):
        raise InputError("a class name is empty", hint="give each class a name")
    counts = Counter(keys)
    for name, key in zip(names, keys, strict=True):
        if counts[key] > 1:
            message = f"the class name {short(repr(name))} comes twice"
            raise InputError(message, hint="give different names")
    kinds = _shipped_kinds()
    categories = [
        Category(i, name.strip(), kinds.get(key, "thing"))
        for i, (name, key) in enumerate(zip(names, keys, strict=True), 1)
    ]
    return Taxonomy("own", tuple(categories))


@cache
def _shipped_kinds() -> dict[str, Kind]:
    """Normalized word -> thing or stuff in the first shipped taxonomy that has it."""
    kinds: dict[str, Kind] = {}
    for name in known_taxonomies():
        for category in load_taxonomy(name).categories:
            for word in (category.name, *category.words):
                kinds.setdefault(normalize(word), category.kind)
    return kinds


@cache
def shipped_words() -> dict[str, tuple[str, ...]]:
    """Map each normalized class name to its words in the first shipped taxonomy that has it."""
    words: dict[str, tuple[str, ...]] = {}
    for name in known_taxonomies():
        for category in load_taxonomy(name).categories:
            for spelling in filter(None, (category.name, category.source_name)):
                words.setdefault(normalize(spelling), category.words)
    return words
