"""Joins COCO panoptic and COCO instances of the same images: panoptic segments with instance data.

The result is a panoptic set. Its masks are those of the PNGs, one disjoint cover of the image, so
panoptic evaluation gives the same figures as without the instances. A segment that shows the same
object as an instance takes over that annotation's id, its crowd flag and, verbatim, its
`segmentation`, which may reach under other segments.

An instance and a segment match if they are of one class and

1. have the same id and share pixels (ids of a PNG are colors, so equal numbers may be chance), or
2. at least half of the segment is inside the instance: the segment is its visible part.

Pairs by id come first, then those with the highest IoU. Each side is matched at most once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from segkit.errors import InputError
from segkit.masks.iou import coco_iou
from segkit.parse import parse_loosely
from segkit.sample import Sample, Segment
from segkit.sources import coco_fields
from segkit.sources.coco_instances import CocoInstances, segmentation_text
from segkit.sources.coco_json import CocoFile, FlaggedAnnotations, read_coco
from segkit.sources.coco_panoptic import CocoPanoptic
from segkit.sources.external_sort import ExternalSort
from segkit.sources.image_files import Picture
from segkit.sources.ledger import AnnotationError, Defect, Tally
from segkit.sources.source import Record, RecordContent
from segkit.storage import StrPath, location

UNMATCHED = "no-panoptic-segment"
_PART = "degenerate-part"
_MIN_VISIBLE = 0.5
"""Share of a segment that must be inside its instance."""


@dataclass(frozen=True)
class _Content:
    panoptic: Any
    instances: FlaggedAnnotations | None
    """None where the instances file does not list the image."""


@dataclass(frozen=True)
class _Instance:
    segment: Segment
    class_name: str
    raw: bytes
    warned: Tally


@dataclass(frozen=True, kw_only=True)
class CocoJoined(CocoPanoptic):
    """A COCO panoptic set whose segments take ids, polygons and crowd flags from instances."""

    instances: CocoFile

    def __post_init__(self) -> None:
        super().__post_init__()
        for native in self.instances.categories:
            category = self.taxonomy.by_id.get(native.id)
            if category is None or native.name.strip() in (category.name, category.source_name):
                continue
            panoptic_name = category.source_name or category.name
            raise InputError(
                f"is {native.name!r}, but {panoptic_name!r} in {self.file.path}",
                file=self.instances.path,
                record=f"category {native.id}",
                hint="give two files with one list of classes",
            )

    def fingerprint(self) -> dict[str, Any]:
        """Return the fingerprint of the panoptic source, and the path of the instances file."""
        return {**super().fingerprint(), "instances": str(self.instances.path.resolve())}

    def records(self, tally: Tally) -> Iterator[Record]:
        """Yield images of the panoptic file in its order, with their raw annotations of both files.

        An image that only the instances file lists is dropped as `missing-mask`.
        """
        contents = self.file.contents
        assert contents is not None  # workers receive records
        places = {
            str(coco_fields.IMAGE.decode(raw).id): place
            for place, (raw, _) in enumerate(contents.by_image)
        }
        listed: set[int] = set()
        by_image = ExternalSort()
        for _ in places:
            by_image.add_image(b"")
        for record in self.instances.records(tally, self.candidates, self._instance_class):
            place = places.get(record.id)
            if place is None:
                self._drop_image(record, tally)
                continue
            listed.add(place)
            for raw, repeated in record.data[1]:
                by_image.add_annotation(place, bytes([repeated]) + raw)
        records = zip(super().records(tally), by_image, strict=True)
        for place, (record, (_, entries)) in enumerate(records):
            flagged = [(entry[1:], bool(entry[0])) for entry in entries]
            instances = flagged if place in listed else None
            yield replace(record, data=(*record.data, instances))

    def load(self, record: Record) -> RecordContent:
        """Return the annotations of both files, and the class name of each."""
        panoptic = super().load(record)
        instances: FlaggedAnnotations | None = record.data[2]
        instance_names = (name for raw, _ in instances or () for name in self._instance_class(raw))
        content = _Content(panoptic.content, instances)
        return RecordContent(content, [*panoptic.class_names, *instance_names])

    def sample(self, record: Record, content: Any, picture: Picture | None, tally: Tally) -> Sample:
        """Build the panoptic sample, with the data of matched instances in its segments."""
        sample = super().sample(record, content.panoptic, picture, tally)
        if content.instances is None:
            tally.image_warnings["not-in-instances"] += 1
            return sample
        instances = list(self._usable_instances(content.instances, sample, tally))
        matches = match(sample.segments, [instance.segment for instance in instances], sample)
        segments = list(sample.segments)
        for index, instance in enumerate(instances):
            place = matches.get(index)
            if place is None:
                error = AnnotationError(UNMATCHED, "no panoptic segment of its class shows it")
                self._drop_instance(error, instance.raw, sample, instance.class_name, tally)
            else:
                segments[place] = self._join(segments[place], instance, tally)
        for place in set(range(len(segments))) - set(matches.values()):
            if segments[place].kind == "thing":
                tally.warn("no-instance", self.labels[segments[place].class_id])
        return replace(sample, segments=tuple(segments))

    def _usable_instances(
        self, annotations: FlaggedAnnotations, sample: Sample, tally: Tally
    ) -> Iterator[_Instance]:
        """Yield the instances of an image that can be used; drop the rest."""
        for raw, repeated in annotations:
            class_name = coco_fields.class_name(raw, self.labels)
            try:
                if repeated:
                    raise AnnotationError("duplicate-id", "another annotation has the same id")
                # its boxes and areas are not kept, so that only warnings of the polygons matter
                warned = Tally()
                segment = self._instance_reader.segment(
                    raw, sample.width, sample.height, class_name, warned
                )
                if segment.class_id not in self.taxonomy.by_id:
                    message = f"category {segment.class_id} is not in the panoptic file's list"
                    raise AnnotationError("unknown-category", message)
            except AnnotationError as error:
                self._drop_instance(error, raw, sample, class_name, tally)
            else:
                yield _Instance(segment, class_name, raw, warned)

    def _join(self, segment: Segment, instance: _Instance, tally: Tally) -> Segment:
        tally.join(instance.class_name)
        if instance.segment.is_crowd != segment.is_crowd:
            tally.warn("crowd-differs", instance.class_name)
        if instance.warned.warnings[instance.class_name, _PART]:
            tally.warn(_PART, instance.class_name)
        return replace(
            segment,
            is_crowd=instance.segment.is_crowd,
            source_id=instance.segment.source_id or segment.source_id,
            source_polygon=segmentation_text(instance.raw),
        )

    def _drop_instance(
        self, error: AnnotationError, raw: bytes, sample: Sample, class_name: str, tally: Tally
    ) -> None:
        reader = self._instance_reader
        tally.drop(reader.annotation_defect(error, raw, sample.id, class_name))

    def _drop_image(self, record: Record, tally: Tally) -> None:
        """Count an image that only the instances file lists as read and lost."""
        annotations: FlaggedAnnotations = record.data[1]
        names = [name for raw, _ in annotations for name in self._instance_class(raw)]
        tally.images_in += 1
        tally.annotations_in.update(names)
        message = f"{self.file.path} does not list this image"
        data = [parse_loosely(raw) for raw, _ in annotations]
        file = str(self.instances.path)
        defect = Defect("missing-mask", message, file, f"image {record.id}", None, data)
        tally.drop_image(defect, names)

    def _instance_class(self, raw: bytes) -> list[str]:
        return [coco_fields.class_name(raw, self.labels)]

    @cached_property
    def _instance_reader(self) -> CocoInstances:
        return CocoInstances(self.instances, self.images)


def open_coco_joined(
    panoptic: StrPath, instances: StrPath, images: StrPath, masks: StrPath | None = None
) -> CocoJoined:
    """Open a panoptic JSON and an instances JSON as one source.

    Args:
        panoptic: the panoptic JSON.
        instances: the instances JSON.
        images: folder of the images.
        masks: folder of the PNGs; by default beside the panoptic JSON, under the same stem.

    Raises:
        InputError: one of the files cannot be read, or they give one category id two names.
    """
    panoptic, instances, images = location(panoptic), location(instances), location(images)
    masks = None if masks is None else location(masks)
    return CocoJoined(
        read_coco(panoptic, "panoptic"),
        images,
        masks or panoptic.with_suffix(""),
        instances=read_coco(instances, "instances"),
    )


def match(
    segments: Sequence[Segment], instances: Sequence[Segment], sample: Sample
) -> dict[int, int]:
    """Match instances to panoptic segments by the rules at the head of this file.

    Returns:
        Index of an instance -> index of its segment.
    """
    masked = [index for index, instance in enumerate(instances) if instance.mask is not None]
    if not masked or not segments:
        return {}
    size = [sample.height, sample.width]
    rows = [instances[index] for index in masked]
    row_masks = [{"size": size, "counts": row.mask} for row in rows]
    column_masks = [{"size": size, "counts": segment.mask} for segment in segments]
    iou = coco_iou(row_masks, column_masks, [0] * len(segments))  # (I, S)
    inside = coco_iou(column_masks, row_masks, [1] * len(rows)).T  # share of segments
    same_class = _equal([row.class_id for row in rows], [s.class_id for s in segments])
    same_id = _equal([row.source_id or "" for row in rows], [s.source_id or "" for s in segments])
    by_id = same_id & (iou > 0) & same_class
    by_overlap = same_class & (inside >= _MIN_VISIBLE)
    rank = np.where(by_id, 1.0 + iou, np.where(by_overlap, iou, 0.0))
    matches: dict[int, int] = {}
    matched_columns: set[int] = set()
    for pair in np.argsort(-rank, axis=None, kind="stable").tolist():
        number, column = divmod(pair, len(segments))
        if rank[number, column] <= 0:
            break
        if masked[number] not in matches and column not in matched_columns:
            matches[masked[number]] = column
            matched_columns.add(column)
    return matches


def _equal(rows: Sequence[Any], columns: Sequence[Any]) -> Any:
    """(R, C) whether the values of a row and a column are equal."""
    return np.array(rows)[:, None] == np.array(columns)[None, :]
