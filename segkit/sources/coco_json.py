"""COCO's JSON container, of any size: read once, each record kept as the text it was, annotations
sorted to images."""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np

from segkit.errors import InputError
from segkit.sample import Kind
from segkit.shards.writer import class_labels
from segkit.sources import json_stream
from segkit.sources.categories import NativeCategory, build_taxonomy
from segkit.sources.coco_fields import IMAGE, Id, loose, read_image
from segkit.sources.external_sort import ExternalSort, SpillFile
from segkit.sources.ledger import Defect, ImageError, Tally
from segkit.sources.source import Record
from segkit.taxonomy import Taxonomy

_LISTS = ("images", "annotations", "categories")
_HEADER = ("info", "licenses")
Holds = Literal["instances", "panoptic"]
_KINDS: dict[Holds, tuple[str, str]] = {
    "instances": ("an instances file", "category_id"),
    "panoptic": ("a panoptic file", "segments_info"),
}
"""What each kind is called, and the field that every annotation of it has."""
_INT64 = 2**63
_ID = (int, str)


class _Category(msgspec.Struct, frozen=True):
    id: Id
    name: str
    isthing: int | bool | None = None
    synonyms: tuple[str, ...] = ()


class _Owned(msgspec.Struct, frozen=True):
    id: Id | None = None


_OWNED = msgspec.json.Decoder(_Owned)


@dataclass(frozen=True)
class CocoFile:
    """A COCO JSON file: what it says of itself, and its images and annotations in temporary
    files."""

    path: Path
    categories: tuple[NativeCategory, ...]
    header: dict[str, Any]
    """`info`, `licenses`, and the category list as the file has it."""
    contents: "_Contents | None" = field(default=None, repr=False, compare=False)
    """None in a worker process: the records that it converts are sent to it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (CocoFile, (self.path, self.categories, self.header))


def read_coco(path: Path, holds: Holds) -> CocoFile:
    """Read a COCO JSON file, once from front to back (twice where its annotations come before its
    images).

    Args:
        path: the file.
        holds: what its annotations are taken for.

    Raises:
        InputError: not there, not JSON (naming the place), without lists of images, annotations and
            categories, or of the other kind than `holds`.
    """
    header: dict[str, Any] = {}
    categories: list[bytes] = []
    found: list[str] = []
    contents = _Contents(path, holds)
    for key, value, text in json_stream.members(path, _LISTS):
        if not text:
            found.append(key)
        elif key == "images":
            contents.add_image(text)
        elif key == "annotations" and "images" in found:
            contents.add_annotation(value, text)
        elif key == "categories":
            categories.append(text)
            header.setdefault(key, []).append(value)
        elif key in _HEADER:
            header[key] = value
    for key in _LISTS:
        if key not in found:
            raise InputError(f"has no list {key!r}", file=path, hint="give a file in COCO format")
    if found.index("annotations") < found.index("images"):
        for key, value, text in json_stream.members(path, _LISTS):
            if key == "annotations" and text:
                contents.add_annotation(value, text)
    contents.finish()
    return CocoFile(path, _categories(categories, path), header, contents)


def _check_kind(annotation: Any, holds: Holds, path: Path) -> None:
    """Raise InputError where the first annotation of a file shows it to be of the other kind."""
    other: Holds = "instances" if holds == "panoptic" else "panoptic"
    (wanted, own), (found, field_found) = _KINDS[holds], _KINDS[other]
    if isinstance(annotation, dict) and own not in annotation and field_found in annotation:
        what = f"is {found}, not {wanted} (its annotations have {field_found}, not {own})"
        raise InputError(what, file=path, hint=f"give it as `segkit convert coco --{other} FILE`")


def _categories(records: Iterable[bytes], path: Path) -> tuple[NativeCategory, ...]:
    found = []
    hint = "give it an integer id, a name and isthing 0 or 1"
    for number, raw in enumerate(records):
        try:
            category = msgspec.json.decode(raw, type=_Category)
            kinds: dict[Any, Kind | None] = {0: "stuff", 1: "thing", None: None}
            found.append(
                NativeCategory(
                    int(category.id), category.name, kinds[category.isthing], category.synonyms
                )
            )
        except (msgspec.ValidationError, ValueError, KeyError) as error:
            where = f"categories[{number}]"
            raise InputError(
                f"not a category ({error})", file=path, record=where, hint=hint
            ) from error
    return tuple(found)


@dataclass(frozen=True)
class CocoSource:
    """What all sources of a COCO file have in common."""

    file: CocoFile
    images: Path
    labels: dict[int, str] = field(init=False)
    """Class id -> the name under which the ledger counts it."""
    default_kind: ClassVar[Kind | None] = None
    """Of classes of which neither the file nor a known vocabulary says whether they are things;
    None refuses them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", class_labels(self.taxonomy))

    @cached_property
    def taxonomy(self) -> Taxonomy:
        """The file's own classes."""
        path = self.file.path
        return build_taxonomy(
            self.file.categories, default=self.default_kind, file=path, name=path.stem
        )

    @property
    def header(self) -> dict[str, Any]:
        """COCO's `info`, `licenses` and `categories`."""
        return self.file.header

    @property
    def annotations(self) -> Path:
        """The JSON file."""
        return self.file.path


