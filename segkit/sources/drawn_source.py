"""The base of the sources of labeling tools: annotations that a person drew become segments."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from segkit.errors import InputError
from segkit.masks import rle
from segkit.sample import MaskSource, Sample, Segment
from segkit.shards.manifest import SetKind
from segkit.sources import coco_fields
from segkit.sources.categories import NativeCategory, build_taxonomy
from segkit.sources.drawn_shapes import Draw, union
from segkit.sources.image_files import Picture
from segkit.sources.labels_file import read_labels
from segkit.sources.ledger import UNAVOIDABLE, AnnotationError, Defect, ImageError, Tally
from segkit.sources.source import ImageName, Record, RecordContent
from segkit.taxonomy import Category, Taxonomy, load_taxonomy


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotation of an image, read but not yet drawn."""

    label: int | str
    """Index or name of its class, or the word in its place."""
    place: str
    """Words that find it in its file, such as `line 3`."""
    draw: Draw | AnnotationError
    """The shape, or the reason why there is none."""
    data: Any = None
    """The source's own record, as JSON values."""
    group: int | None = None
    """Annotations of one group and class are parts of one object; None is an object by itself."""
    is_crowd: bool = False
    ignore: bool = False
    score: Any = None
    """Left out with a warning unless it is None or a number within 0-1."""
    source_id: str | None = None
    mask_from: MaskSource = "human"
    has_class: bool = True
    """Whether its class could be read; if not, its object may be of any class."""


@dataclass(frozen=True, slots=True)
class ImageAnnotations:
    """The annotations of an image."""

    file: Path
    """The file that errors name."""
    annotations: Sequence[Annotation]
    size: tuple[int, int] | None = None
    """Width and height of the image that was annotated, in pixels; None where nobody says."""
    embedded: bytes | None = field(default=None, repr=False)
    """The image, where the annotation file embeds it."""
    warnings: tuple[str, ...] = ()
    """Codes of `ledger.WARNINGS` that concern the entire image."""


@dataclass(frozen=True)
class DrawnSource:
    """Base of the sources of labeling tools.

    A subclass yields records and reads the annotations of a record.
    """

    images: Path
    annotations: Path
    """The file or folder of annotations."""
    taxonomy: Taxonomy
    kind: SetKind
    options: Mapping[str, Any]
    """JSON values of options that decide how annotations are read."""
    boxes_only: bool = False
    notes: tuple[str, ...] = ()
    """What the user must know, one line each."""
    header: dict[str, Any] = field(default_factory=dict)
    name: str = "drawn"

    def fingerprint(self) -> dict[str, Any]:
        """Return the source's name, its annotations, its kind and the options."""
        place = str(self.annotations.resolve())
        options = {"boxes_only": self.boxes_only, "kind": self.kind, **self.options}
        return {"source": self.name, "annotations": place, **options}

    def records(self, tally: Tally) -> Iterator[Record]:
        """Yield every image once; one without a name and a second one of an id are dropped."""
        tally.notes.extend(self.notes)
        ids: set[str] = set()
        for record in self.all_records():
            if not record.file_name:
                message = "no image is named"
                self._drop(record, "malformed-image", message, self.annotations, tally)
            elif record.id in ids:
                message = "another image has the same name, up to the extension"
                self._drop(record, "duplicate-id", message, self.images / record.file_name, tally)
            else:
                ids.add(record.id)
                yield record

    def _drop(self, record: Record, code: str, message: str, file: Path, tally: Tally) -> None:
        """Drop an image with its annotations before it is planned."""
        tally.images_in += 1
        try:
            names = self.load(record).class_names
        except ImageError as error:
            tally.drop_image(error.defect, ())
            return
        tally.annotations_in.update(names)
        tally.drop_image(Defect(code, message, str(file), f"image {record.id}"), names)

    def all_records(self) -> Iterator[Record]:
        """Yield every image of the source."""
        raise NotImplementedError

    def image_names(self) -> Iterator[ImageName]:
        """Yield the names of all images."""
        for record in self.all_records():
            name = record.address or record.file_name
            yield ImageName(record.id, name, record.candidates)

    def read(self, record: Record) -> ImageAnnotations:
        """Read the annotations of a record; ImageError if that is impossible."""
        raise NotImplementedError

    def load(self, record: Record) -> RecordContent:
        """Return the annotations of a record, and the class name of each."""
        content = self.read(record)
        names = [self._class_name(entry.label) for entry in content.annotations]
        return RecordContent(content, names, content.embedded)

    def sample(
        self, record: Record, content: ImageAnnotations, picture: Picture | None, tally: Tally
    ) -> Sample:
        """Build the sample: a segment for each object that was drawn.

        The class of an object that is dropped over a defect is not exhaustive: it is unlabeled. An
        object of no readable class may be of any.
        """
        image_id = record.id
        width, height = self._size(content, picture, image_id)
        tally.image_warnings.update(content.warnings)
        segments, keys, incomplete = [], set(), set[int]()
        for parts in _objects(content.annotations):
            first = parts[0]
            class_name = self._class_name(first.label)
            for _ in parts[1:]:
                tally.join(class_name, "joined-parts")
            try:
                segment = self._segment(parts, width, height, class_name, tally)
            except AnnotationError as error:
                place = f"{first.place} of image {image_id}"
                data = first.data if len(parts) == 1 else [part.data for part in parts]
                file = str(content.file)
                tally.drop(Defect(error.code, str(error), file, place, class_name, data))
                if error.code not in UNAVOIDABLE:
                    incomplete |= self._possible_classes(first)
                continue
            key = (segment.class_id, segment.box, segment.mask)
            if key in keys:
                tally.warn("exact-duplicate", class_name)
            keys.add(key)
            segments.append(segment)
        if incomplete:
            tally.image_warnings["not-exhaustive"] += 1
        return Sample(
            image_id,
            record.file_name,
            width,
            height,
            tuple(segments),
            exhaustive=not incomplete,
            not_exhaustive=tuple(sorted(incomplete)),
        )

    def _segment(
        self, parts: Sequence[Annotation], width: int, height: int, class_name: str, tally: Tally
    ) -> Segment:
        first = parts[0]
        draws = []
        for part in parts:
            if isinstance(part.draw, AnnotationError):
                raise part.draw
            draws.append(part.draw)
        category = self._category(first.label)
        if category is None:
            raise AnnotationError("unknown-category", self._unknown(first.label))
        drawing = union(draws)(width, height)
        box, mask = drawing.box, None if self.boxes_only else drawing.mask
        if mask is None and self.kind != "boxes":
            tally.warn("no-mask", class_name)
        if drawing.warning is not None:
            tally.warn(drawing.warning, class_name)
        if coco_fields.beyond_image(box, width, height):
            tally.warn("box-beyond-image", class_name)
        score, warning = coco_fields.score(first.score)
        if warning is not None:
            tally.warn(warning, class_name)
        return Segment(
            class_id=category.id,
            kind=category.kind,
            box=box,
            mask=mask,
            area=box[2] * box[3] if mask is None else float(rle.area(mask, height, width)),
            is_crowd=first.is_crowd,
            ignore=any(part.ignore for part in parts),
            mask_from=None if mask is None else first.mask_from,
            score=score,
            source_id=None if first.source_id is None else plain_text(first.source_id),
            source_polygon=None if self.boxes_only else drawing.polygons,
        )

    def _size(
        self, content: ImageAnnotations, picture: Picture | None, image_id: str
    ) -> tuple[int, int]:
        if content.size is None and picture is None:
            message = "the annotations do not state the size of the image, so that it must be read"
            raise ImageError(
                "bad-size",
                message,
                file=content.file,
                record=f"image {image_id}",
                hint="omit --images-by none",
            )
        width, height = content.size or (0, 0)  # 0: that of the image
        image = coco_fields.Image(image_id, width=width, height=height)
        return coco_fields.image_size(image, picture, content.file)

    @cached_property
    def _labels(self) -> dict[int, str]:
        """Class id -> the name under which the ledger counts it."""
        return self.taxonomy.unique_names

    @cached_property
    def _by_name(self) -> dict[str, Category]:
        spelled = {c.source_name.strip(): c for c in self.taxonomy.categories if c.source_name}
        return {**spelled, **{category.name: category for category in self.taxonomy.categories}}

    def _category(self, label: int | str) -> Category | None:
        if isinstance(label, int):
            return self.taxonomy.by_id.get(label)
        return self._by_name.get(plain_text(label))

    def _possible_classes(self, annotation: Annotation) -> set[int]:
        """Ids of the classes that the object of an annotation may have."""
        category = self._category(annotation.label)
        if category is not None:
            return {category.id}
        label = annotation.label
        is_named = isinstance(label, int) or plain_text(label) != ""
        return set() if annotation.has_class and is_named else set(self.taxonomy.by_id)

    def _class_name(self, label: int | str) -> str:
        category = self._category(label)
        if category is not None:
            return self._labels[category.id]
        return f"category {label}" if isinstance(label, int) else plain_text(label) or "(no label)"

    def _unknown(self, label: int | str) -> str:
        if isinstance(label, int):
            return f"class {label} has no name"
        return f"class {label!r} is not in the list" if plain_text(label) else "it has no label"


