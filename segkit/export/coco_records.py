"""Image records, image ids and annotation ids of a COCO export.

Ids are those of the source where they are distinct in the set: sets that were merged repeat them.
"""

import re
from array import array
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, TypeVar

import msgspec
import numpy as np

from segkit.errors import InputError
from segkit.export.image_names import ImageNames
from segkit.file_names import is_unsafe
from segkit.sample import Sample, Segment
from segkit.shards.reader import ShardSet

Id = int | str
_INTEGER = re.compile("-?[0-9]{1,18}")
_RECORD = msgspec.json.Decoder(dict[str, msgspec.Raw])
_IDENTIFIER = msgspec.json.Decoder(int | str | None)
_ANNOTATED = ("neg_category_ids", "not_exhaustive_category_ids")
"""LVIS: classes that were annotated and do not occur; classes with unlabeled instances."""
_Value = TypeVar("_Value")


class ImageRecords:
    """The image records of a set, with distinct ids.

    An id is that of the source's image record, or the sample's id as a number; if those of the
    samples without a record are not distinct numbers, these are numbered by their place, 1, 2, ...
    A repeated id is replaced by the next free number.

    Args:
        data: the set.
        names: of the image files, which become the `file_name` of renamed images.
        annotated: write LVIS's lists of annotated classes for the samples that have such.
    """

    def __init__(self, data: ShardSet, names: ImageNames, *, annotated: bool) -> None:
        self._names, self._annotated = names, annotated
        self._class_ids = sorted(data.taxonomy.by_id)
        self._ids = _preferred_ids(data)
        self.renumbered = 0
        """Images with another id than in the source."""
        used: set[str] = set()
        last = max((integer(str(entry)) or 0 for entry in self._ids), default=0)
        for index, image_id in enumerate(self._ids):
            if str(image_id) in used:  # readers may take 1 and "1" for one id
                last += 1  # above all numbers of at most 18 digits
                self._ids[index] = last
                self.renumbered += 1
            used.add(str(self._ids[index]))

    def id(self, index: int) -> Id:
        """The id of the image at an index of the set."""
        return self._ids[index]

    def record(self, index: int, sample: Sample) -> dict[str, Any]:
        """The source's image record, completed where it lacks a field or says what has changed."""
        image_id = self._ids[index]
        source = _source_record(sample)
        fields = {
            "id": image_id,
            "file_name": sample.file_name,
            "width": sample.width,
            "height": sample.height,
        }
        changed: dict[str, Any] = {key: v for key, v in fields.items() if key not in source}
        if _source_text(source, "id") != image_id:
            changed["id"] = image_id
        name = str(_source_text(source, "file_name"))
        suffixes = {PurePosixPath(name).suffix, PurePosixPath(sample.file_name).suffix}
        # a turned photo has become a PNG; conversion accepts unsafe names that lead inside --images
        if len(suffixes) > 1 or is_unsafe(name) or "\\" in name:
            changed["file_name"] = sample.file_name
        if sample.id in self._names.renamed:
            changed["file_name"] = self._names[sample]
        kept = {key: value for key, value in source.items() if key not in _ANNOTATED}
        return {**kept, **changed, **(self._annotated_classes(sample) if self._annotated else {})}

    def _annotated_classes(self, sample: Sample) -> dict[str, list[int]]:
        """LVIS's lists; without `neg_category_ids`, an image is annotated for all classes."""
        lists = {}
        annotated = self._class_ids if sample.annotated is None else sorted(sample.annotated)
        if sample.annotated is not None:
            present = {segment.class_id for segment in sample.segments}
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
        for sample in data.samples():
            for segment in sample.segments:
                number = integer(segment.source_id)
                if number is not None:
                    integers.append(number)
                elif segment.source_id:
                    texts[segment.source_id] += 1
        ids = np.sort(np.asarray(integers, np.int64))
        self._repeated: set[Id] = {*np.unique(ids[1:][ids[1:] == ids[:-1]]).tolist()}
        self._repeated |= {text for text, count in texts.items() if count > 1}
        self._seen: set[Id] = set()
        self._last = max(int(ids[-1]), 0) if len(ids) else 0
        self.renumbered = 0
        """Annotations with another id than in the source."""

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


def integer(text: str | None) -> int | None:
    """The number that a text is; None for other texts."""
    return int(text) if text is not None and _INTEGER.fullmatch(text) else None


def decode(decoder: msgspec.json.Decoder[_Value], text: str, sample: Sample, noun: str) -> _Value:
    """A text of a row as a checked value; InputError names the image."""
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        message, hint = f"{noun} is damaged ({error})", "`segkit validate` lists the damage"
        raise InputError(message, record=f"image {sample.id}", hint=hint) from error


def _preferred_ids(data: ShardSet) -> list[Id]:
    """The id of each image before repeated ones are replaced."""
    source_ids, numbers = list[Id | None](), list[int | None]()
    for sample in data.samples():
        source_ids.append(_source_text(_source_record(sample), "id"))
        numbers.append(integer(sample.id) if source_ids[-1] is None else None)
    unnumbered = [n for n, source_id in zip(numbers, source_ids, strict=True) if source_id is None]
    distinct = None not in unnumbered and len(set(unnumbered)) == len(unnumbered)
    ids: list[Id] = []
    for index, (source_id, number) in enumerate(zip(source_ids, numbers, strict=True)):
        fallback = number if distinct and number is not None else index + 1
        ids.append(fallback if source_id is None else source_id)
    return ids


def _source_record(sample: Sample) -> dict[str, msgspec.Raw]:
    """The source's image record, each value as it stands there; empty without one."""
    if not sample.source:
        return {}
    record = decode(_RECORD, sample.source, sample, "the source record")
    return {key: value for key, value in record.items() if bytes(value).strip() != b"null"}


def _source_text(source: Mapping[str, msgspec.Raw], key: str) -> Id | None:
    """A value of a source's image record that is an integer or text; None for any other."""
    try:
        value: Id | None = _IDENTIFIER.decode(source.get(key, b"null"))
        return value
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
