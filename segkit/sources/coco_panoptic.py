"""Converts COCO panoptic: a JSON of segments, and PNGs whose colors are segment ids.

The two are checked against each other.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np

from segkit.errors import InputError, plural
from segkit.file_names import relative_name
from segkit.masks import rle
from segkit.parse import parse_loosely
from segkit.sample import Sample, Segment
from segkit.shards.manifest import SetKind
from segkit.sources import coco_fields
from segkit.sources.coco_json import CocoSource, FlaggedAnnotations, read_coco
from segkit.sources.image_files import Picture, resolve_inside
from segkit.sources.label_maps import read_ids
from segkit.sources.ledger import AnnotationError, Defect, ImageError, Tally
from segkit.sources.source import Record, RecordContent
from segkit.storage import StrPath, location

UNLISTED = "(unlisted)"
"""Class under which the ledger counts regions of a PNG that the JSON does not list."""
_VOID = 0


class _Annotation(msgspec.Struct, frozen=True):
    file_name: str
    segments_info: list[msgspec.Raw]


class _Numbered(msgspec.Struct, frozen=True):
    id: int


class _SegmentInfo(msgspec.Struct, frozen=True):
    id: int
    category_id: Any
    area: float | None = None
    bbox: list[float] | None = None
    iscrowd: int | bool | None = None
    score: Any = None
    mask_from: Any = None


_ANNOTATION = msgspec.json.Decoder(_Annotation)
_NUMBERED = msgspec.json.Decoder(_Numbered)
_SEGMENT_INFO = msgspec.json.Decoder(_SegmentInfo)


@dataclass(frozen=True)
class CocoPanoptic(CocoSource):
    """A COCO panoptic JSON, its PNG folder and its image folder.

    Areas and boxes of segments are counted in the PNG; a different one in the JSON is a warning.
    """

    masks: Path
    crowds_as_objects: bool = False
    """Take every segment of a thing for one object, whatever its `iscrowd`."""
    name: ClassVar[str] = "coco-panoptic"
    kind: ClassVar[SetKind] = "panoptic"

    def __post_init__(self) -> None:
        if not self.masks.is_dir():
            hint = "give it by `segkit convert coco --panoptic-masks FOLDER`"
            raise InputError("no such folder of masks", file=self.masks, hint=hint)
        super().__post_init__()

    def fingerprint(self) -> dict[str, Any]:
        """Return the JSON's path, the folder of masks, and the options."""
        options = {"crowds_as_objects": self.crowds_as_objects}
        return {**super().fingerprint(), "masks": str(self.masks.resolve()), **options}

    def class_names(self, raw: bytes) -> list[str]:
        """Return the class name of each segment of a raw annotation."""
        try:
            infos = _ANNOTATION.decode(raw).segments_info
        except msgspec.DecodeError:
            return []
        return [coco_fields.class_name(info, self.labels) for info in infos]

    def load(self, record: Record) -> RecordContent:
        """Return the annotation of a record, and the class name of each of its segments."""
        annotations: FlaggedAnnotations = record.data[1]
        file, name = self.file.path, f"image {record.id}"
        if not annotations:
            message = "no annotation for the image"
            raise ImageError("missing-mask", message, file=file, record=name)
        if len(annotations) > 1:
            message = f"{len(annotations)} annotations for the image"
            raise ImageError("duplicate-id", message, file=file, record=name)
        raw, _ = annotations[0]
        try:
            annotation = _ANNOTATION.decode(raw)
        except msgspec.DecodeError as error:
            data, message = parse_loosely(raw), coco_fields.decode_message(error, raw)
            raise ImageError(
                "malformed-annotation", message, file=file, record=name, data=data
            ) from None
        infos = annotation.segments_info
        names = [coco_fields.class_name(info, self.labels) for info in infos]
        return RecordContent(annotation, names)

    def sample(
        self, record: Record, content: _Annotation, picture: Picture | None, tally: Tally
    ) -> Sample:
        """Build the sample: each segment has its exact pixels of the PNG.

        Pixels of dropped segments become void.
        """
        name = f"image {record.id}"
        image = coco_fields.IMAGE.decode(record.data[0])
        width, height = coco_fields.image_size(image, picture, self.file.path)
        path = resolve_inside(self.masks, relative_name(self.masks, content.file_name), record=name)
        ids = read_ids(path, (width, height), record=name)  # (H, W)
        regions = rle.regions(ids)
        segments: dict[int, Segment] = {}
        for raw in content.segments_info:
            class_name = coco_fields.class_name(raw, self.labels)
            try:
                segment = self._segment(raw, class_name, regions, segments, tally)
                segments[int(str(segment.source_id))] = segment
            except AnnotationError as error:
                tally.drop(
                    coco_fields.annotation_defect(
                        error, raw, self.file.path, "segment", record.id, class_name
                    )
                )
        lost = regions.keys() - segments.keys() - {_VOID}
        unlisted = lost - {_segment_id(raw) for raw in content.segments_info}
        for number in sorted(unlisted):
            area = regions[number].area
            message = f"{plural(area, 'pixel')} of id {number}, which the JSON does not list"
            data = {"id": number}
            defect = Defect("unlisted-segment", message, str(path), name, UNLISTED, data)
            tally.drop_orphan(defect, [UNLISTED])
        void = rle.encode(np.isin(ids, [_VOID, *lost])) if lost else _counts(regions.get(_VOID))
        return Sample(
            record.id,
            record.file_name,
            width,
            height,
            tuple(segments.values()),
            void=void,
            source=record.data[0].decode(),
        )

    def _segment(
        self,
        raw: msgspec.Raw,
        class_name: str,
        regions: dict[int, rle.Region],
        segments: dict[int, Segment],
        tally: Tally,
    ) -> Segment:
        """Build the segment of a raw `segments_info` entry; `segments` are those before it."""
        try:
            info = _SEGMENT_INFO.decode(raw)
        except msgspec.DecodeError as error:
            raise AnnotationError("malformed-annotation", str(error)) from None
        category = coco_fields.category(info.category_id, self.taxonomy)
        if info.id in segments:
            raise AnnotationError("duplicate-id", "another segment of the image has the same id")
        region = regions.get(info.id)
        if region is None or info.id == _VOID:
            message = "the PNG has no pixel of this id" if info.id else "id 0 is void in the PNG"
            raise AnnotationError("empty-mask", message)
        if info.area is not None and info.area != region.area:
            tally.warn("area-mismatch", class_name)
        if info.bbox and tuple(info.bbox) != region.box:
            tally.warn("box-mismatch", class_name)
        score, score_warning = coco_fields.score(info.score)
        if score_warning is not None:
            tally.warn(score_warning, class_name)
        return Segment(
            class_id=category.id,
            kind=category.kind,
            box=region.box,
            mask=region.counts,
            area=float(region.area),
            is_crowd=bool(info.iscrowd) and not self.crowds_as_objects,
            mask_from=coco_fields.mask_source(info.mask_from),
            score=score,
            source_id=str(info.id),
        )


def open_coco_panoptic(
    annotations: StrPath,
    images: StrPath,
    masks: StrPath | None = None,
    *,
    crowds_as_objects: bool = False,
    drop_unused_twins: bool = False,
) -> CocoPanoptic:
    """Open a COCO panoptic JSON as a source.

    Args:
        annotations: the JSON file.
        images: folder of the images.
        masks: folder of the PNGs; by default beside the JSON, under the same stem.
        crowds_as_objects: take every segment for one object, whatever its `iscrowd`.
        drop_unused_twins: drop classes without segments that have the name of another class.

    Raises:
        InputError: the file cannot be read, or the folder of PNGs does not exist.
    """
    annotations, images = location(annotations), location(images)
    masks = None if masks is None else location(masks)
    masks = masks or annotations.with_suffix("")
    file = read_coco(annotations, "panoptic", drop_unused_twins=drop_unused_twins)
    return CocoPanoptic(file, images, masks, crowds_as_objects)


def _counts(region: rle.Region | None) -> bytes | None:
    return region.counts if region else None


def _segment_id(raw: msgspec.Raw) -> int | None:
    """The id of a raw segment, whatever its further fields hold."""
    try:
        return _NUMBERED.decode(raw).id
    except msgspec.DecodeError:
        return None
