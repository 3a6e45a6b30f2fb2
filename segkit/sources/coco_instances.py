"""COCO instances: polygons, run lengths, or boxes alone, with any category list."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from segkit.masks import rle
from segkit.sample import Box, Kind, Sample, Segment
from segkit.shards.manifest import SetKind
from segkit.sources import coco_fields, coco_json
from segkit.sources.coco_fields import Id
from segkit.sources.coco_json import CocoSource
from segkit.sources.image_files import Picture
from segkit.sources.ledger import AnnotationError, Defect, Tally
from segkit.sources.source import Record

_NOTHING = (b"null", b"[]", b"{}", b'""')
_FAR = 1e9  # pixels; a box beyond that is a wrong number
_Content = list[tuple[bytes, bool, str]]
"""Raw annotations, each with whether its id repeats and its class name."""


class Annotation(msgspec.Struct, frozen=True):
    """An annotation of an object; only the category is needed, the rest may be missing."""

    category_id: Any
    id: Id | None = None
    bbox: list[float] | None = None
    segmentation: msgspec.Raw = msgspec.Raw(b"null")
    area: float | None = None
    iscrowd: int | bool | None = None
    ignore: int | bool | None = None


class _Rle(msgspec.Struct, frozen=True):
    size: tuple[int, int]
    counts: str | list[int]


_ANNOTATION = msgspec.json.Decoder(Annotation)


@dataclass(frozen=True)
class CocoInstances(CocoSource):
    """A COCO instances file and its images; LVIS's lists of negative and of not exhaustive classes
    are understood."""

    boxes_only: bool = False
    name: str = "coco-instances"
    default_kind: ClassVar[Kind | None] = "thing"

    @property
    def kind(self) -> SetKind:
        """`boxes` where masks are left out."""
        return "boxes" if self.boxes_only else "instance"

    def fingerprint(self) -> dict[str, Any]:
        """The file's path, size and time, and the options."""
        return {
            "source": self.name,
            "boxes_only": self.boxes_only,
            **coco_json.identity(self.file.path),
        }

    def records(self, tally: Tally) -> Iterator[Record]:
        """Images in the file's order, each with the raw records of its annotations."""
        return coco_json.records(self.file, tally, self.candidates, self._classes)

    def candidates(self, file_name: str) -> tuple[str, ...]:
        """Where an image may lie under the image folder: as named, or in it without the folders of
        its name."""
        return tuple(dict.fromkeys((file_name, file_name.rsplit("/", 1)[-1])))

    def load(self, record: Record) -> tuple[_Content, Sequence[str]]:
        """The raw annotations, and the class of each."""
        content = [
            (raw, repeated, coco_fields.class_name(raw, self.labels))
            for raw, repeated in record.data[1]
        ]
        return content, [name for _, _, name in content]

    def sample(
        self, record: Record, content: _Content, picture: Picture | None, tally: Tally
    ) -> Sample:
        """Masks as pycocotools rasterises them; ids, boxes, areas and polygons as the source has
        them."""
        image = coco_fields.IMAGE.decode(record.data[0])
        width, height = coco_fields.size_of(image, picture, self.file.path)
        segments, seen = [], set()
        for raw, repeated, name in content:
            try:
                if repeated:
                    raise AnnotationError("duplicate-id", "another annotation has the same id")
                segment = self.segment(raw, width, height, name, tally)
            except AnnotationError as refusal:
                tally.drop(self.defect(refusal, raw, record.id, name))
                continue
            key = (segment.class_id, segment.box, segment.mask)
            if key in seen:
                tally.warn("exact-duplicate", name)
            seen.add(key)
            segments.append(segment)
        return Sample(
            record.id,
            record.file_name,
            width,
            height,
            tuple(segments),
            annotated=self._annotated(image, segments),
            exhaustive=not image.not_exhaustive_category_ids,
            not_exhaustive=self._known(image.not_exhaustive_category_ids or ()),
            source=record.data[0].decode(),
        )

    def segment(self, raw: bytes, width: int, height: int, name: str, tally: Tally) -> Segment:
        """The segment of a raw annotation; `name` is the class under which `tally` takes warnings.

        Raises:
            AnnotationError: it cannot be kept.
        """
        try:
            annotation = _ANNOTATION.decode(raw)
        except msgspec.DecodeError as error:
            raise AnnotationError("malformed-annotation", str(error)) from None
        category = coco_fields.category(annotation.category_id, self.taxonomy)
        mask = None if self.boxes_only else _mask(annotation.segmentation, width, height)
        if mask is None and not self.boxes_only:
            tally.warn("no-mask", name)
        box = _box(annotation, mask, width, height)
        if coco_fields.beyond(box, width, height):
            tally.warn("box-beyond-image", name)
        area = annotation.area
        if area is None or not math.isfinite(area):
            area = float(rle.area(mask, height, width)) if mask is not None else box[2] * box[3]
        return Segment(
            class_id=category.id,
            kind=category.kind,
            box=box,
            mask=mask,
            area=area,
            is_crowd=bool(annotation.iscrowd),
            ignore=bool(annotation.ignore),
            mask_from=None if mask is None else "human",
            source_id=None if annotation.id is None else str(annotation.id),
            source_polygon=_polygon_text(annotation.segmentation) if mask is not None else None,
        )

    def _annotated(
        self, image: coco_fields.Image, segments: list[Segment]
    ) -> tuple[int, ...] | None:
        """The classes that were looked for: all of them, or those that LVIS lists and those that
        are there."""
        if image.neg_category_ids is None:
            return None
        return self._known((*(segment.class_id for segment in segments), *image.neg_category_ids))

    def _known(self, class_ids: Iterable[int]) -> tuple[int, ...]:
        return tuple(sorted(self.taxonomy.by_id.keys() & set(class_ids)))

    def defect(self, refusal: AnnotationError, raw: bytes, image: str, name: str) -> Defect:
        """Why a raw annotation of the image with this id is dropped; `name` is its class."""
        return coco_fields.defect(refusal, raw, self.file.path, "annotation", image, name)

    def _classes(self, raw: bytes) -> list[str]:
        return [coco_fields.class_name(raw, self.labels)]


