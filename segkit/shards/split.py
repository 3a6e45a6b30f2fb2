"""Split a set into parts, by share or by list, without copying an image."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from segkit import parse, storage
from segkit.errors import InputError, plural, short
from segkit.file_names import known_form
from segkit.sample import Sample
from segkit.shards.header import Header
from segkit.shards.manifest import Count, Ledger
from segkit.shards.publish import check_staging
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_view

OTHER_PART = "other-part"
"""Ledger code of the images and annotations that are in another part."""


def assign_by_share(data: ShardSet, shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Assign every image id to a part by the rank of a hash of seed and id.

    The result depends on neither the order nor the content of the images.

    Args:
        data: the set.
        shares: part -> share of the images; the shares sum to 1.
        seed: another seed gives another split.

    Raises:
        InputError: a share is not positive, they do not sum to 1, or one is too small for a single
            image.
    """
    hint = "give positive shares that sum to 1"
    for part, share in shares.items():
        if not 0 < share < math.inf:
            raise InputError(f"invalid share {share:g}", record=f"part {part}", hint=hint)
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise InputError(f"the shares sum to {sum(shares.values()):g}", hint=hint)
    ids = rank_ids(data.image_ids(), seed)
    parts: dict[str, str] = {}
    reached = 0.0
    for part, share in shares.items():
        start, reached = round(reached * len(ids)), reached + share
        ids_of_part = ids[start : round(reached * len(ids))]
        if not ids_of_part:
            message = f"{plural(len(ids), 'image is', 'images are')} too few for part {part}"
            hint = "give it a larger share" if ids else "give a set with images"
            raise InputError(message, file=data.path, hint=hint)
        parts.update(dict.fromkeys(ids_of_part, part))
    return parts


def assign_by_list(data: ShardSet, lists: Mapping[str, Path]) -> dict[str, str]:
    """Assign the image ids of text files, one id a line, to a part for each file.

    Raises:
        InputError: a list cannot be read or is empty, names an image that the set lacks, or one
            that another list has.
    """
    known = set(data.image_ids())
    parts: dict[str, str] = {}
    for part, path in lists.items():
        lines = parse.read_lines(path, hint="give a text file of image ids")
        if not lines:
            hint = "write one image id a line, or leave the part out"
            raise InputError("lists no image", file=path, hint=hint)
        for number, line in lines:
            record, key = f"line {number}", known_form(line, known)
            if key is None:
                message = f"the set has no image {short(line)}"
                raise InputError(message, file=path, record=record, hint="remove the line")
            if parts.setdefault(key, part) != part:
                message = f"image {key} is in part {parts[key]} too"
                raise InputError(message, file=path, record=record, hint="keep it in one list")
    return parts


def split(
    data: ShardSet,
    destination: str | Path,
    parts: Mapping[str, str],
    arguments: dict[str, Any],
    *,
    verify_images: bool = True,
    force: bool = False,
    on_image: Callable[[], None] = lambda: None,
) -> dict[str, ShardSet]:
    """Publish `destination/<part>` for every part.

    Every ledger counts all images that are not in its part as dropped.

    Args:
        data: the set.
        destination: directory of the parts' directories.
        parts: image id -> part.
        arguments: the command's arguments.
        verify_images: read each image and compare its bytes with the SHA-256 in its row.
        force: publish versions that equal the newest ones too; without it, those are returned,
            with an UnchangedWarning.
        on_image: called for each image of the set when it is verified, and again for each part.

    Raises:
        InputError: an image is missing or damaged, or a part cannot be written; no part is
            published then.
    """
    require_parts(destination, parts.values())
    if verify_images:
        for sample in data.samples(check_masks=True):
            if sample.id in parts:
                data.verify_image(sample)
            on_image()
    home = storage.location(destination)
    return {
        part: _publish(data, home / part, part, parts, arguments, force, on_image)
        for part in dict.fromkeys(parts.values())
    }


def require_parts(destination: str | Path, parts: Iterable[str]) -> None:
    """Raise InputError where the directory of a part cannot be written or holds no sets."""
    for part in dict.fromkeys(parts):
        check_staging(storage.writable(storage.location(destination) / part), "shards")


def _publish(
    data: ShardSet,
    destination: str | Path,
    part: str,
    parts: Mapping[str, str],
    arguments: dict[str, Any],
    force: bool,
    on_image: Callable[[], None],
) -> ShardSet:
    images, segments, all_segments = 0, 0, 0

    def rows() -> Iterator[tuple[Sample, ShardSet]]:
        nonlocal images, segments, all_segments
        for sample in data.samples(check_masks=True):
            all_segments += len(sample.segments)
            if parts.get(sample.id) == part:
                images += 1
                segments += len(sample.segments)
                yield sample, data
            on_image()

    def ledger() -> Ledger:
        return Ledger(
            images=Count.from_kept(images, {OTHER_PART: len(data) - images}),
            annotations=Count.from_kept(segments, {OTHER_PART: all_segments - segments}),
        )

    return write_view(
        destination,
        rows(),
        (data,),
        replace(Header.from_set(data, "split", arguments), split=part),
        ledger=ledger,
        force=force,
    )


def rank_ids(ids: Iterable[str], seed: int) -> list[str]:
    """Image ids in the order of a hash of seed and id."""
    return sorted(ids, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())
