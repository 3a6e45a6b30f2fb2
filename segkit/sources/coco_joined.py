"""COCO panoptic and COCO instances of the same images, joined: panoptic segments that know their
instances.

The result is a panoptic set: its masks are those of the PNGs, one disjoint cover of the image, so
panoptic evaluation is the same as without the instances. A segment whose object the instances file
has as well takes over that annotation's id, its crowd flag and, verbatim, its `segmentation` (which
may reach under other segments).

An instance and a segment are partners where they are of one class and
1. have the same id and share pixels (ids of a PNG are colors: equal numbers alone may be chance),
or else 2. half of the segment lies within the instance: the segment is what is visible of it. Of
several such pairs that with
   the highest IoU comes first, and each side has one partner.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from segkit.errors import InputError
from segkit.masks.iou import coco_iou
from segkit.sample import Sample, Segment
from segkit.sources import coco_fields, coco_json
from segkit.sources.coco_instances import CocoInstances, segmentation_text
from segkit.sources.coco_json import CocoFile
from segkit.sources.coco_panoptic import CocoPanoptic
from segkit.sources.external_sort import ExternalSort
from segkit.sources.image_files import Picture
from segkit.sources.ledger import AnnotationError, Defect, Tally
from segkit.sources.source import Record

NO_PARTNER = "no-panoptic-segment"
_VISIBLE = 0.5
"""Share of a segment that must lie within its instance."""
_Flagged = list[tuple[bytes, bool]]


@dataclass(frozen=True)
class _Content:
    panoptic: Any
    instances: _Flagged | None
    """Raw annotations, each with whether its id repeats; None where the instances file does not
    list the image."""


@dataclass(frozen=True)
class _Instance:
    segment: Segment
    name: str
    raw: bytes


@dataclass(frozen=True, kw_only=True)
class CocoJoined(CocoPanoptic):
    """A COCO panoptic set whose segments take ids, polygons and crowd flags from an instances
    file."""

    instances: CocoFile

    def __post_init__(self) -> None:
        super().__post_init__()
        for native in self.instances.categories:
            own = self.taxonomy.by_id.get(native.id)
            if own is not None and native.name.strip() not in (own.name, own.source_name):
                what = (
                    f"is {native.name!r}, but {own.source_name or own.name!r} in {self.file.path}"
                )
                hint = "give two files with one list of classes"
                raise InputError(
                    what, file=self.instances.path, record=f"category {native.id}", hint=hint
                )

    def fingerprint(self) -> dict[str, Any]:
        """As the panoptic source's, and the instances file's path, size and time."""
        return {**super().fingerprint(), "instances": coco_json.identity(self.instances.path)}

    def records(self, tally: Tally) -> Iterator[Record]:
        """Images of the panoptic file in its order, each with its raw annotations of both files.

        An image of the instances file alone has no panoptic label: it is dropped as `missing-mask`.
        """
        contents = self.file.contents
        assert contents is not None  # workers are sent records
        places = {
            str(coco_fields.IMAGE.decode(raw).id): place
            for place, (raw, _) in enumerate(contents.spool)
        }
        listed: set[int] = set()
        spool = ExternalSort()
        for _ in places:
            spool.add_image(b"")
        for record in coco_json.records(self.instances, tally, lambda name: (name,), self._class):
            place = places.get(record.id)
            if place is None:
                self._lose(record, tally)
                continue
            listed.add(place)
            for raw, repeated in record.data[1]:
                spool.add_annotation(place, bytes([repeated]) + raw)
        for place, (record, (_, found)) in enumerate(
            zip(super().records(tally), spool, strict=True)
        ):
            instances = (
                [(entry[1:], bool(entry[0])) for entry in found] if place in listed else None
            )
            yield replace(record, data=(*record.data, instances))

    def load(self, record: Record) -> tuple[Any, Sequence[str]]:
        """The annotations of both files, and the class of each."""
        panoptic, names = super().load(record)
        found: _Flagged | None = record.data[2]
        content = _Content(panoptic, found)
        return content, [*names, *(name for raw, _ in found or () for name in self._class(raw))]

    def sample(self, record: Record, content: Any, picture: Picture | None, tally: Tally) -> Sample:
        """The panoptic sample, its segments with what their instances know."""
        sample = super().sample(record, content.panoptic, picture, tally)
        if content.instances is None:
            tally.image_warnings["not-in-instances"] += 1
            return sample
        instances = list(self._instances(content.instances, sample, tally))
        partners = match(sample.segments, [instance.segment for instance in instances], sample)
        segments = list(sample.segments)
        for index, instance in enumerate(instances):
            place = partners.get(index)
            if place is None:
                what = "no panoptic segment of its class shows it"
                tally.drop(
                    self._reader.defect(
                        AnnotationError(NO_PARTNER, what), instance.raw, sample.id, instance.name
                    )
                )
            else:
                segments[place] = self._joined(segments[place], instance, tally)
        for place in set(range(len(segments))) - set(partners.values()):
            if segments[place].kind == "thing":
                tally.warn("no-instance", self.labels[segments[place].class_id])
        return replace(sample, segments=tuple(segments))

    def _instances(self, found: _Flagged, sample: Sample, tally: Tally) -> Iterator[_Instance]:
        """The instances of an image that can be used; the others go to `tally`."""
        for raw, repeated in found:
            name = coco_fields.class_name(raw, self.labels)
            try:
                if repeated:
                    raise AnnotationError("duplicate-id", "another annotation has the same id")
                segment = self._reader.segment(raw, sample.width, sample.height, name, Tally())
                if segment.class_id not in self.taxonomy.by_id:
                    raise AnnotationError(
                        "unknown-category",
                        f"category {segment.class_id} is not in the panoptic file's list",
                    )
            except AnnotationError as refusal:
                tally.drop(self._reader.defect(refusal, raw, sample.id, name))
            else:
                yield _Instance(segment, name, raw)

    def _joined(self, segment: Segment, instance: _Instance, tally: Tally) -> Segment:
        tally.join(instance.name)
        own = instance.segment
        if own.is_crowd != segment.is_crowd:
            tally.warn("crowd-differs", instance.name)
        text = segmentation_text(instance.raw)
        return replace(
            segment,
            is_crowd=own.is_crowd,
            source_id=own.source_id or segment.source_id,
            source_polygon=text,
        )

    def _lose(self, record: Record, tally: Tally) -> None:
        names = [name for raw, _ in record.data[1] for name in self._class(raw)]
        tally.images_in += 1
        tally.seen.update(names)
        what, where = f"{self.file.path} does not list this image", f"image {record.id}"
        data = [coco_fields.loose(raw) for raw, _ in record.data[1]]
        tally.drop_image(
            Defect("missing-mask", what, str(self.instances.path), where, None, data), names
        )

    def _class(self, raw: bytes) -> list[str]:
        return [coco_fields.class_name(raw, self.labels)]

    @cached_property
    def _reader(self) -> CocoInstances:
        return CocoInstances(self.instances, self.images)


def open_coco_joined(
    panoptic: Path, instances: Path, images: Path, masks: Path | None = None
) -> CocoJoined:
    """The source of a panoptic JSON and an instances JSON; PNGs as for `open_coco_panoptic`.

    Raises:
        InputError: one of the files cannot be read, or they give one category id two names.
    """
    return CocoJoined(
        coco_json.read_coco(panoptic, "panoptic"),
        images,
        masks or panoptic.with_suffix(""),
        instances=coco_json.read_coco(instances, "instances"),
    )


def match(
    segments: Sequence[Segment], instances: Sequence[Segment], sample: Sample
) -> dict[int, int]:
    """Place of the partner among the segments, by the place of the instance; see the head of this
    file."""
    masked = [index for index, instance in enumerate(instances) if instance.mask is not None]
    if not masked or not segments:
        return {}
    size = [sample.height, sample.width]
    theirs = [{"size": size, "counts": instances[index].mask} for index in masked]
    ours = [{"size": size, "counts": segment.mask} for segment in segments]
    iou = coco_iou(theirs, ours, [0] * len(ours))
    inside = coco_iou(ours, theirs, [1] * len(theirs)).T  # share of the segment in the instance
    kinds = [
        np.array([item.class_id for item in side])
        for side in ([instances[i] for i in masked], segments)
    ]
    same_class = kinds[0][:, None] == kinds[1][None, :]
    ids = [
        np.array([item.source_id or "" for item in side])
        for side in ([instances[i] for i in masked], segments)
    ]
    same_id = (ids[0][:, None] == ids[1][None, :]) & (iou > 0) & same_class
    rank = np.where(same_id, 1.0 + iou, np.where(same_class & (inside >= _VISIBLE), iou, 0.0))
    partners: dict[int, int] = {}
    taken: set[int] = set()
    for flat in np.argsort(-rank, axis=None, kind="stable").tolist():
        row, column = divmod(flat, len(segments))
        if rank[row, column] <= 0:
            break
        if masked[row] not in partners and column not in taken:
            partners[masked[row]] = column
            taken.add(column)
    return partners
