"""One shard: a deterministic tar of untouched image bytes and the Parquet file of its labels.

A shard is done when its Parquet file is there: tar, then sidecar, are on the disk before the
Parquet is renamed into place, so a killed run leaves only whole shards and files that the next run
overwrites.
"""

import hashlib
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from segkit.masks import rle
from segkit.sample import ImageRef, Sample
from segkit.shards import arrow
from segkit.shards.manifest import Part
from segkit.shards.publish import sync

ROW_GROUP = 128
"""Images a row group: about half a megabyte of labels, what a random read of one sample costs."""
SCRATCH = ("shard-*.json", "*.partial")
"""Files that only an unfinished version needs."""
_BLOCK, _RECORD = 512, 10240


@dataclass(frozen=True)
class ShardCounts:
    """What a shard holds, summed into the manifest's statistics; classes by id."""

    images: int = 0
    segments: int = 0
    masked: int = 0
    class_segments: Mapping[int, int] = field(default_factory=dict)
    class_images: Mapping[int, int] = field(default_factory=dict)
    class_pixels: Mapping[int, int] = field(default_factory=dict)

    def __add__(self, other: "ShardCounts") -> "ShardCounts":
        own, others = self._counters(), other._counters()
        classes = [dict(mine + theirs) for mine, theirs in zip(own, others, strict=True)]
        numbers = (
            self.images + other.images,
            self.segments + other.segments,
            self.masked + other.masked,
        )
        return ShardCounts(*numbers, *classes)

    def _counters(self) -> list["Counter[int]"]:
        return [
            Counter(counts)
            for counts in (self.class_segments, self.class_images, self.class_pixels)
        ]


@dataclass(frozen=True)
class Shard:
    """A finished shard in a staging directory."""

    part: Part
    counts: ShardCounts
    notes: Any
    """What the writer was given beside the records (JSON values), such as this shard's share of the
    ledger."""


def labels_name(index: int) -> str:
    """File name of a shard's labels."""
    return f"labels-{index:05d}.parquet"


def images_name(index: int) -> str:
    """File name of a shard's images."""
    return f"images-{index:05d}.tar"


def write_shard(
    directory: Path,
    index: int,
    records: Iterable[tuple[Sample, bytes | None]],
    *,
    notes: Any = None,
) -> Shard:
    """Write shard `index` of a version into its staging directory; safe in a worker process.

    Bytes depend on the records alone. Shards may be written in any order and by any process.

    Args:
        directory: `Staging.path`.
        index: 0-based number of the shard.
        records: samples in order, each with the image bytes to embed (the row then names tar,
            offset, length and SHA-256), or None: the row keeps the sample's own `image` (a path, a
            tar of another version, or nothing).
        notes: JSON values kept beside the shard until the version is finished and read back by
            `read_shard`; may be filled in (a dict, a list) while the records are consumed. They are
            not part of the version or its digest.
    """
    labels, images = directory / labels_name(index), directory / images_name(index)
    draft = labels.with_suffix(".partial")
    with _Tar(images) as tar:
        counted = write_labels(draft, (_embed(tar, sample, data) for sample, data in records))
    part = Part(
        labels=labels.name,
        labels_sha256=file_sha256(draft),
        rows=counted.images,
        images=images.name if tar.size else None,
        images_sha256=tar.sha256 if tar.size else None,
        images_bytes=tar.size,
    )
    shard = Shard(part, counted, notes)
    _write_sidecar(directory, index, shard)
    sync(draft)
    draft.rename(labels)
    sync(directory)
    return shard


def read_shard(directory: Path, index: int) -> Shard | None:
    """A finished shard of a staging directory, or None where it is still to be written."""
    sidecar = directory / _sidecar_name(index)
    if not (directory / labels_name(index)).is_file() or not sidecar.is_file():
        return None
    data = json.loads(sidecar.read_text("utf-8"))
    counts: dict[str, Any] = {
        name: {int(class_id): count for class_id, count in value.items()}
        if isinstance(value, dict)
        else value
        for name, value in data["counts"].items()
    }
    return Shard(Part(**data["part"]), ShardCounts(**counts), data["notes"])


def write_labels(path: Path, samples: Iterable[Sample]) -> ShardCounts:
    """Write one Parquet file of labels: zstd, page checksums, `ROW_GROUP` images a row group and in
    memory."""
    stream, counted = iter(samples), ShardCounts()
    dictionary = ["segments.list.element.kind", "segments.list.element.mask_from", "tar"]
    with pq.ParquetWriter(
        path, arrow.SCHEMA, compression="zstd", use_dictionary=dictionary, write_page_checksum=True
    ) as file:
        while rows := list(islice(stream, ROW_GROUP)):
            file.write_table(arrow.to_table(rows))
            counted += count(rows)
    return counted


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def count(samples: Iterable[Sample]) -> ShardCounts:
    """Count images, segments, masks, and per class segments, images and mask pixels."""
    images = 0
    segments: Counter[int] = Counter()
    in_images: Counter[int] = Counter()
    masks: list[tuple[int, bytes]] = []
    for sample in samples:
        images += 1
        classes = [segment.class_id for segment in sample.segments]
        segments.update(classes)
        in_images.update(set(classes))
        masks.extend(
            (segment.class_id, segment.mask)
            for segment in sample.segments
            if segment.mask is not None
        )
    pixels: Counter[int] = Counter()
    for start in range(0, len(masks), 1024):  # chunks bound the memory of the vectorised count
        chunk = masks[start : start + 1024]
        for (class_id, _), area in zip(
            chunk, rle.areas([mask for _, mask in chunk]).tolist(), strict=True
        ):
            pixels[class_id] += area
    return ShardCounts(
        images, segments.total(), len(masks), dict(segments), dict(in_images), dict(pixels)
    )


def member_name(sample_id: str, file_name: str) -> str:
    """Tar member of a sample: WebDataset's key (no dot, no folder, plain ASCII) and the image's own
    extension."""
    key = re.sub(r"[^A-Za-z0-9_-]", "_", sample_id)[:64]
    if not key or key != sample_id:
        key += "-" + hashlib.sha256(sample_id.encode()).hexdigest()[:12]
    extension = PurePosixPath(file_name).suffix.lower()
    return key + (extension if re.fullmatch(r"\.[a-z0-9]{1,8}", extension) else ".bin")


class _Tar:
    """A USTAR file whose bytes are a function of its members' names and contents alone; no members,
    no file."""

    def __init__(self, path: Path) -> None:
        self.path, self.size, self._hash = path, 0, hashlib.sha256()

    def __enter__(self) -> "_Tar":
        self._file = self.path.open("wb")
        return self

    def add(self, name: str, data: bytes) -> int:
        """Append a member; returns the offset of its first byte."""
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


def _sidecar_name(index: int) -> str:
    return f"shard-{index:05d}.json"


def _write_sidecar(directory: Path, index: int, shard: Shard) -> None:
    data = {"part": shard.part.model_dump(), "counts": asdict(shard.counts), "notes": shard.notes}
    draft = directory / f"{_sidecar_name(index)}.partial"
    draft.write_text(json.dumps(data), "utf-8")
    sync(draft)
    draft.rename(directory / _sidecar_name(index))
