"""Turn segments into FiftyOne's labels: a class map per image, a detection per thing or box."""

from collections import defaultdict
from collections.abc import Sequence
from math import ceil, floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.browse.connect import fiftyone
from segkit.browse.media import class_map_file, media_root
from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.shards.manifest import SetKind
from segkit.shards.reader import ShardSet

MAPS: frozenset[SetKind] = frozenset({"panoptic", "semantic"})
"""Kinds of sets whose labels become class maps."""
DETECTIONS: frozenset[SetKind] = frozenset({"panoptic", "instance", "boxes"})
"""Kinds of sets whose things become detections."""
_Identity = tuple[str, str, str | None, tuple[float, ...]]
"""Image, class, id in the source and box of a label."""


def labels_of(shards: ShardSet, sample: Sample, prefix: str) -> dict[str, Any]:
    """Convert a sample's labels to FiftyOne fields.

    Args:
        shards: the sample's set.
        sample: the labels of one image.
        prefix: `ground_truth` or `predictions`.

    Returns:
        `<prefix>_classes` (fo.Segmentation), `<prefix>_things` (fo.Detections), or both: the set's
        kind decides.
    """
    fo = fiftyone()
    fields: dict[str, Any] = {}
    if shards.manifest.kind in MAPS:
        sources = sorted({segment.mask_from for segment in sample.segments if segment.mask_from})
        file = class_map_file(shards, sample, media_root())
        fields[f"{prefix}_classes"] = fo.Segmentation(mask_path=str(file), mask_from=sources)
    if shards.manifest.kind in DETECTIONS:
        names = shards.taxonomy.unique_names
        detections = [
            _detection(fo, segment, names[segment.class_id], sample, position)
            for position, segment in enumerate(sample.segments)
            if segment.kind == "thing" or shards.manifest.kind != "panoptic"
        ]
        fields[f"{prefix}_things"] = fo.Detections(detections=detections)
    return fields


def mask_targets(shards: ShardSet) -> dict[int, str]:
    """Name each value of the set's class maps."""
    names = shards.taxonomy.unique_names
    return {
        index + 1: names[category.id] for index, category in enumerate(shards.taxonomy.categories)
    }


def crop(
    segment: Segment, height: int, width: int
) -> tuple[tuple[float, float, float, float], NDArray[np.bool_] | None]:
    """Return the box to draw (x, y, width, height in pixels) and the mask inside it.

    With a mask, the box has integer sides and contains both the mask and the part of the source's
    box that is inside the image, so that FiftyOne draws the mask pixel by pixel. Without a mask, it
    is the source's box.
    """
    x, y, w, h = segment.box
    if segment.mask is None:
        return segment.box, None
    left, top, right, bottom = rle.box(segment.mask, height, width)
    right, bottom = left + right, top + bottom
    if w > 0 and h > 0:
        left, top = min(left, max(floor(x), 0)), min(top, max(floor(y), 0))
        right, bottom = max(right, min(ceil(x + w), width)), max(bottom, min(ceil(y + h), height))
    if right <= left or bottom <= top:
        return segment.box, None
    inside = rle.decode(segment.mask, height, width)[int(top) : int(bottom), int(left) : int(right)]
    return (left, top, right - left, bottom - top), np.ascontiguousarray(inside)


def keep_label_tags(earlier: Any, new: Any) -> None:
    """Copy the tags of labels of an earlier load to the same labels of a new one.

    A label is the same if class, box and id in the source are. Of duplicates, each gets the tags of
    its counterpart in their order; where their number changed, it is open which ones are left, so
    they get only the tags that all of them had.

    Args:
        earlier: the dataset of the earlier load.
        new: the dataset of the new load.
    """
    for path in new.get_field_schema(embedded_doc_type=fiftyone().Detections):
        if not earlier.has_sample_field(path) or not earlier.count_label_tags(label_fields=path):
            continue
        tagged = dict[_Identity, list[list[str]]]()
        for sample in earlier.select_fields(["image_id", path]):
            for identity, labels in _duplicates(sample, path).items():
                tags = [label.tags for label in labels]
                if any(tags):
                    tagged[identity] = tags
        for sample in new.iter_samples(autosave=True):
            for identity, labels in _duplicates(sample, path).items():
                tags = _tags_of(len(labels), tagged.get(identity, []))
                for label, names in zip(labels, tags, strict=True):
                    label.tags = names


def _duplicates(sample: Any, path: str) -> dict[_Identity, list[Any]]:
    """The labels of an image by what identifies them, duplicates in their order."""
    labels = defaultdict[_Identity, list[Any]](list)
    for label in sample[path].detections if sample[path] else ():
        identity = sample.image_id, label.label, label.source_id, tuple(label.source_box)
        labels[identity].append(label)
    return labels


def _tags_of(count: int, earlier: Sequence[Sequence[str]]) -> list[list[str]]:
    """The tags of `count` duplicates, from those of their earlier load."""
    if count == len(earlier):
        return [list(tags) for tags in earlier]
    first, *rest = earlier or [[]]
    common = [tag for tag in first if all(tag in tags for tags in rest)]
    return [list(common) for _ in range(count)]


def _detection(fo: Any, segment: Segment, name: str, sample: Sample, position: int) -> Any:
    (x, y, w, h), mask = crop(segment, sample.height, sample.width)
    return fo.Detection(
        label=name,
        bounding_box=[x / sample.width, y / sample.height, w / sample.width, h / sample.height],
        mask=mask,
        confidence=segment.score,
        segment=position,
        kind=segment.kind,
        mask_from=segment.mask_from,
        is_crowd=segment.is_crowd,
        ignore=segment.ignore,
        area=segment.area,
        source_id=segment.source_id,
        source_box=list(segment.box),
    )
