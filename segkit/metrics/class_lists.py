"""The list of classes that a file of predictions brings along: what its class ids mean."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segkit import parse
from segkit.errors import InputError
from segkit.metrics.class_mapping import ClassMap
from segkit.shards.coco_image_ids import class_id
from segkit.taxonomy import Category, Taxonomy

_TAXONOMY = "taxonomy.json"
"""The list that `segkit export` and `segkit predict --native` write beside files of class ids."""
_MASKS = "masks"
"""Folder of the PNGs of an export, which the lists are beside."""


@dataclass(frozen=True)
class ClassList:
    """The classes of a file of predictions."""

    file: Path
    """The file that holds the list."""
    taxonomy: Taxonomy
    """Where the list says no kinds, all are things."""

    def map_to(self, truth: Taxonomy) -> ClassMap | None:
        """The map to the classes of the ground truth; None where each has the id that it has there.

        Raises:
            InputError: no class has a word in common with the ground truth; it names the list.
        """
        try:
            class_map = ClassMap.from_taxonomies(self.taxonomy, truth)
        except InputError as error:
            hint = "name the ground truth's classes; without a list, ids are those of its classes"
            raise InputError(error.message, file=self.file, hint=hint) from None
        return None if class_map.is_identity else class_map


def list_beside(folder: Path) -> ClassList | None:
    """The `taxonomy.json` in a folder, or beside the folder `masks` that it is or is in.

    A file that is no taxonomy is another program's: it is passed over, as is a `labels.txt`, which
    many programs write in numberings of their own.
    """
    masks = next((path for path in (folder, *folder.parents) if path.name == _MASKS), None)
    for place in (folder,) if masks is None else (folder, masks.parent):
        if parse.exists(file := place / _TAXONOMY):
            with suppress(InputError):
                return ClassList(file, Taxonomy.from_json(parse.read_json(file), file=file))
    return None


def list_of_categories(file: Path, categories: Any) -> ClassList | None:
    """The `categories` of a COCO file; None without one that has an id and a name.

    Raises:
        InputError: an id occurs twice.
    """
    rows = categories if isinstance(categories, list) else []
    named = (
        (class_id(row.get("id")), row.get("name", "").strip())
        for row in rows
        if isinstance(row, dict) and isinstance(row.get("name"), str)
    )
    entries = dict.fromkeys((number, name) for number, name in named if number is not None and name)
    if not entries:
        return None
    categories = tuple(Category(number, name, "thing") for number, name in entries)
    try:
        return ClassList(file, Taxonomy(file.name, categories))
    except InputError as error:
        raise error.in_file(file) from None
