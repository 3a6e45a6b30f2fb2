"""Converts Objects365 v2: boxes of 365 classes, image folders that differ between archives.

Class names keep the typos of the source.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import PurePosixPath
from typing import ClassVar

from segkit.errors import InputError
from segkit.sources.categories import plain_name
from segkit.sources.coco_instances import CocoInstances
from segkit.sources.coco_json import CocoFile, read_coco
from segkit.sources.ledger import Tally
from segkit.sources.source import Record
from segkit.storage import StrPath, location
from segkit.taxonomy import load_taxonomy

_CLASSES = 365
_VERSION_2 = "objects365-v2"
KNOWN_MISSING = frozenset(
    {"objects365_v2_00908726.jpg", "objects365_v1_00320532.jpg", "objects365_v1_00320534.jpg"}
)
"""Train images that the annotation file lists and no archive contains."""


@dataclass(frozen=True)
class Objects365(CocoInstances):
    """An Objects365 v2 annotation file, or one of the same format with fewer classes.

    Every image was annotated with every class of the list, so samples are exhaustive unless
    an annotation is dropped.
    """

    boxes_only: bool = True
    name: ClassVar[str] = "objects365"

    def records(self, tally: Tally) -> Iterator[Record]:
        """Yield images in the file's order; those that no archive contains are marked."""
        for record in super().records(tally):
            missing = record.file_name.rpartition("/")[2] in KNOWN_MISSING
            yield replace(record, known_missing=True) if missing else record

    def candidates(self, file_name: str) -> tuple[str, ...]:
        """Return the paths of an image in every known layout."""
        return layouts(file_name)


def layouts(file_name: str) -> tuple[str, ...]:
    """Return the possible paths of the image that is named `images/v1/patch4/x.jpg`.

    The official archives unpack to `patch4/x.jpg`, mirrors add `train/` or `val/`, others keep the
    full name or put all images into one folder.
    """
    folder, slash, name = file_name.rpartition("/")
    return tuple(prefix + name for prefix in _prefixes(folder + slash))


@lru_cache(maxsize=4096)  # a folder contains thousands of images
def _prefixes(folder: str) -> tuple[str, ...]:
    """The folders that may hold an image of `folder`, which is "" or ends in a slash."""
    parts = PurePosixPath(folder).parts
    tails = ["".join(f"{part}/" for part in parts[start:]) for start in range(len(parts))]
    patch = next((tail for tail in tails if tail.startswith("patch")), "")
    splits = [f"{split}/{tail}" for split in ("train", "val") for tail in (patch, "")]
    return tuple(dict.fromkeys([folder, *tails, "", *splits]))


def open_objects365(annotations: StrPath, images: StrPath) -> Objects365:
    """Open an Objects365 v2 file as a source.

    Raises:
        InputError: the file cannot be read, or has the class list of Objects365 v1.
    """
    annotations, images = location(annotations), location(images)
    file = read_coco(annotations, "instances")
    reject_version_1(file)
    return Objects365(file, images)


def reject_version_1(file: CocoFile) -> None:
    """Raise InputError if a file has the ids of Objects365 v1.

    The list of v1 has similar names under other ids.
    """
    version_2 = {
        plain_name(category.name): category.id for category in load_taxonomy(_VERSION_2).categories
    }
    id_pairs = [
        (native.id, version_2[name])
        for native in file.categories
        if (name := plain_name(native.name)) in version_2
    ]
    moved = sum(file_id != id_2 for file_id, id_2 in id_pairs)
    if len(file.categories) == _CLASSES and moved > _CLASSES // 4:
        raise InputError(
            f"has the list of v1: 365 classes, {moved} of them under other ids than in v2",
            file=file.path,
            hint="get zhiyuan_objv2_train.json or _val.json, or convert it as it is with "
            "`segkit convert coco --instances FILE --boxes-only`",
        )