def identity(path: Path) -> dict[str, Any]:
    """What tells one state of an input file from another."""
    status = path.stat()
    return {"file": str(path.resolve()), "bytes": status.st_size, "modified": status.st_mtime_ns}


def records(
    file: CocoFile,
    tally: Tally,
    candidates: Callable[[str], tuple[str, ...]],
    classes: Callable[[bytes], Sequence[str]],
) -> Iterator[Record]:
    """Every image in the file's order; `data` is its raw record and its annotations, each with
    whether its id repeats.

    Args:
        file: the file.
        tally: takes images that are unreadable or listed twice, and annotations that belong to no
            image.
        candidates: file name -> where the image may lie.
        classes: raw annotation -> the class name of everything that it labels.
    """
    contents = file.contents
    assert contents is not None  # workers are sent records
    for number, raw in contents.lost:
        tally.images_in += 1
        tally.drop_image(_lost(raw, number, file.path), ())
    for number, raw in contents.orphans:
        tally.orphan(_orphan(raw, number, file.path), classes(raw))
    seen: set[str] = set()
    for raw, annotations in contents.spool:
        image = IMAGE.decode(raw)
        flagged = [(annotation, contents.repeats(annotation, seen)) for annotation in annotations]
        yield Record(str(image.id), image.name, candidates(image.name), (raw, flagged))


class _Contents:
    """Images and annotations of a file, set aside as they are read."""

    def __init__(self, path: Path, holds: Holds) -> None:
        self.spool = ExternalSort()
        self.lost = SpillFile()
        """Images that are unreadable or listed twice, with their place in the file's list."""
        self.orphans = SpillFile()
        """Annotations that belong to no image, with their place in the file's list."""
        self._path, self._holds = path, holds
        self._images = self._annotations = 0
        self._places: dict[str, int] = {}
        self._numbers, self._texts = array("q"), Counter[str]()
        self._repeated: frozenset[str] = frozenset()

    def add_image(self, raw: bytes) -> None:
        """Set the raw record of an image aside."""
        self._images += 1
        try:
            own = str(read_image(raw, self._images - 1, self._path).id)
        except ImageError:
            own = None
        if own is None or own in self._places:
            self.lost.add(self._images - 1, raw)
        else:
            self._places[own] = len(self._places)
            self.spool.add_image(raw)

    def add_annotation(self, value: Any, raw: bytes) -> None:
        """Set the raw record of an annotation, whose value is known, aside with its image."""
        if not self._annotations:
            _check_kind(value, self._holds, self._path)
        self._annotations += 1
        owner = value.get("image_id") if isinstance(value, dict) else None
        place = self._places.get(str(owner)) if isinstance(owner, _ID) else None
        if place is None:
            self.orphans.add(self._annotations - 1, raw)
            return
        self.spool.add_annotation(place, raw)
        own = value.get("id")
        if isinstance(own, int) and -_INT64 < own < _INT64:
            self._numbers.append(own)  # 8 bytes each, since there may be many millions
        elif own is not None:
            self._texts[str(own)] += 1

    def finish(self) -> None:
        """Find the ids that several annotations have; nothing can be added afterwards."""
        self._places.clear()
        ordered = (
            np.sort(np.frombuffer(self._numbers, np.int64))
            if self._numbers
            else np.zeros(0, np.int64)
        )
        numbers = map(str, np.unique(ordered[1:][ordered[1:] == ordered[:-1]]).tolist())
        self._repeated = frozenset(numbers) | {
            text for text, count in self._texts.items() if count > 1
        }
        self._numbers, self._texts = array("q"), Counter()

    def repeats(self, annotation: bytes, seen: set[str]) -> bool:
        """Whether an earlier annotation has the same id; `seen` collects the ids that do occur
        again."""
        if not self._repeated:
            return False
        try:
            own = str(_OWNED.decode(annotation).id)
        except msgspec.DecodeError:
            return False
        if own not in self._repeated or own in seen:
            return own in seen
        seen.add(own)
        return False


def _lost(raw: bytes, number: int, path: Path) -> Defect:
    """Why an image record was set aside."""
    try:
        image = read_image(raw, number, path)
    except ImageError as defective:
        return defective.defect
    return Defect(
        "duplicate-id",
        "another image has the same id",
        str(path),
        f"image {image.id}",
        None,
        loose(raw),
    )


def _orphan(raw: bytes, number: int, path: Path) -> Defect:
    """Why an annotation was set aside."""
    value = loose(raw)
    owner = value.get("image_id") if isinstance(value, dict) else None
    code, what = "malformed-annotation", "no image_id"
    if isinstance(owner, _ID):
        code, what = "unknown-image", f"image {owner} is not in the file's list"
    return Defect(code, what, str(path), f"annotations[{number}]", None, value)
