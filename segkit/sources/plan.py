"""Plans the records of a source into shards, and checks that every planned image was converted."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segkit.errors import SegkitError
from segkit.shards.manifest import Ledger
from segkit.shards.reader import ShardSet
from segkit.shards.writer import SHARD_ROWS
from segkit.sources.image_files import image_sizer
from segkit.sources.source import Record


def plan(
    records: Iterable[Record], images: Path, shard_bytes: int, *, embed: bool
) -> Iterator[list[Record]]:
    """Group records into shards by the bytes of their images; image files are not opened.

    Args:
        records: all records of a source.
        images: folder of the images.
        shard_bytes: bytes of images at which a shard is closed.
        embed: whether images are copied into shards; otherwise only rows count.
    """
    shard: list[Record] = []
    used, image_bytes = 0, image_sizer(images)
    for record in records:
        if len(shard) >= SHARD_ROWS or used >= shard_bytes:
            yield shard
            shard, used = [], 0
        shard.append(record)
        if embed:
            used += image_bytes(record.candidates)
    if shard:
        yield shard


class PlannedImages:
    """The images of all shards, by a 64-bit hash of their ids: 8 bytes each."""

    def __init__(self) -> None:
        self._hashes, self._ends = array("Q"), list[int]()

    def __len__(self) -> int:
        return len(self._hashes)

    @property
    def shards(self) -> int:
        """Number of shards."""
        return len(self._ends)

    def watch(self, shards: Iterable[list[Record]]) -> Iterator[list[Record]]:
        """Yield shards as they are planned."""
        for records in shards:
            self._hashes.extend(_id_hash(record.id) for record in records)
            self._ends.append(len(self._hashes))
            yield records

    def check_ledger(self, ledger: Ledger, unplanned: int) -> None:
        """Raise SegkitError unless planned == in == kept + dropped.

        Args:
            ledger: of the entire conversion.
            unplanned: images that the source counted and dropped without planning them.
        """
        images = ledger.images
        dropped = sum(images.dropped.values())
        planned = len(self) + unplanned
        if not planned == images.input == images.kept + dropped:
            sums = f"{planned} planned, {images.input} in, {images.kept} kept, {dropped} dropped"
            raise SegkitError(f"the ledger does not balance for images: {sums}")

    def check_shards(self, data: ShardSet, ledger: Ledger) -> None:
        """Raise SegkitError unless every shard holds images of its plan, and the set each once.

        With `check_ledger`, every planned image is then either in the set once, or dropped.
        """
        planned, start, kept = np.asarray(self._hashes), 0, 0
        for index, end in enumerate(self._ends):
            ids = [_id_hash(image_id) for image_id in data.image_ids(index)]
            kept += len(ids)
            hashes: NDArray[np.uint64] = np.array(ids, np.uint64)
            repeated = len(hashes) - len(np.unique(hashes))
            foreign = int((~np.isin(hashes, planned[start:end])).sum())
            if repeated or foreign:
                counts = f"{repeated} twice, {foreign} planned elsewhere"
                name = data.manifest.parts[index].labels
                message = f"{data.path / name}: holds other images than planned ({counts})"
                raise SegkitError(message, hint="nothing was published")
            start = end
        if len(np.unique(planned)) != len(planned):
            raise SegkitError(f"{data.path}: an image was planned twice")
        if kept != ledger.images.kept:
            message = f"{data.path}: {kept} images were written, {ledger.images.kept} kept"
            raise SegkitError(message)


def _id_hash(image_id: str) -> int:
    data = image_id.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