def plain_text(text: str) -> str:
    """Return a text without blanks around it and without halves of characters, as JSON allows."""
    return text.encode("utf-8", "replace").decode("utf-8").strip()


def classes_of(
    names: set[str],
    labels: Path | None,
    *,
    file: Path,
    name: str,
    vocabulary: str | None = None,
    broken: InputError | None = None,
) -> Taxonomy:
    """Return the classes of annotations that have names but no list of classes.

    Args:
        names: all labels that occur.
        labels: the user's list, see `labels_file`; None takes the names, in alphabetical order
            from 0.
        file: the file or folder that errors name.
        name: name of the taxonomy.
        vocabulary: a known vocabulary that is taken, with its ids, if it has all of the names.
        broken: the error of a file that cannot be read and may have labels.

    Raises:
        InputError: there is no class (`broken` says why, if it is given), or the list cannot be
            read.
    """
    if labels is not None:
        natives = read_labels(labels).categories
        return build_taxonomy(natives, default="thing", file=labels, name=labels.stem)
    plain = sorted({plain_text(text) for text in names} - {""})
    if not plain:
        if broken is not None:
            raise broken
        command = f"`segkit convert {name} --labels FILE`, one class a line"
        hint = f"give {command}, if its images show no object"
        raise InputError("has no annotation with a label", file=file, hint=hint)
    if vocabulary is not None:
        known = load_taxonomy(vocabulary)
        if set(plain) <= set(known.names):
            return known
    natives = tuple(NativeCategory(index, text) for index, text in enumerate(plain))
    return build_taxonomy(natives, default="thing", file=file, name=name)


def _objects(annotations: Sequence[Annotation]) -> list[list[Annotation]]:
    """The annotations of each object, in the order of its first one."""
    objects: list[list[Annotation]] = []
    groups: dict[tuple[int | str, int], list[Annotation]] = {}
    for entry in annotations:
        if entry.group is None or isinstance(entry.draw, AnnotationError):
            objects.append([entry])
            continue
        key = (entry.label, entry.group)
        if key not in groups:
            groups[key] = []
            objects.append(groups[key])
        groups[key].append(entry)
    return objects
