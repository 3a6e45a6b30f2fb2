"""Builds the taxonomy of a source from its own category list and the known vocabularies.

The source's ids and names always win; a known vocabulary adds kinds and words.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from segkit.errors import InputError
from segkit.sample import Kind
from segkit.taxonomy import Category, Taxonomy, known_taxonomies, load_taxonomy


@dataclass(frozen=True, slots=True)
class NativeCategory:
    """An entry of a source's category list."""

    id: int
    name: str
    kind: Kind | None = None
    """None where the source does not say."""
    synonyms: tuple[str, ...] = ()
    """As the source lists them; LVIS does."""


def build_taxonomy(
    natives: Sequence[NativeCategory], *, default: Kind | None, file: object, name: str
) -> Taxonomy:
    """Build the taxonomy of a source, completed from the known vocabulary that has its names.

    Args:
        natives: the source's list; any ids and names.
        default: kind of the classes whose kind the source does not say. "thing" is for sources of
            objects, whose trees are things; "stuff" and None yield to that of a known vocabulary,
            and None rejects classes that have neither.
        file: the file that errors name.
        name: name of the taxonomy, unless the list is an entire known vocabulary.

    Raises:
        InputError: the list is empty, an id occurs twice, a name is blank, or a kind is missing.
    """
    if not natives:
        hint = "give a list of categories with id and name"
        raise InputError("has no categories", file=file, hint=hint)
    vocabulary = recognize_vocabulary(natives)
    by_name = {
        plain_name(spelling): category
        for category in (vocabulary.categories if vocabulary else ())
        for spelling in _spellings(category)
    }
    categories = tuple(
        _category(native, by_name.get(plain_name(native.name)), default, file) for native in natives
    )
    if (
        vocabulary is not None
        and len(natives) == len(vocabulary.categories)
        and _ids_agree(vocabulary, natives)
        and all(by_name[plain_name(entry.name)].kind == entry.kind for entry in categories)
    ):
        name = vocabulary.name
    try:
        return Taxonomy(name, categories)
    except InputError as error:
        raise InputError(str(error), file=file) from error


def recognize_vocabulary(natives: Sequence[NativeCategory]) -> Taxonomy | None:
    """Return the known vocabulary that has all these names, or None.

    Of several, one whose ids agree comes first, then the smallest.
    """
    vocabularies = [
        taxonomy
        for taxonomy in _known_vocabularies()
        if all(plain_name(native.name) in _plain_names(taxonomy) for native in natives)
    ]
    return min(
        vocabularies,
        key=lambda taxonomy: (
            not _ids_agree(taxonomy, natives),
            len(taxonomy.categories),
            taxonomy.name,
        ),
        default=None,
    )


def plain_name(name: str) -> str:
    """Return the form in which names are compared: lower case, single spaces."""
    return " ".join(name.lower().split())


def _ids_agree(taxonomy: Taxonomy, natives: Sequence[NativeCategory]) -> bool:
    pairs = {
        (category.id, plain_name(spelling))
        for category in taxonomy.categories
        for spelling in _spellings(category)
    }
    return all((native.id, plain_name(native.name)) in pairs for native in natives)


def _category(
    native: NativeCategory, known: Category | None, default: Kind | None, file: object
) -> Category:
    record = f"category {native.id}"
    name = native.name.strip()
    if not name:
        raise InputError("has no name", file=file, record=record, hint="give it one")
    kind = native.kind or ("thing" if default == "thing" else known.kind if known else default)
    if kind is None:
        message = "does not say whether it is a thing"
        hint = "give every category `isthing` 0 or 1"
        raise InputError(message, file=file, record=record, hint=hint)
    if known is None:
        synonyms = (" ".join(word.split("_")) for word in native.synonyms)
        words = tuple(dict.fromkeys(word for word in synonyms if word.strip()))
    else:
        words = known.text
        if known.source_name is not None and plain_name(known.source_name) == plain_name(
            native.name
        ):
            name = known.name  # the vocabulary knows this spelling and a better one to display
    category = Category(native.id, name, kind)
    source_name = native.name if native.name != name else None
    return replace(category, text=words, source_name=source_name)


@cache
def _known_vocabularies() -> tuple[Taxonomy, ...]:
    return tuple(load_taxonomy(name) for name in known_taxonomies())


def _spellings(category: Category) -> tuple[str, ...]:
    return (category.name, *((category.source_name,) if category.source_name else ()))


def _plain_names(taxonomy: Taxonomy) -> frozenset[str]:
    return frozenset(
        plain_name(spelling)
        for category in taxonomy.categories
        for spelling in _spellings(category)
    )
