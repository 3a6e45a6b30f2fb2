"""Write one shard: a deterministic tar of the original image bytes, and a Parquet file of labels.

A shard is finished when its Parquet file exists: tar and sidecar are on the disk before the Parquet
is renamed into place, so a killed run leaves only complete shards and files that the next run
overwrites.
"""

import hashlib
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from segkit.atomic import sync
from segkit.masks import rle
from segkit.sample import ImageRef, Sample
from segkit.shards import arrow
from segkit.shards.manifest import Part
from segkit.shards.sidecar import (
    Shard,
    ShardCounts,
    discard_shard,
    images_name,
    labels_name,
    write_sidecar,
)
from segkit.storage import file_sha256

ROW_GROUP = 128
"""Images of a row group: about half a megabyte of labels, the cost of a random read."""
MIN_ROWS, MAX_ROWS, SHARDS = 32, 1024, 64
"""Workers share a set in about 64 parts, of 32 to 1024 images each: enough for many devices, and
small enough that little is lost by a kill."""
_BLOCK, _RECORD = 512, 10240


def rows_per_shard(images: int) -> int:
    """Images of each shard of a layer over a set of that many images."""
    return min(MAX_ROWS, max(MIN_ROWS, -(-images // SHARDS)))


def write_shard(
    directory: Path,
    index: int,
    records: Iterable[tuple[Sample, bytes | None]],
    *,
    notes: Any = None,
    extra_files: Sequence[str] = (),
) -> Shard:
    """Write shard `index` of a version into its staging directory.

    The bytes depend only on the records. Shards may be written in any order and by any process.

    Args:
        directory: `Staging.path`.
        index: 0-based number of the shard.
        records: samples in order, each with the image bytes to embed (the row then names tar,
            offset, length and SHA-256), or None: the row keeps the sample's own `image` (a path, a
            tar of another version, or nothing).
        notes: JSON values that `read_shard` returns until the version is finished; a dict or list
            may be filled while the records are consumed. They are not part of the version or its
            digest.
        extra_files: names of further files of the directory that belong to the shard; complete and
            flushed to the disk once the records are consumed.
    """
    discard_shard(directory, index)
    labels, images = directory / labels_name(index), directory / images_name(index)
    draft = labels.with_suffix(".partial")
    with _Tar(images) as tar:
        counts = write_labels(draft, (_embed(tar, sample, data) for sample, data in records))
    part = Part(
        labels=labels.name,
        labels_sha256=file_sha256(draft),
        rows=counts.images,
        images=images.name if tar.size else None,
        images_sha256=tar.sha256 if tar.size else None,
        images_bytes=tar.size,
    )
    shard = Shard(part, counts, notes)
    sync(draft)
    write_sidecar(directory, index, shard, draft, extra_files)
    draft.rename(labels)
    sync(directory)
    return shard


def write_labels(path: Path, samples: Iterable[Sample]) -> ShardCounts:
    """Write a Parquet file of labels: zstd, page checksums, one row group in memory at a time."""
    stream, counts = iter(samples), ShardCounts()
    dictionary = ["segments.list.element.kind", "segments.list.element.mask_from", "tar"]
    with pq.ParquetWriter(
        path, arrow.SCHEMA, compression="zstd", use_dictionary=dictionary, write_page_checksum=True
    ) as file:
        while rows := list(islice(stream, ROW_GROUP)):
            file.write_table(arrow.to_table(rows))
            counts += count_samples(rows)
    return counts


def count_samples(samples: Iterable[Sample]) -> ShardCounts:
    """Count images, segments and masks, and the segments, images and mask pixels of each class.

    Raises:
        ValueError: a mask is malformed.
    """
    images = 0
    class_segments: Counter[int] = Counter()
    class_images: Counter[int] = Counter()
    masks: list[tuple[int, bytes]] = []
    for sample in samples:
        images += 1
        class_ids = [segment.class_id for segment in sample.segments]
        class_segments.update(class_ids)
        class_images.update(set(class_ids))
        masks += [(s.class_id, s.mask) for s in sample.segments if s.mask is not None]
    class_pixels: Counter[int] = Counter()
    areas = rle.areas([counts for _, counts in masks]).tolist()
    for (class_id, _), area in zip(masks, areas, strict=True):
        class_pixels[class_id] += area
    return ShardCounts(
        images,
        class_segments.total(),
        len(masks),
        dict(class_segments),
        dict(class_images),
        dict(class_pixels),
    )


def member_name(sample_id: str, file_name: str) -> str:
    """The tar member of a sample: a key for WebDataset and the image's extension.

    The key is ASCII without dots and folders.
    """
    key = re.sub(r"[^A-Za-z0-9_-]", "_", sample_id)[:64]
    if not key or key != sample_id:
        key += "-" + hashlib.sha256(sample_id.encode()).hexdigest()[:12]
    extension = PurePosixPath(file_name).suffix.lower()
    return key + (extension if re.fullmatch(r"\.[a-z0-9]{1,8}", extension) else ".bin")


class _Tar:
    """A USTAR file whose bytes depend only on its members' names and contents.

    Without members no file is written.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.size, self._hash = path, 0, hashlib.sha256()

    def __enter__(self) -> "_Tar":
        self._file = self.path.open("wb")
        return self

    def add(self, name: str, data: bytes) -> int:
        """Append a member and return the offset of its first byte."""
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        offset = self.size
        self._write(data)
        self._write(bytes(-len(data) % _BLOCK))
        return offset

    def __exit__(self, failure: object, *_: object) -> None:
        if self.size and failure is None:
            self._write(bytes(2 * _BLOCK))
            self._write(bytes(-self.size % _RECORD))
        self._file.close()
        if self.size:
            sync(self.path)
        else:
            self.path.unlink()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def _write(self, data: bytes) -> None:
        self._hash.update(data)
        self.size += self._file.write(data)


def _embed(tar: _Tar, sample: Sample, data: bytes | None) -> Sample:
    if data is None:
        return sample
    offset = tar.add(member_name(sample.id, sample.file_name), data)
    image = ImageRef(
        tar.path.name, offset, len(data), hashlib.sha256(data).hexdigest(), sample.image.path
    )
    return replace(sample, image=image)
