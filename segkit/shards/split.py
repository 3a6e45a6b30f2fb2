"""Parts of a set, by chance or by list, over the same images."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from segkit.errors import InputError
from segkit.sample import Sample
from segkit.shards.header import Header
from segkit.shards.manifest import Count, Ledger
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_view

OTHER_PART = "other-part"


def by_chance(data: ShardSet, shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """A part for every image id, by the rank of a hash of seed and id: no order and no other
    image's content matters.

    Args:
        data: the set.
        shares: part -> share of the images; sums to 1.
        seed: another seed gives another split.

    Raises:
        InputError: the shares do not sum to 1, or one is too small for a single image.
    """
    if any(share <= 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        raise InputError(
            f"the shares sum to {sum(shares.values()):g}", hint="give positive shares that sum to 1"
        )
    ids = sorted((sample.id for sample in data.samples()), key=lambda key: _rank(seed, key))
    made: dict[str, str] = {}
    reached = 0.0
    for part, share in shares.items():
        start, reached = round(reached * len(ids)), reached + share
        mine = ids[start : round(reached * len(ids))]
        if not mine:
            raise InputError(
                f"{len(ids)} images are too few for part {part}",
                file=data.path,
                hint="give it more",
            )
        made.update(dict.fromkeys(mine, part))
    return made


def by_list(data: ShardSet, lists: Mapping[str, Path]) -> dict[str, str]:
    """A part for every image id that a list names, one id a line.

    Raises:
        InputError: a list cannot be read, names an image that the set lacks, or one that another
            list has.
    """
    known = {sample.id for sample in data.samples()}
    made: dict[str, str] = {}
    for part, path in lists.items():
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"cannot be read ({error})", file=path, hint="give a text file of image ids"
            ) from error
        for number, line in enumerate(lines, start=1):
            if not (key := line.strip()):
                continue
            if key not in known:
                raise InputError(
                    f"the set has no image {key}",
                    file=path,
                    record=f"line {number}",
                    hint="take it out",
                )
            if made.setdefault(key, part) != part:
                message = f"image {key} is in part {made[key]} too"
                raise InputError(
                    message, file=path, record=f"line {number}", hint="leave it in one list"
                )
    return made


def split(
    data: ShardSet, destination: Path, parts: Mapping[str, str], arguments: dict[str, Any]
) -> dict[str, ShardSet]:
    """Publish `destination/<part>` for every part; images of no part are counted as dropped in
    every ledger.

    Args:
        data: the set.
        destination: directory of the parts' directories.
        parts: image id -> part.
        arguments: the command's arguments.
    """
    return {
        part: _publish(data, destination / part, part, parts, arguments)
        for part in dict.fromkeys(parts.values())
    }


def _publish(
    data: ShardSet,
    destination: Path,
    part: str,
    parts: Mapping[str, str],
    arguments: dict[str, Any],
) -> ShardSet:
    kept = [0, 0]

    def mine(sample: Sample) -> bool:
        if parts.get(sample.id) != part:
            return False
        kept[0] += 1
        kept[1] += len(sample.segments)
        return True

    def ledger() -> Ledger:
        whole = (len(data), data.manifest.statistics.segments)
        images, segments = (
            Count(input=n, kept=k, dropped={OTHER_PART: n - k} if n > k else {})
            for n, k in zip(whole, kept, strict=True)
        )
        return Ledger(images=images, annotations=segments)

    return write_view(
        destination,
        ((sample, data) for sample in data.samples() if mine(sample)),
        (data,),
        replace(Header.from_set(data, "split", arguments), split=part),
        ledger=ledger,
    )


def _rank(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()
