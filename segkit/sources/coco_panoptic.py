"""COCO panoptic: a JSON of segments and a folder of PNGs whose colors are segment ids, checked
against each other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from segkit.errors import InputError
from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.shards.manifest import SetKind
from segkit.sources import coco_fields, coco_json
from segkit.sources.coco_json import CocoSource
from segkit.sources.image_files import Picture, inside
from segkit.sources.label_maps import read_ids
from segkit.sources.ledger import AnnotationError, Defect, ImageError, Tally
from segkit.sources.source import Record

UNLISTED = "(unlisted)"
"""Under which the ledger counts pixels of a PNG that the JSON does not know."""


class _Annotation(msgspec.Struct, frozen=True):
    file_name: str
    segments_info: list[msgspec.Raw]


class _Info(msgspec.Struct, frozen=True):
    id: int
    category_id: Any
    area: float | None = None
    bbox: tuple[float, float, float, float] | None = None
    iscrowd: int | bool | None = None


_ANNOTATION = msgspec.json.Decoder(_Annotation)
_INFO = msgspec.json.Decoder(_Info)
_VOID = 0


@dataclass(frozen=True)
class CocoPanoptic(CocoSource):
    """A COCO panoptic JSON, its PNG folder and its image folder.

    A segment's area and box are counted from the PNG; where the JSON says otherwise that is a
    warning.
    """

    masks: Path
    name: str = "coco-panoptic"
    kind: SetKind = "panoptic"

    def __post_init__(self) -> None:
        if not self.masks.is_dir():
            hint = "give the folder of PNGs with --panoptic-masks"
            raise InputError("no such folder of masks", file=self.masks, hint=hint)
        super().__post_init__()

    def fingerprint(self) -> dict[str, Any]:
        """The JSON's path, size and time, and the folder of masks."""
        return {
            "source": self.name,
            "masks": str(self.masks.resolve()),
            **coco_json.identity(self.file.path),
        }

    def records(self, tally: Tally) -> Iterator[Record]:
        """Images in the file's order, each with the raw record of its annotation."""
        return coco_json.records(self.file, tally, lambda name: (name,), self._classes)

    def load(self, record: Record) -> tuple[_Annotation, Sequence[str]]:
        """The annotation of a record, and the class of each of its segments."""
        found: list[tuple[bytes, bool]] = record.data[1]
        where = f"image {record.id}"
        if len(found) != 1:
            code, what = (
                ("duplicate-id", f"{len(found)} annotations")
                if found
                else ("missing-mask", "no annotation")
            )
            raise ImageError(code, f"{what} for the image", file=self.file.path, record=where)
        try:
            annotation = _ANNOTATION.decode(found[0][0])
        except msgspec.DecodeError as error:
            data = coco_fields.loose(found[0][0])
            raise ImageError(
                "malformed-annotation", str(error), file=self.file.path, record=where, data=data
            ) from None
        return annotation, [
            coco_fields.class_name(info, self.labels) for info in annotation.segments_info
        ]

    def sample(
        self, record: Record, content: _Annotation, picture: Picture | None, tally: Tally
    ) -> Sample:
        """Every segment with exactly its pixels of the PNG; pixels of dropped segments are void."""
        width, height = coco_fields.size_of(
            coco_fields.IMAGE.decode(record.data[0]), picture, self.file.path
        )
        path = inside(self.masks, content.file_name, record=f"image {record.id}")
        ids = read_ids(path, (width, height), record=f"image {record.id}")
        regions = rle.regions(ids)
        segments: dict[int, Segment] = {}
        for raw in content.segments_info:
            name = coco_fields.class_name(raw, self.labels)
            try:
                made = self._segment(raw, name, regions, segments, tally)
                segments[int(str(made.source_id))] = made
            except AnnotationError as refusal:
                tally.drop(
                    coco_fields.defect(refusal, raw, self.file.path, "segment", record.id, name)
                )
        lost = regions.keys() - segments.keys() - {_VOID}
        self._unlisted(
            lost - {_id(raw) for raw in content.segments_info}, regions, path, record, tally
        )
        void = rle.encode(np.isin(ids, [_VOID, *lost])) if lost else _counts(regions.get(_VOID))
        source = record.data[0].decode()
        return Sample(
            record.id,
            record.file_name,
            width,
            height,
            tuple(segments.values()),
            void=void,
            source=source,
        )

    def _classes(self, raw: bytes) -> list[str]:
        try:
            infos = _ANNOTATION.decode(raw).segments_info
        except msgspec.DecodeError:
            return []
        return [coco_fields.class_name(info, self.labels) for info in infos]

    def _segment(
        self,
        raw: msgspec.Raw,
        name: str,
        regions: dict[int, rle.Region],
        made: dict[int, Segment],
        tally: Tally,
    ) -> Segment:
        try:
            info = _INFO.decode(raw)
        except msgspec.DecodeError as error:
            raise AnnotationError("malformed-annotation", str(error)) from None
        category = coco_fields.category(info.category_id, self.taxonomy)
        if info.id in made:
            raise AnnotationError("duplicate-id", "another segment of the image has the same id")
        region = regions.get(info.id)
        if region is None or info.id == _VOID:
            raise AnnotationError(
                "empty-mask",
                "the PNG has no pixel of this id" if info.id else "id 0 is void in the PNG",
            )
        if info.area is not None and info.area != region.area:
            tally.warn("area-mismatch", name)
        if info.bbox is not None and info.bbox != region.box:
            tally.warn("box-mismatch", name)
        return Segment(
            class_id=category.id,
            kind=category.kind,
            box=region.box,
            mask=region.counts,
            area=float(region.area),
            is_crowd=bool(info.iscrowd),
            mask_from="human",
            source_id=str(info.id),
        )

    def _unlisted(
        self,
        ids: set[int],
        regions: dict[int, rle.Region],
        path: Path,
        record: Record,
        tally: Tally,
    ) -> None:
        for number in sorted(ids):
            what = f"{regions[number].area} pixels of id {number} that the JSON does not list"
            defect = Defect(
                "unlisted-segment", what, str(path), f"image {record.id}", UNLISTED, {"id": number}
            )
            tally.orphan(defect, [UNLISTED])


def open_coco_panoptic(annotations: Path, images: Path, masks: Path | None = None) -> CocoPanoptic:
    """The source of a COCO panoptic JSON; its PNGs lie beside it under the same stem unless `masks`
    says otherwise."""
    return CocoPanoptic(
        coco_json.read_coco(annotations, "panoptic"), images, masks or annotations.with_suffix("")
    )


def _counts(region: rle.Region | None) -> bytes | None:
    return region.counts if region else None


def _id(raw: msgspec.Raw) -> int | None:
    try:
        return _INFO.decode(raw).id
    except msgspec.DecodeError:
        return None
