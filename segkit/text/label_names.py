"""The classes of a public model, from the names in its configuration."""

from collections.abc import Sequence

from segkit.taxonomy import Category, Taxonomy, known_taxonomies, load_taxonomy, normalize
from segkit.text.vocabulary import taxonomy_from_names


def taxonomy_from_labels(labels: Sequence[str], name: str) -> tuple[Taxonomy, list[int]]:
    """The taxonomy of class names, and the place of each of its classes in `labels`.

    Where a shipped taxonomy has all the names, its ids, kinds and words are taken; of several, the
    one with the fewest classes. All other names are classes 1, 2, ... as in
    `segkit.text.vocabulary.taxonomy_from_names`.

    Args:
        labels: K names, in the order of the model's class head.
        name: of the taxonomy, where no shipped one has exactly these classes.

    Raises:
        InputError: a name that occurs twice.
    """
    shipped = sorted(map(load_taxonomy, known_taxonomies()), key=lambda known: len(known.names))
    for known in shipped:
        matches = _match(labels, known)
        if matches is not None:
            complete = len(matches) == len(known.categories)
            taxonomy = Taxonomy(known.name if complete else name, tuple(matches))
            places = {category.id: place for place, category in enumerate(matches)}
            return taxonomy, [places[category.id] for category in taxonomy.categories]
    return Taxonomy(name, taxonomy_from_names(labels).categories), list(range(len(labels)))


def _match(labels: Sequence[str], known: Taxonomy) -> list[Category] | None:
    """The class of each label; None unless all labels are different classes of the taxonomy."""
    by_name: dict[str, Category] = {}
    for category in known.categories:
        for spelling in (category.name, category.source_name):
            if spelling:
                by_name.setdefault(normalize(spelling), category)
    for category in known.categories:
        for word in category.words:
            by_name.setdefault(normalize(word), category)
    matches = [by_name.get(normalize(label)) for label in labels]
    categories = [category for category in matches if category is not None]
    distinct = len({category.id for category in categories}) == len(labels)
    return categories if distinct else None
