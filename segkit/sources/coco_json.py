"""Reads COCO's JSON container, of any size: once from front to back, annotations sorted to images.

Each record is kept as the text that stands in the file.
"""

import json
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np

from segkit import parse
from segkit.errors import InputError
from segkit.file_names import relative_name
from segkit.parse import is_id, is_integer, parse_loosely
from segkit.sample import Kind
from segkit.sources import coco_fields, json_stream
from segkit.sources.categories import NativeCategory, build_taxonomy
from segkit.sources.coco_fields import IMAGE, Id, read_image, with_integers
from segkit.sources.external_sort import ExternalSort, SpillFile
from segkit.sources.file_format import reject_other_formats
from segkit.sources.ledger import Defect, ImageError, Tally
from segkit.sources.notes import encoder_text
from segkit.sources.source import ImageName, Record
from segkit.taxonomy import Taxonomy

AnnotationType = Literal["instances", "panoptic"]
FlaggedAnnotations = list[tuple[bytes, bool]]
"""Raw annotations of an image, each with whether an earlier annotation has the same id."""
_LISTS = ("images", "annotations", "categories")
_HEADER = ("info", "licenses")
_TYPES: dict[AnnotationType, tuple[str, str]] = {
    "instances": ("an instances file", "category_id"),
    "panoptic": ("a panoptic file", "segments_info"),
}
"""Name of each type of file, and the field that all its annotations have."""
_INT64 = 2**63
_INT32 = 2**31


class _Category(msgspec.Struct, frozen=True):
    id: Id
    name: str
    isthing: int | bool | None = None
    synonyms: tuple[str, ...] = ()


class _Identified(msgspec.Struct, frozen=True):
    id: Id | None = None


_IDENTIFIED = msgspec.json.Decoder(_Identified)


@dataclass(frozen=True)
class CocoFile:
    """A COCO JSON file: header and categories; images and annotations in temporary files."""

    path: Path
    categories: tuple[NativeCategory, ...]
    header: dict[str, Any]
    """`info`, `licenses`, and the category list as it stands in the file."""
    only_boxes: bool = False
    """Whether there are annotations, and none has a `segmentation`."""
    contents: "CocoContents | None" = field(default=None, repr=False, compare=False)
    """None in a worker process, which receives the records that it converts."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (CocoFile, (self.path, self.categories, self.header, self.only_boxes))

    def records(
        self,
        tally: Tally,
        candidates: Callable[[str], tuple[str, ...]],
        class_names: Callable[[bytes], Sequence[str]],
    ) -> Iterator[Record]:
        """Yield every image in the file's order.

        The `data` of a record is the raw image record and the image's `FlaggedAnnotations`.

        Args:
            tally: receives images that are unreadable or listed twice, and annotations that belong
                to no image.
            candidates: file name -> possible paths of the image.
            class_names: raw annotation -> the class name of everything that it labels.
        """
        contents = self.contents
        assert contents is not None  # workers receive records
        for number, raw in contents.bad_images:
            tally.images_in += 1
            tally.drop_image(_image_defect(raw, number, self.path), ())
        for number, raw in contents.orphans:
            tally.drop_orphan(_orphan_defect(raw, number, self.path), class_names(raw))
        repeated: set[str] = set()
        for raw, annotations in contents.by_image:
            image = IMAGE.decode(raw)
            flagged = [(entry, contents.is_repeat(entry, repeated)) for entry in annotations]
            yield Record(str(image.id), image.name, candidates(image.name), (raw, flagged))

    def images(self) -> Iterator[tuple[str, str]]:
        """Yield the id and the file name of every image of `records`."""
        assert self.contents is not None  # workers receive records
        for raw in self.contents.by_image.images():
            image = IMAGE.decode(raw)
            yield str(image.id), image.name


def read_coco(path: Path, expected: AnnotationType, *, drop_unused_twins: bool = False) -> CocoFile:
    """Read a COCO JSON file, once from front to back.

    A file whose annotations stand before its images is read twice.

    Args:
        path: the file.
        expected: type of its annotations.
        drop_unused_twins: drop classes without annotations that have the name of another class.

    Raises:
        InputError: the file does not exist, is not JSON (the message names the place), lacks the
            lists of images, annotations and categories, or is of another type than expected.
    """
    reject_other_formats(path, "coco")
    header: dict[str, Any] = {}
    categories: list[bytes] = []
    lists: list[str] = []
    contents = CocoContents(path, expected)
    for key, value, text in json_stream.members(path, _LISTS):
        if key in ("categories", *_HEADER):  # the manifest holds them
            hint = "remove what a manifest cannot hold"
            record = f"{key}[{len(categories)}]" if key == "categories" else key
            parse.parse_json(json.dumps(value), file=path, record=record, hint=hint)
        if not text:
            lists.append(key)
        elif key == "images":
            contents.add_image(with_integers(value, text))
        elif key == "annotations" and "images" in lists:
            contents.add_annotation(value, text)
        elif key == "categories":
            copy = dict(value) if isinstance(value, dict) else value  # the header is verbatim
            categories.append(with_integers(copy, text))
            header.setdefault(key, []).append(value)
        elif key in _HEADER:
            header[key] = value
    for key in _LISTS:
        if key not in lists:
            raise InputError(f"has no list {key!r}", file=path, hint="give a file in COCO format")
    if lists.index("annotations") < lists.index("images"):
        for key, value, text in json_stream.members(path, _LISTS):
            if key == "annotations" and text:
                contents.add_annotation(value, text)
    contents.finish()
    natives = _categories(categories, path)
    if drop_unused_twins:
        natives = _drop_unused_twins(natives, contents.used_classes)
    return CocoFile(path, natives, header, contents.only_boxes, contents)


@dataclass(frozen=True)
class CocoSource:
    """Base of all sources of a COCO file."""

    file: CocoFile
    images: Path
    labels: dict[int, str] = field(init=False)
    """Class id -> the name under which the ledger counts it."""
    name: ClassVar[str]
    default_kind: ClassVar[Kind | None] = None
    """Of the classes whose kind the file does not say, see `build_taxonomy`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", self.taxonomy.unique_names)

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

    def fingerprint(self) -> dict[str, Any]:
        """Return the file's path; records hold its content."""
        return {"source": self.name, "file": str(self.file.path.resolve())}

    def records(self, tally: Tally) -> Iterator[Record]:
        """Yield images in the file's order, each with the raw records of its annotations."""
        for record in self.file.records(tally, self.candidates, self.class_names):
            name = relative_name(self.images, record.file_name)
            if name != record.file_name:
                record = replace(record, file_name=name, candidates=self.candidates(name))
            yield record

    def image_names(self) -> Iterator[ImageName]:
        """Yield nothing: an image has the path in the file."""
        return iter(())

    def candidates(self, file_name: str) -> tuple[str, ...]:
        """Return the possible paths of an image under the image folder."""
        return (file_name,)

    def class_names(self, raw: bytes) -> list[str]:
        """Return the class name of everything that a raw annotation labels."""
        return [coco_fields.class_name(raw, self.labels)]


