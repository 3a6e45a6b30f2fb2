"""Classes that a text encoder cannot tell apart, or that mean nothing to it."""

from collections.abc import Sequence

import numpy as np

from segkit.errors import short_list
from segkit.taxonomy import Category, normalize
from segkit.text.embeddings import EmbeddingStore
from segkit.text.encoders import Vectors

SAME = 0.999
"""Cosine above which two classes have one embedding: their scores differ by less than noise."""
_ROWS = 1024
"""Classes that are compared with all others at once, which bounds memory."""


def indistinct(rows: Vectors) -> list[list[int]]:
    """Groups of rows with nearly the same direction, in order.

    Args:
        rows: (K, D) unit vectors.

    Returns:
        Indices of each group of two or more; a row belongs to the group of the first row that it
        equals.
    """
    first = np.arange(len(rows))
    for start in range(0, len(rows), _ROWS):
        same = rows[start : start + _ROWS] @ rows.T > SAME  # (R, K)
        same[np.arange(len(same)), np.arange(start, start + len(same))] = True
        first[start : start + _ROWS] = same.argmax(axis=1)
    groups: dict[int, list[int]] = {}
    for index, leader in enumerate(first.tolist()):
        groups.setdefault(int(first[leader]), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def indistinct_notes(categories: Sequence[Category], store: EmbeddingStore) -> list[str]:
    """What a user must know of class names before training or prediction, one line each.

    Classes without an embedding are passed over.

    Args:
        categories: the classes.
        store: their embeddings.
    """
    unknown = store.unknown_words()
    missing = {normalize(word) for word in store.missing_words(categories)}
    known = [c for c in categories if not missing & {normalize(word) for word in c.words}]
    meaningless = [c for c in known if {normalize(word) for word in c.words} <= unknown]
    notes = []
    if meaningless:
        notes.append(
            f"{store.encoding.name} cannot read {_listed(meaningless)}: all names of unknown "
            "characters are one to it; give the classes English names with `segkit relabel`, or "
            "use a text encoder that reads them (`segkit vocabulary encode --encoder NAME`; "
            "text.encoder of a recipe)"
        )
    for group in indistinct(store.embed(known)) if known else []:
        classes = [known[index] for index in group]
        if all(category in meaningless for category in classes):
            continue
        notes.append(
            f"classes {_listed(classes)} have one text embedding (cosine above {SAME}): a model "
            "shares their scores and finds each object twice; give them names that differ, or "
            "merge them, with `segkit relabel`"
        )
    return notes


def _listed(categories: Sequence[Category]) -> str:
    return short_list([f"{category.id} {category.name!r}" for category in categories])
