"""The image ids of a set in COCO files: exports and results have the same ones.

An id is that of the source where it is distinct in the set: sets that were merged repeat ids.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, TypeVar

import msgspec

from segkit.errors import InputError
from segkit.parse import is_integer, without_fraction
from segkit.shards.label_columns import read_columns
from segkit.shards.label_files import DAMAGE_HINT
from segkit.shards.reader import ShardSet

Id = int | str
Record = dict[str, msgspec.Raw]
_INTEGER = re.compile("-?[0-9]{1,18}")
_RECORD = msgspec.json.Decoder(Record)
_IDENTIFIER = msgspec.json.Decoder(int | str | None)
_Value = TypeVar("_Value")


def coco_image_ids(data: ShardSet) -> tuple[list[Id], int]:
    """The id of each image in COCO files, and the number of images with another than in the set.

    An id is that of the source's image record, or the sample's id as a number. If the samples
    without a record have ids that are not distinct numbers, those written as numbers keep them and
    the others are numbered from 1. A repeated id is replaced by the next free number. No number
    that is chosen is the id of another sample, so that an id as text also tells which it is.

    Raises:
        InputError: a source record is damaged.
    """
    _, ids, renumbered = _numbered(data)
    return ids, renumbered


def coco_ids_by_sample(data: ShardSet) -> dict[str, Id]:
    """The id of each image in COCO files by the id of its sample."""
    sample_ids, ids, _ = _numbered(data)
    return dict(zip(sample_ids, ids, strict=True))


def _numbered(data: ShardSet) -> tuple[list[str], list[Id], int]:
    """The ids of all samples, and what `coco_image_ids` returns."""
    sample_ids, source_ids = list[str](), list[Id | None]()
    for table in read_columns(data, ["id", "source"]):
        columns = (table.column(name).to_pylist() for name in ("id", "source"))
        for sample_id, source in zip(*columns, strict=True):
            sample_ids.append(sample_id)
            source_ids.append(identifier(source_record(source, sample_id), "id"))
    ids = _preferred_ids(sample_ids, source_ids)
    known, used = set(sample_ids), set[str]()
    last = max((integer(str(entry)) or 0 for entry in ids), default=0)
    for index, image_id in enumerate(ids):
        if str(image_id) in used:  # readers may take 1 and "1" for one id
            # above all numbers of at most 18 digits
            last = next(number for number in count(last + 1) if str(number) not in known)
            ids[index] = last
        used.add(str(ids[index]))
    renumbered = sum(
        image_id != (integer(sample_id) if source_id is None else source_id)
        for sample_id, source_id, image_id in zip(sample_ids, source_ids, ids, strict=True)
    )
    return sample_ids, ids, renumbered


def integer(text: str | None) -> int | None:
    """The number that a text is; None for other texts."""
    return int(text) if text is not None and _INTEGER.fullmatch(text) else None


def class_id(value: Any) -> int | None:
    """A class id: files have it as 7, 7.0 or "7"; None for anything else."""
    number = without_fraction(value)
    return number if is_integer(number) else integer(str(number))


def source_record(source: str | None, sample_id: str) -> Record:
    """The source's image record, each value as it stands there; empty without one.

    Raises:
        InputError: it is damaged.
    """
    if not source:
        return {}
    record = decode(_RECORD, source, sample_id, "the source record")
    return {key: value for key, value in record.items() if bytes(value).strip() != b"null"}


def identifier(source: Mapping[str, msgspec.Raw], key: str) -> Id | None:
    """A value of a source's image record that is an integer or text; None for any other."""
    try:
        value: Id | None = _IDENTIFIER.decode(source.get(key, b"null"))
        return value
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def decode(decoder: msgspec.json.Decoder[_Value], text: str, sample_id: str, noun: str) -> _Value:
    """A text of a row as a checked value; InputError names the image."""
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        message = f"{noun} is damaged ({error})"
        raise InputError(message, record=f"image {sample_id}", hint=DAMAGE_HINT) from error


def _preferred_ids(sample_ids: Sequence[str], source_ids: Sequence[Id | None]) -> list[Id]:
    """The id of each image before repeated ones are replaced."""
    pairs = list(zip(sample_ids, source_ids, strict=True))
    numbers = [integer(sample_id) for sample_id, source_id in pairs if source_id is None]
    are_distinct = None not in numbers and len(set(numbers)) == len(numbers)
    reserved = {*sample_ids, *map(str, source_ids)}
    free = (number for number in count(1) if str(number) not in reserved)
    ids: list[Id] = []
    for sample_id, source_id in pairs:
        number = integer(sample_id)
        if source_id is not None:
            ids.append(source_id)
        elif number is not None and (are_distinct or str(number) == sample_id):
            ids.append(number)
        else:
            ids.append(next(free))
    return ids