class CocoContents:
    """Images and annotations of a file, in temporary files."""

    def __init__(self, path: Path, expected: AnnotationType) -> None:
        self.by_image = ExternalSort()
        self.bad_images = SpillFile()
        """Images that are unreadable or listed twice, with their index in the file's list."""
        self.orphans = SpillFile()
        """Annotations that belong to no image, with their index in the file's list."""
        self.used_classes: set[str] = set()
        """The category ids of all annotations, as text."""
        self.masked = False
        """Whether some annotation has a `segmentation`."""
        self._path, self._expected = path, expected
        self._images = self._annotations = 0
        self._places: dict[str, int] = {}
        """Image id -> its place in `by_image`."""
        self._integer_ids, self._text_ids = array("q"), Counter[str]()
        self._repeated_ids: frozenset[str] = frozenset()

    @property
    def only_boxes(self) -> bool:
        """Whether there are annotations, and none has a `segmentation`."""
        return self._annotations > 0 and not self.masked

    def add_image(self, raw: bytes) -> None:
        """Add the raw record of an image."""
        index = self._images
        self._images += 1
        try:
            image_id = str(read_image(raw, index, self._path).id)
        except ImageError:
            image_id = None
        if image_id is None or image_id in self._places:
            self.bad_images.add(index, raw)
        else:
            self._places[image_id] = len(self._places)
            self.by_image.add_image(raw)

    def add_annotation(self, value: Any, raw: bytes) -> None:
        """Add an annotation, given both as decoded value and as raw record."""
        index = self._annotations
        self._annotations += 1
        raw = with_integers(value, raw)
        if not index:
            _check_type(value, self._expected, self._path)
        owner = value.get("image_id") if isinstance(value, dict) else None
        place = self._places.get(str(owner)) if is_id(owner) else None
        if place is None:
            self.orphans.add(index, raw)
            return
        self.by_image.add_annotation(place, raw)
        shape = value.get("segmentation")
        self.masked |= any(part != [] for part in shape) if isinstance(shape, list) else bool(shape)
        self._use_classes(value)
        annotation_id = value.get("id")
        if is_integer(annotation_id) and -_INT64 < annotation_id < _INT64:
            self._integer_ids.append(annotation_id)  # 8 bytes each: there may be many millions
        elif annotation_id is not None:
            self._text_ids[str(annotation_id)] += 1

    def _use_classes(self, value: dict[str, Any]) -> None:
        class_id = value.get("category_id")
        if is_id(class_id):
            self.used_classes.add(str(class_id))
        infos = value.get("segments_info")
        for info in infos if isinstance(infos, list) else ():
            if isinstance(info, dict):
                self.used_classes.add(str(info.get("category_id")))

    def finish(self) -> None:
        """Find the ids that several annotations share; nothing can be added afterwards."""
        self._places.clear()
        ids = np.sort(np.asarray(self._integer_ids, np.int64))
        integers = map(str, np.unique(ids[1:][ids[1:] == ids[:-1]]).tolist())
        texts = (text for text, count in self._text_ids.items() if count > 1)
        self._repeated_ids = frozenset((*integers, *texts))
        self._integer_ids, self._text_ids = array("q"), Counter()

    def is_repeat(self, annotation: bytes, repeated: set[str]) -> bool:
        """Whether an earlier annotation has the same id.

        Args:
            annotation: raw record.
            repeated: collects the ids that occur several times, as they first appear.
        """
        if not self._repeated_ids:
            return False
        try:
            annotation_id = str(_IDENTIFIED.decode(annotation).id)
        except msgspec.DecodeError:
            return False
        if annotation_id not in self._repeated_ids or annotation_id in repeated:
            return annotation_id in repeated
        repeated.add(annotation_id)
        return False


