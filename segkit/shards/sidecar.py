"""Record finished shards beside their files, so that an interrupted run can be resumed.

A sidecar is a line with the SHA-256 of the rest, and JSON: the shard's part of the manifest, its
counts, the writer's notes, and the sizes and SHA-256 of its files. What a killed process, a failing
disk or another program left is found before it can count as a finished shard.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from segkit import storage
from segkit.atomic import replace_bytes
from segkit.errors import SegkitError
from segkit.shards.manifest import Part
from segkit.storage import file_sha256

_FORMAT = b"segkit.shard/1 "
"""Begins the first line of a sidecar."""


@dataclass(frozen=True)
class ShardCounts:
    """The counts of a shard, which are summed into the manifest's statistics; classes by id."""

    images: int = 0
    segments: int = 0
    masked: int = 0
    class_segments: Mapping[int, int] = field(default_factory=dict)
    class_images: Mapping[int, int] = field(default_factory=dict)
    class_pixels: Mapping[int, int] = field(default_factory=dict)

    def __add__(self, other: "ShardCounts") -> "ShardCounts":
        return ShardCounts(
            self.images + other.images,
            self.segments + other.segments,
            self.masked + other.masked,
            _add(self.class_segments, other.class_segments),
            _add(self.class_images, other.class_images),
            _add(self.class_pixels, other.class_pixels),
        )


def _add(first: Mapping[int, int], second: Mapping[int, int]) -> dict[int, int]:
    return dict(Counter(first) + Counter(second))


@dataclass(frozen=True)
class Shard:
    """A finished shard in a staging directory."""

    part: Part
    counts: ShardCounts
    notes: Any
    """JSON values of the writer, such as this shard's part of the ledger."""


class DamagedShardError(SegkitError):
    """A file of a finished shard is not the one that was written."""

    def __init__(self, file: Path, message: str) -> None:
        super().__init__(f"{file}: {message}", hint="run it again: the shard is made anew")
        self.file = file


def labels_name(index: int) -> str:
    """File name of a shard's labels."""
    return f"labels-{index:05d}.parquet"


def images_name(index: int) -> str:
    """File name of a shard's images."""
    return f"images-{index:05d}.tar"


def write_sidecar(
    directory: Path, index: int, shard: Shard, labels: Path, extra_files: Sequence[str] = ()
) -> None:
    """Record a shard whose files are on the disk.

    Args:
        directory: `Staging.path`.
        index: 0-based number of the shard.
        shard: the shard.
        labels: the file that will be renamed to the shard's labels.
        extra_files: names of further files that belong to the shard.
    """
    record = {
        "part": shard.part.model_dump(),
        "labels_bytes": labels.stat().st_size,
        "extra_files": {name: _describe(directory / name) for name in extra_files},
        "counts": asdict(shard.counts),
        "notes": shard.notes,
    }
    data = json.dumps(record).encode()
    replace_bytes(directory / _sidecar_name(index), _first_line(data) + data)


def read_shard(directory: Path, index: int, *, verify: bool = True) -> Shard | None:
    """A finished shard of a staging directory; None if it is not finished.

    Args:
        directory: `Staging.path`.
        index: 0-based number of the shard.
        verify: compare the SHA-256 of its files; otherwise only their sizes.

    Raises:
        DamagedShardError: the sidecar or a file of the shard is not the one that was written.
    """
    labels, sidecar = directory / labels_name(index), directory / _sidecar_name(index)
    if not labels.exists():
        return None
    part, counts, record = _read_sidecar(sidecar)
    if part.labels != labels.name or part.images not in (None, images_name(index)):
        raise DamagedShardError(sidecar, "is the record of another shard")
    files = {part.labels: (record["labels_bytes"], part.labels_sha256), **record["extra_files"]}
    if part.images:
        files[part.images] = (part.images_bytes, part.images_sha256)
    for name, (size, sha256) in files.items():
        _check_file(directory / name, size, sha256 if verify else None)
    return Shard(part, counts, record["notes"])


def discard_shard(directory: Path, index: int) -> None:
    """Delete the files of a shard, finished or not; its labels first, which mark it as finished."""
    for name in (labels_name(index), _sidecar_name(index), images_name(index)):
        (directory / name).unlink(missing_ok=True)


def _read_sidecar(path: Path) -> tuple[Part, ShardCounts, dict[str, Any]]:
    """The part, the counts and the entire record of a shard."""
    try:
        first_line, newline, data = storage.read_bytes(path).partition(b"\n")
    except OSError as error:
        message = f"the record of the shard cannot be read ({error.strerror})"
        raise DamagedShardError(path, message) from error
    if first_line + newline != _first_line(data):
        raise DamagedShardError(path, "the record of the shard is damaged")
    try:
        record: dict[str, Any] = json.loads(data)
        counts: dict[str, Any] = {
            name: {int(class_id): count for class_id, count in value.items()}
            if isinstance(value, dict)
            else value
            for name, value in record["counts"].items()
        }
        return Part(**record["part"]), ShardCounts(**counts), record
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedShardError(path, "another version of segkit wrote it") from error


def _first_line(data: bytes) -> bytes:
    return _FORMAT + hashlib.sha256(data).hexdigest().encode() + b"\n"


def _describe(path: Path) -> tuple[int, str]:
    return path.stat().st_size, file_sha256(path)


def _check_file(path: Path, size: int, sha256: str | None) -> None:
    try:
        is_intact = path.stat().st_size == size
        is_intact = is_intact and (sha256 is None or sha256 == file_sha256(path))
    except OSError as error:
        raise DamagedShardError(path, f"cannot be read ({error.strerror})") from error
    if not is_intact:
        raise DamagedShardError(path, "is not the file that was written")


def _sidecar_name(index: int) -> str:
    return f"shard-{index:05d}.json"