def open_coco_instances(
    annotations: Path, images: Path, *, boxes_only: bool = False
) -> CocoInstances:
    """The source of a COCO instances file; InputError where it cannot be read."""
    return CocoInstances(coco_json.read_coco(annotations, "instances"), images, boxes_only)


def _mask(raw: msgspec.Raw, width: int, height: int) -> bytes | None:
    """Compressed counts of a `segmentation`; None where there is none."""
    text = bytes(raw).strip()
    if text in _NOTHING:
        return None
    try:
        counts = (
            _polygons(text, width, height) if text.startswith(b"[") else _runs(text, width, height)
        )
    except msgspec.DecodeError as error:
        raise AnnotationError("malformed-annotation", f"segmentation: {error}") from None
    if not rle.area(counts, height, width):
        raise AnnotationError("empty-mask", "the mask covers no pixel")
    return counts


def _polygons(text: bytes, width: int, height: int) -> bytes:
    try:
        return rle.from_polygons(msgspec.json.decode(text, type=list[list[float]]), height, width)
    except ValueError as error:
        if isinstance(error, msgspec.DecodeError):
            raise
        raise AnnotationError("degenerate-polygon", str(error)) from None


def _runs(text: bytes, width: int, height: int) -> bytes:
    run_lengths = msgspec.json.decode(text, type=_Rle)
    if run_lengths.size != (height, width):
        wanted = f"the mask is {run_lengths.size[1]} x {run_lengths.size[0]}, its image {width} x {height}"
        raise AnnotationError("mask-size-mismatch", wanted)
    try:
        if isinstance(run_lengths.counts, list):
            return rle.from_uncompressed(run_lengths.counts, height, width)
        counts = run_lengths.counts.encode()
        rle.area(counts, height, width)
    except (ValueError, OverflowError) as error:
        raise AnnotationError("malformed-annotation", f"segmentation: {error}") from None
    return counts


def _box(annotation: Annotation, mask: bytes | None, width: int, height: int) -> Box:
    """The source's box; the mask's tight one where it gives none or one without extent."""
    given = annotation.bbox
    if given is not None:
        if len(given) != 4 or max(map(abs, given)) >= _FAR:  # JSON as msgspec reads it has no NaN
            raise AnnotationError(
                "malformed-annotation", f"bbox {given} is not four finite numbers"
            )
        if min(given[2:]) > 0:
            return (given[0], given[1], given[2], given[3])
    mask = mask or _mask(annotation.segmentation, width, height)
    if mask is None:
        what = f"bbox {given} has no extent" if given else "the annotation has neither box nor mask"
        raise AnnotationError("degenerate-box", what)
    return rle.box(mask, height, width)


def segmentation_text(raw: bytes) -> str | None:
    """The `segmentation` of a raw annotation as it stands in the file; None where there is none."""
    text = bytes(_ANNOTATION.decode(raw).segmentation).strip()
    return None if text in _NOTHING else text.decode()


def _polygon_text(raw: msgspec.Raw) -> str | None:
    text = bytes(raw).strip()
    return text.decode() if text.startswith(b"[") else None