def _check_type(annotation: Any, expected: AnnotationType, path: Path) -> None:
    """Raise InputError if the first annotation of a file shows that it is of the other type."""
    actual: AnnotationType = "instances" if expected == "panoptic" else "panoptic"
    expected_name, expected_field = _TYPES[expected]
    actual_name, actual_field = _TYPES[actual]
    if (
        isinstance(annotation, dict)
        and expected_field not in annotation
        and actual_field in annotation
    ):
        message = (
            f"is {actual_name}, not {expected_name} "
            f"(its annotations have {actual_field}, not {expected_field})"
        )
        hint = f"give it as `segkit convert coco --{actual} FILE`"
        raise InputError(message, file=path, hint=hint)


def _categories(records: Iterable[bytes], path: Path) -> tuple[NativeCategory, ...]:
    kinds: dict[Any, Kind | None] = {0: "stuff", 1: "thing", None: None}
    categories = []
    for number, raw in enumerate(records):
        try:
            entry = msgspec.json.decode(raw, type=_Category)
            kind = kinds[entry.isthing]
            if not -_INT32 <= int(entry.id) < _INT32:
                raise ValueError("its id does not fit in 32 bits")
            categories.append(NativeCategory(int(entry.id), entry.name, kind, entry.synonyms))
        except (msgspec.ValidationError, ValueError, KeyError) as error:
            message = f"invalid category ({error})"
            record = f"categories[{number}]"
            hint = "give it an integer id, a name and isthing 0 or 1"
            raise InputError(message, file=path, record=record, hint=hint) from error
    return tuple(categories)


def _drop_unused_twins(
    natives: Sequence[NativeCategory], used: Collection[str]
) -> tuple[NativeCategory, ...]:
    """Return the classes without those that nothing uses and that share a used class's name."""
    used_names = {encoder_text(native.name) for native in natives if str(native.id) in used}
    return tuple(
        native
        for native in natives
        if str(native.id) in used or encoder_text(native.name) not in used_names
    )


def _image_defect(raw: bytes, number: int, path: Path) -> Defect:
    """Build the defect of a bad image record."""
    try:
        image = read_image(raw, number, path)
    except ImageError as error:
        return error.defect
    message = "another image has the same id"
    return Defect("duplicate-id", message, str(path), f"image {image.id}", None, parse_loosely(raw))


def _orphan_defect(raw: bytes, number: int, path: Path) -> Defect:
    """Build the defect of an annotation that belongs to no image."""
    value = parse_loosely(raw)
    owner = value.get("image_id") if isinstance(value, dict) else None
    code, message = "malformed-annotation", "no image_id"
    if is_id(owner):
        code, message = "unknown-image", f"image {owner} is not in the file's list"
    elif owner is not None:
        message = "its image_id is neither an integer nor text"
    return Defect(code, message, str(path), f"annotations[{number}]", None, value)
