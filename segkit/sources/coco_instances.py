"""Converts COCO instances: polygons, run lengths, or only boxes, with any category list."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from segkit.file_names import relative_name
from segkit.masks import rle
from segkit.masks.boxes import MARGIN, with_margin
from segkit.sample import Box, Kind, MaskSource, Sample, Segment
from segkit.shards.manifest import SetKind
from segkit.shards.rules import agrees, is_area, reaches
from segkit.sources import coco_fields
from segkit.sources.coco_fields import Id
from segkit.sources.coco_json import CocoSource, read_coco
from segkit.sources.drawn_shapes import MIN_NUMBERS, polygon_mask, without_degenerate
from segkit.sources.image_files import Picture
from segkit.sources.ledger import AnnotationError, Defect, Tally
from segkit.sources.source import ImageName, Record, RecordContent
from segkit.storage import StrPath, location

_EMPTY = re.compile(rb'null|""|\[\s*(\[\s*\]\s*(,\s*)?)*\]|\{\s*\}')
_MAX_COORDINATE = 1e9  # pixels; a larger one is a wrong number
_Content = list[tuple[bytes, bool, str]]
"""Raw annotations, each with whether its id is repeated and its class name."""


class Annotation(msgspec.Struct, frozen=True):
    """An annotation of an object; only the category is required."""

    category_id: Any
    id: Id | None = None
    bbox: list[float] | None = None
    segmentation: msgspec.Raw = msgspec.Raw(b"null")
    area: float | None = None
    iscrowd: int | bool | None = None
    ignore: int | bool | None = None
    score: Any = None
    mask_from: Any = None
    """`score` and `mask_from` are segkit's, of masks that a model predicted."""


class RunLengths(msgspec.Struct, frozen=True):
    """A `segmentation` of run lengths."""

    size: tuple[int, int]
    """Height and width."""
    counts: str | list[int]
    """Compressed, or not."""


_ANNOTATION = msgspec.json.Decoder(Annotation)


