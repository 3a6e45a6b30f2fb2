"""Objects365 v2: boxes of 365 classes, image folders that differ between archives, and class names
with typos."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

from segkit.errors import InputError
from segkit.sources.categories import plain_name
from segkit.sources.coco_instances import CocoInstances
from segkit.sources.coco_json import CocoFile, read_coco
from segkit.sources.ledger import Tally
from segkit.sources.source import Record
from segkit.taxonomy import load_taxonomy

_CLASSES = 365
_VERSION_2 = "objects365-v2"
KNOWN_MISSING = frozenset(
    {"objects365_v2_00908726.jpg", "objects365_v1_00320532.jpg", "objects365_v1_00320534.jpg"}
)
"""Train images that the annotation file lists and no archive has."""


@dataclass(frozen=True)
class Objects365(CocoInstances):
    """An Objects365 v2 annotation file; a smaller list of own classes in the same format is taken
    as well.

    Every image was searched for every class of the list, so samples are exhaustive over the
    taxonomy.
    """

    boxes_only: bool = True
    name: str = "objects365"

    def records(self, tally: Tally) -> Iterator[Record]:
        """As for any instances file; images that no archive has are marked."""
        for record in super().records(tally):
            missing = record.file_name.rpartition("/")[2] in KNOWN_MISSING
            yield replace(record, known_missing=True) if missing else record

    def candidates(self, file_name: str) -> tuple[str, ...]:
        """The name as given (`images/v1/patch4/x.jpg`), then without its leading folders, down to
        the flat file."""
        return layouts(file_name)


def layouts(file_name: str) -> tuple[str, ...]:
    """Where archives put the image that Objects365 names `images/v1/patch4/x.jpg`.

    The official archives unpack to `patch4/x.jpg`, mirrors add `train/` or `val/`, others keep the
    name or put all images into one folder.
    """
    folder, slash, name = file_name.rpartition("/")
    return tuple(prefix + name for prefix in _prefixes(folder + slash))


@lru_cache(maxsize=4096)  # a folder has thousands of images
def _prefixes(folder: str) -> tuple[str, ...]:
    """What may stand before the name of an image of `folder`, which is "" or ends in a slash."""
    parts = PurePosixPath(folder).parts
    tails = ["".join(f"{part}/" for part in parts[start:]) for start in range(len(parts))]
    patch = next((tail for tail in tails if tail.startswith("patch")), "")
    splits = [f"{split}/{tail}" for split in ("train", "val") for tail in (patch, "")]
    return tuple(dict.fromkeys([folder, *tails, "", *splits]))


def open_objects365(annotations: Path, images: Path) -> Objects365:
    """The source of an Objects365 v2 file.

    Raises:
        InputError: the file is not readable, or has the class list of Objects365 v1.
    """
    file = read_coco(annotations, "instances")
    reject_version_1(file)
    return Objects365(file, images)


def reject_version_1(file: CocoFile) -> None:
    """Raise InputError where a file has the ids of Objects365 v1, whose list is another one under
    similar names."""
    version_2 = {
        plain_name(category.name): category.id for category in load_taxonomy(_VERSION_2).categories
    }
    shared = [
        (native.id, version_2[name])
        for native in file.categories
        if (name := plain_name(native.name)) in version_2
    ]
    moved = sum(own != new for own, new in shared)
    if len(file.categories) == _CLASSES and moved > _CLASSES // 4:
        raise InputError(
            f"has 365 classes, {moved} of them under other ids than in Objects365 v2: the list of v1",
            file=file.path,
            hint="get zhiyuan_objv2_train.json or _val.json, or take it as it is with "
            "`segkit convert coco --instances FILE --boxes-only`",
        )
