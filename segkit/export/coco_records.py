"""Image records and annotation ids of a COCO export.

Ids are those of the source where they are distinct in the set: sets that were merged repeat them.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from segkit.export.image_names import ImageNames
from segkit.file_names import is_unsafe
from segkit.sample import Sample, Segment
from segkit.shards.coco_image_ids import Id, coco_image_ids, identifier, integer, source_record
from segkit.shards.label_columns import read_images, read_segments
from segkit.shards.reader import ShardSet

_ANNOTATED = ("neg_category_ids", "not_exhaustive_category_ids")
"""LVIS: classes that were annotated and do not occur; classes with unlabeled instances."""


class ImageRecords:
    """The image records of a set, with the ids of `coco_image_ids`.

    `renumbered` is the number of images with another id than in the set.

    Args:
        data: the set.
        names: of the image files, which become the `file_name` of renamed images.
        annotated: write LVIS's lists of annotated classes for the samples that have such.
        min_score: lowest score of the segments that are written.
    """

    def __init__(
        self, data: ShardSet, names: ImageNames, *, annotated: bool, min_score: float = 0.0
    ) -> None:
        self._min_score = min_score
        self._data, self._names, self._annotated = data, names, annotated
        self._class_ids = sorted(data.taxonomy.by_id)
        self._ids, self.renumbered = coco_image_ids(data)

    def id(self, index: int) -> Id:
        """The id of the image at an index of the set."""
        return self._ids[index]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The records in the order of the set."""
        class_ids: Iterable[list[int]] = repeat([], len(self._data))
        if self._annotated:
            class_ids = self._written_classes()
        for index, entry in enumerate(zip(read_images(self._data), class_ids, strict=True)):
            yield self._record(index, *entry)

    def _written_classes(self) -> Iterator[list[int]]:
        """The class ids of the segments of each image whose score is high enough."""
        class_ids, scores = (read_segments(self._data, field) for field in ("class_id", "score"))
        for pairs in map(zip, class_ids, scores):
            yield [number for number, score in pairs if score is None or score >= self._min_score]

    def _record(self, index: int, sample: Sample, class_ids: list[int]) -> dict[str, Any]:
        """The source's image record, completed where it lacks a field or says what has changed.

        `class_ids` are those of the segments that are written, which the sample lacks.
        """
        image_id = self._ids[index]
        source = source_record(sample.source, sample.id)
        fields = {
            "id": image_id,
            "file_name": sample.file_name,
            "width": sample.width,
            "height": sample.height,
        }
        changed: dict[str, Any] = {key: v for key, v in fields.items() if key not in source}
        # sources may say 0, and write numbers as floats
        changed |= {"width": sample.width, "height": sample.height}
        if identifier(source, "id") != image_id:
            changed["id"] = image_id
        name = str(identifier(source, "file_name"))
        suffixes = {PurePosixPath(name).suffix, PurePosixPath(sample.file_name).suffix}
        # a turned photo has become a PNG; conversion accepts unsafe names that lead inside --images
        if len(suffixes) > 1 or is_unsafe(name) or "\\" in name:
            changed["file_name"] = sample.file_name
        if sample.id in self._names.renamed:
            changed["file_name"] = self._names[sample]
        kept = {key: value for key, value in source.items() if key not in _ANNOTATED}
        lists = self._annotated_classes(sample, class_ids) if self._annotated else {}
        return {**kept, **changed, **lists}

    def _annotated_classes(self, sample: Sample, class_ids: list[int]) -> dict[str, list[int]]:
        """LVIS's lists; without `neg_category_ids`, an image is annotated for all classes."""
        lists = {}
        annotated = self._class_ids if sample.annotated is None else sorted(sample.annotated)
        if sample.annotated is not None:
            present = set(class_ids)
            lists[_ANNOTATED[0]] = [class_id for class_id in annotated if class_id not in present]
        if not sample.exhaustive:
            lists[_ANNOTATED[1]] = sorted(sample.not_exhaustive) or annotated
        elif lists:
            lists[_ANNOTATED[1]] = []
        return lists


class AnnotationIds:
    """The ids of annotations: those of the source, or the next free number.

    Of annotations with one id, the first keeps it: ids of merged sets, and of panoptic segments,
    are unique only within their source or image.
    """

    def __init__(self, data: ShardSet) -> None:
        integers, texts = array("q"), Counter[str]()  # 8 bytes each: there may be many millions
        for source_id in chain.from_iterable(read_segments(data, "source_id")):
            number = integer(source_id)
            if number is not None:
                integers.append(number)
            elif source_id:
                texts[source_id] += 1
        ids = np.sort(np.asarray(integers, np.int64))
        self._repeated: set[Id] = {*np.unique(ids[1:][ids[1:] == ids[:-1]]).tolist()}
        self._repeated |= {text for text, count in texts.items() if count > 1}
        self._seen: set[Id] = set()
        self._last = max(int(ids[-1]), 0) if len(ids) else 0
        self.renumbered = 0
        """Annotations with another id than in the set."""

    def next(self, segment: Segment) -> Id:
        """The id of the next segment that is written."""
        number = integer(segment.source_id)
        source_id = segment.source_id if number is None else number
        if source_id and source_id not in self._seen:
            if source_id in self._repeated:
                self._seen.add(source_id)
            return source_id
        self.renumbered += source_id not in (None, "")
        self._last += 1
        return self._last