@dataclass(frozen=True)
class CocoInstances(CocoSource):
    """A COCO instances file and its images, or an LVIS file.

    LVIS's lists of negative and of not exhaustive classes become `annotated` and `not_exhaustive`.
    The class of an annotation that is dropped is not exhaustive either: its object is unlabeled. An
    annotation of no readable class may be of any.
    """

    boxes_only: bool = False
    crowds_as_objects: bool = False
    """Take every annotation for one object, whatever its `iscrowd`."""
    name: ClassVar[str] = "coco-instances"
    default_kind: ClassVar[Kind | None] = "thing"

    @property
    def kind(self) -> SetKind:
        """`boxes` where masks are left out or nothing has one, `instance` elsewhere."""
        return "boxes" if self.boxes_only or self.file.only_boxes else "instance"

    def fingerprint(self) -> dict[str, Any]:
        """Return the file's path, the kind and the options."""
        options = {"boxes_only": self.boxes_only, "crowds_as_objects": self.crowds_as_objects}
        return {**super().fingerprint(), "kind": self.kind, **options}

    def candidates(self, file_name: str) -> tuple[str, ...]:
        """Return the file name as given, and without its folders."""
        return tuple(dict.fromkeys((file_name, file_name.rsplit("/", 1)[-1])))

    def image_names(self) -> Iterator[ImageName]:
        """Yield the names of all images."""
        for image_id, file_name in self.file.images():
            name = relative_name(self.images, file_name)
            yield ImageName(image_id, name, self.candidates(name))

    def load(self, record: Record) -> RecordContent:
        """Return the raw annotations, and the class name of each."""
        content = [
            (raw, repeated, coco_fields.class_name(raw, self.labels))
            for raw, repeated in record.data[1]
        ]
        return RecordContent(content, [class_name for _, _, class_name in content])

    def sample(
        self, record: Record, content: _Content, picture: Picture | None, tally: Tally
    ) -> Sample:
        """Build the sample, with masks as pycocotools rasterizes them.

        Ids, boxes, areas and polygons are those of the source.
        """
        image = coco_fields.IMAGE.decode(record.data[0])
        width, height = coco_fields.image_size(image, picture, self.file.path)
        segments, keys = [], set()
        listed = set(image.not_exhaustive_category_ids or ())
        incomplete = set(listed)
        for raw, repeated, class_name in content:
            try:
                if repeated:
                    raise AnnotationError("duplicate-id", "another annotation has the same id")
                segment = self.segment(raw, width, height, class_name, tally)
            except AnnotationError as error:
                tally.drop(self.annotation_defect(error, raw, record.id, class_name))
                class_id = coco_fields.class_id(raw)
                known = self.taxonomy.by_id.keys()
                incomplete |= known if class_id is None else known & {class_id}
                continue
            key = (segment.class_id, segment.box, segment.mask)
            if key in keys:
                tally.warn("exact-duplicate", class_name)
            keys.add(key)
            segments.append(segment)
        if incomplete > listed:
            tally.image_warnings["not-exhaustive"] += 1
        return Sample(
            record.id,
            record.file_name,
            width,
            height,
            tuple(segments),
            annotated=self._annotated(image, segments),
            exhaustive=not incomplete,
            not_exhaustive=self._known_ids(incomplete),
            source=record.data[0].decode(),
        )

    def segment(
        self, raw: bytes, width: int, height: int, class_name: str, tally: Tally
    ) -> Segment:
        """Build the segment of a raw annotation.

        Args:
            raw: the annotation.
            width: of its image, in pixels.
            height: of its image, in pixels.
            class_name: class under which `tally` counts warnings.
            tally: receives warnings.

        Raises:
            AnnotationError: the annotation cannot be kept.
        """
        try:
            annotation = _ANNOTATION.decode(raw)
        except msgspec.DecodeError as error:
            message = coco_fields.decode_message(error, raw)
            raise AnnotationError("malformed-annotation", message) from None
        category = coco_fields.category(annotation.category_id, self.taxonomy)
        mask = None if self.boxes_only else _mask(annotation.segmentation, width, height)
        warnings = []
        if mask is None and self.kind != "boxes":
            warnings.append("no-mask")
        if mask is not None and mask.warning is not None:
            warnings.append(mask.warning)
        mask_from = coco_fields.mask_source(annotation.mask_from)
        box, box_warning = _box(annotation, mask, width, height)
        area, area_warning = _area(annotation.area, mask, box, mask_from)
        if (
            area_warning == "area-mismatch"
            and self.boxes_only
            and _has_mask(annotation.segmentation)
        ):
            area_warning = None  # the area is that of the mask
        score, score_warning = coco_fields.score(annotation.score)
        if box_warning == "box-beyond-image" and _looks_like_corners(box, width, height):
            tally.corner_boxes[class_name] += 1
        for code in (*warnings, box_warning, area_warning, score_warning):
            if code is not None:
                tally.warn(code, class_name)
        return Segment(
            class_id=category.id,
            kind=category.kind,
            box=box,
            mask=None if mask is None else mask.region.counts,
            area=area,
            is_crowd=bool(annotation.iscrowd) and not self.crowds_as_objects,
            ignore=bool(annotation.ignore),
            mask_from=None if mask is None else mask_from,
            score=score if mask is not None or mask_from == "human" else None,
            source_id=None if annotation.id is None else str(annotation.id),
            source_polygon=None if mask is None else mask.polygons,
        )

    def annotation_defect(
        self, error: AnnotationError, raw: bytes, image_id: str, class_name: str
    ) -> Defect:
        """Build the defect of a raw annotation that is dropped."""
        return coco_fields.annotation_defect(
            error, raw, self.file.path, "annotation", image_id, class_name
        )

    def _annotated(
        self, image: coco_fields.Image, segments: list[Segment]
    ) -> tuple[int, ...] | None:
        """The annotated classes: all (None), or those that LVIS lists as negative or that occur."""
        if image.neg_category_ids is None:
            return None
        present = (segment.class_id for segment in segments)
        return self._known_ids((*present, *image.neg_category_ids))

    def _known_ids(self, class_ids: Iterable[int]) -> tuple[int, ...]:
        return tuple(sorted(self.taxonomy.by_id.keys() & set(class_ids)))


def open_coco_instances(
    annotations: StrPath,
    images: StrPath,
    *,
    boxes_only: bool = False,
    crowds_as_objects: bool = False,
    drop_unused_twins: bool = False,
) -> CocoInstances:
    """Open a COCO instances file as a source.

    Args:
        annotations: the JSON file.
        images: folder of the images.
        boxes_only: leave the masks out.
        crowds_as_objects: take every annotation for one object, whatever its `iscrowd`.
        drop_unused_twins: drop classes without annotations that have the name of another class.

    Raises:
        InputError: the file cannot be read.
    """
    annotations, images = location(annotations), location(images)
    file = read_coco(annotations, "instances", drop_unused_twins=drop_unused_twins)
    return CocoInstances(file, images, boxes_only, crowds_as_objects)


def segmentation_text(raw: bytes) -> str | None:
    """Return the `segmentation` of a raw annotation as text: a list of polygons, or run lengths.

    It is that of the file, but that a flat list of numbers becomes a list of one polygon, and that
    polygons of fewer than three points are left out beside others.
    """
    text = bytes(_ANNOTATION.decode(raw).segmentation).strip()
    if _EMPTY.fullmatch(text):
        return None
    return _read_polygons(text)[1] if text.startswith(b"[") else text.decode()


def _has_mask(segmentation: msgspec.Raw) -> bool:
    return not _EMPTY.fullmatch(bytes(segmentation).strip())


