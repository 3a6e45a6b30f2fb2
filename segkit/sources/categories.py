"""Category lists of sources: their own ids and names always win; a known vocabulary adds kinds and
words."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from segkit.errors import InputError
from segkit.sample import Kind
from segkit.taxonomy import Category, Taxonomy, known_taxonomies, load_taxonomy


@dataclass(frozen=True, slots=True)
class NativeCategory:
    """A line of a source's category list."""

    id: int
    name: str
    kind: Kind | None = None
    """As the source says; None where it says nothing."""
    synonyms: tuple[str, ...] = ()
    """As the source says (LVIS does)."""


def build_taxonomy(
    natives: Sequence[NativeCategory], *, default: Kind | None, file: object, name: str
) -> Taxonomy:
    """The taxonomy of a source's list, completed from the known vocabulary that it is, if it is
    one.

    Args:
        natives: the list; any ids and names.
        default: kind of a class about which neither the source nor a known vocabulary says
            anything; None: refuse.
        file: what errors name.
        name: name of the taxonomy where the list is no known vocabulary in full.

    Raises:
        InputError: the list is empty, an id occurs twice, a name is blank, or a kind is wanting.
    """
    if not natives:
        raise InputError(
            "has no categories", file=file, hint="give a list of categories with id and name"
        )
    known = recognize(natives)
    lookup = (
        {plain_name(name): category for category in known.categories for name in _names(category)}
        if known
        else {}
    )
    made = [
        _category(native, lookup.get(plain_name(native.name)), default, file) for native in natives
    ]
    try:
        whole = (
            known is not None
            and len(natives) == len(known.categories)
            and _same_ids(known, natives)
        )
        return Taxonomy(known.name if known and whole else name, tuple(made))
    except InputError as error:
        raise InputError(str(error), file=file) from error


def recognize(natives: Sequence[NativeCategory]) -> Taxonomy | None:
    """The smallest known vocabulary that has every one of these names, those whose ids agree as
    well first."""
    found = [
        taxonomy
        for taxonomy in _known()
        if all(plain_name(n.name) in _all_names(taxonomy) for n in natives)
    ]
    return min(
        found, key=lambda t: (not _same_ids(t, natives), len(t.categories), t.name), default=None
    )


def _same_ids(taxonomy: Taxonomy, natives: Sequence[NativeCategory]) -> bool:
    pairs = {
        (category.id, plain_name(name))
        for category in taxonomy.categories
        for name in _names(category)
    }
    return all((native.id, plain_name(native.name)) in pairs for native in natives)


def _category(
    native: NativeCategory, known: Category | None, default: Kind | None, file: object
) -> Category:
    name = native.name.strip()
    if not name:
        raise InputError(
            "has no name", file=file, record=f"category {native.id}", hint="give it one"
        )
    kind = native.kind or (known.kind if known else default)
    if kind is None:
        hint = "give every category `isthing` 0 or 1"
        raise InputError(
            "does not say whether it is a thing",
            file=file,
            record=f"category {native.id}",
            hint=hint,
        )
    made = Category(native.id, name, kind)
    if known is None:
        words = tuple(dict.fromkeys(" ".join(word.split("_")) for word in native.synonyms))
        return replace(made, text=words, source_name=native.name if native.name != name else None)
    if known.source_name is not None and plain_name(known.source_name) == plain_name(native.name):
        name = known.name  # the vocabulary knows this spelling and a better one to show
    return replace(
        made, name=name, text=known.text, source_name=native.name if native.name != name else None
    )


@cache
def _known() -> tuple[Taxonomy, ...]:
    return tuple(load_taxonomy(name) for name in known_taxonomies())


def _names(category: Category) -> tuple[str, ...]:
    return (category.name, *((category.source_name,) if category.source_name else ()))


def _all_names(taxonomy: Taxonomy) -> frozenset[str]:
    return frozenset(
        plain_name(name) for category in taxonomy.categories for name in _names(category)
    )


def plain_name(name: str) -> str:
    """By what names are compared: lower case, runs of blanks as one."""
    return " ".join(name.lower().split())
