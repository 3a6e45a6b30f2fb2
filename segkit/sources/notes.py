"""Finds what a user should know although nothing is lost: twin classes, uncounted labels."""

import unicodedata
from collections.abc import Iterable

from segkit.errors import short_list
from segkit.sources.ledger import Tally
from segkit.sources.source import Source
from segkit.taxonomy import Category, Taxonomy


def conversion_notes(source: Source, tally: Tally) -> tuple[str, ...]:
    """Return the notes on a conversion, each one line."""
    is_coco = source.name in ("coco-instances", "coco-panoptic")
    twin_notes = _twin_notes(source.taxonomy, tally)
    uncounted_notes = _uncounted_notes(tally, is_coco=is_coco)
    return (*tally.notes, *twin_notes, *_corner_notes(tally), *uncounted_notes)


def twins(categories: Iterable[Category]) -> list[list[Category]]:
    """Return the groups of classes that have one text for the encoder, in order of ids."""
    groups: dict[tuple[str, ...], list[Category]] = {}
    for category in categories:
        groups.setdefault(tuple(map(encoder_text, category.words)), []).append(category)
    return [group for group in groups.values() if len(group) > 1]


def encoder_text(name: str) -> str:
    """Return a name without what hardly changes its embedding: case, accents, blanks, - and _."""
    letters = unicodedata.normalize("NFKD", name.casefold())
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return " ".join(plain.replace("_", " ").replace("-", " ").split()) or name


def _twin_notes(taxonomy: Taxonomy, tally: Tally) -> list[str]:
    labels = taxonomy.unique_names
    notes = []
    for group in twins(taxonomy.categories):
        members = short_list([f"{category.id} {category.name!r}" for category in group])
        unused = [category for category in group if not tally.annotations_in[labels[category.id]]]
        if unused and len(unused) < len(group):
            ids = short_list([str(category.id) for category in unused])
            drop = "for COCO by `segkit convert coco --drop-unused-twins`"
            remedy = f"{ids} without annotations: remove it, {drop}"
        else:
            remedy = "give them names that differ, or merge them with `segkit relabel`"
        notes.append(
            f"classes {members} have one name for the text encoder, "
            f"so that their scores are shared and masks come twice; {remedy}"
        )
    return notes


def _corner_notes(tally: Tally) -> list[str]:
    corners, kept = tally.corner_boxes.total(), tally.kept.total()
    if 2 * corners <= kept:
        return []
    return [
        "boxes that reach far beyond the image and fit into it as corners x1, y1, x2, y2: "
        f"{corners} of {kept}; a bbox of COCO is x, y, width, height: for corners, write x2 - x1 "
        "and y2 - y1 in place of x2 and y2"
    ]


def _uncounted_notes(tally: Tally, *, is_coco: bool) -> list[str]:
    kept, uncounted = tally.kept, tally.uncounted
    if tally.images_kept and not kept.total():
        return ["no image has an annotation, so that there is nothing to train on or to score"]
    classes = sorted(name for name in uncounted if uncounted[name] == kept[name])
    if not classes:
        return []
    number = sum(uncounted[name] for name in classes)
    which = "all annotations"
    if number < kept.total():
        which += f" of {short_list([repr(name) for name in classes])}"
    remedy = "mark each object separately in the source if they are to count"
    if is_coco:
        remedy = (
            "if each is one object (CVAT writes brush masks as crowds), "
            "give `segkit convert coco --crowds-as-objects`"
        )
    return [
        f"{which} ({number}) are crowds or marked to be ignored, so that neither training nor "
        f"scores count them; {remedy}"
    ]