@dataclass(frozen=True)
class _Mask:
    region: rle.Region
    polygons: str | None
    """The polygons that were drawn, as JSON text of the source; None for run lengths."""
    warning: str | None


def _mask(raw: msgspec.Raw, width: int, height: int) -> _Mask | None:
    """The mask of a `segmentation`; None if there is none."""
    if not _has_mask(raw):
        return None
    text = bytes(raw).strip()
    polygons: str | None = None
    try:
        if text.startswith(b"["):
            rings, polygons, warning = _read_polygons(text)
            counts = polygon_mask(rings, width, height)
        else:
            counts, warning = _read_run_lengths(text, width, height)
    except msgspec.DecodeError as error:
        raise AnnotationError("malformed-annotation", f"segmentation: {error}") from None
    region = rle.region(counts, height, width)
    if not region.area:
        raise AnnotationError("empty-mask", "the mask covers no pixel")
    return _Mask(region, polygons, warning)


def _read_polygons(text: bytes) -> tuple[Sequence[list[float]], str, str | None]:
    """The polygons to draw, the same as JSON text of the source, and a warning."""
    nested = _nested(text)
    rings = msgspec.json.decode(nested, type=list[list[float]])
    drawn = without_degenerate(rings)
    if len(drawn) == len(rings):
        return rings, nested.decode(), None
    texts = msgspec.json.decode(nested, type=list[msgspec.Raw])
    pairs = zip(texts, rings, strict=True)
    kept = b",".join(bytes(raw) for raw, ring in pairs if len(ring) >= MIN_NUMBERS)
    return drawn, f"[{kept.decode()}]", "degenerate-part"


def _read_run_lengths(text: bytes, width: int, height: int) -> tuple[bytes, str | None]:
    """Compressed counts, and a warning."""
    run_lengths = msgspec.json.decode(text, type=RunLengths)
    if run_lengths.size != (height, width):
        rows, columns = run_lengths.size
        message = f"the mask is {columns} x {rows}, its image {width} x {height}"
        raise AnnotationError("mask-size-mismatch", message)
    try:
        if isinstance(run_lengths.counts, list):
            counts = rle.from_uncompressed(run_lengths.counts, height, width)
        else:
            counts = run_lengths.counts.encode()
        canonical = rle.canonical(counts, height, width)  # raises ValueError on damaged counts
    except (ValueError, OverflowError) as error:
        raise AnnotationError("malformed-annotation", f"segmentation: {error}") from None
    return canonical, None if canonical == counts else "non-canonical-rle"


def _box(
    annotation: Annotation, mask: _Mask | None, width: int, height: int
) -> tuple[Box, str | None]:
    """The source's box, or the mask's tight one if that fits better; and a warning."""
    bbox = annotation.bbox or None  # an empty list is no box
    if bbox is not None:
        # JSON as msgspec reads it has no NaN
        if len(bbox) != 4 or max(map(abs, bbox)) >= _MAX_COORDINATE:
            message = f"bbox {bbox} is not four finite numbers"
            raise AnnotationError("malformed-annotation", message)
        x, y, w, h = bbox
        box = (x, y, w, h)
        # pseudo-masks are clipped to their box with a margin
        limits = with_margin(box) if annotation.mask_from == "pseudo" else box
        if min(w, h) > 0 and (mask is None or reaches(limits, mask.region.box)):
            beyond = coco_fields.beyond_image(box, width, height)
            return box, "box-beyond-image" if beyond else None
    mask = mask or _mask(annotation.segmentation, width, height)
    if mask is None:
        message = f"bbox {bbox} has no extent" if bbox else "no box and no mask"
        raise AnnotationError("degenerate-box", message)
    return mask.region.box, None if bbox is None else "box-mismatch"


def _looks_like_corners(box: Box, width: int, height: int) -> bool:
    """Whether a box reaches far beyond the image, but would be inside as x1, y1, x2, y2."""
    x, y, w, h = box
    reaches_far = x + w > (1 + MARGIN) * width or y + h > (1 + MARGIN) * height
    return reaches_far and 0 <= x < w <= width and 0 <= y < h <= height


def _area(
    area: float | None, mask: _Mask | None, box: Box, mask_from: MaskSource
) -> tuple[float, str | None]:
    """The source's area, or that of the mask or else of the box; and a warning.

    Predicted masks have the area of their pixels.
    """
    region = mask.region if mask else None
    pixels = float(region.area) if region else box[2] * box[3]
    if area is None:
        return pixels, None
    if not is_area(area):
        return pixels, "negative-area"
    agreed = agrees(area, pixels, region.box if region else box)
    is_exact = region is not None and mask_from != "human"
    return pixels if is_exact else area, None if agreed else "area-mismatch"


def _nested(polygons: bytes) -> bytes:
    """The text of a list of polygons; a flat list of numbers is taken for one polygon."""
    return polygons if polygons[1:].lstrip().startswith((b"[", b"]")) else b"[" + polygons + b"]"
