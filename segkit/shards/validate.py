"""Checking a whole version: every file against its checksum, every row against the schema and
itself."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from segkit import storage
from segkit.errors import InputError, SegkitError
from segkit.images.decode import image_size
from segkit.sample import Sample
from segkit.shards import arrow
from segkit.shards import shard as shards
from segkit.shards.consistency import Violation, check_sample
from segkit.shards.header import build_statistics
from segkit.shards.manifest import Manifest, Part
from segkit.shards.publish import MANIFEST
from segkit.shards.reader import ShardSet, read_manifest


def validate(
    version: Path, *, advance: Callable[[int], None] = lambda rows: None
) -> Iterator[Violation]:
    """Every violation of a version of a shard set, file by file, image by image.

    Args:
        version: the version's directory.
        advance: called with a number of rows as they are done.
    """
    try:
        opened = ShardSet(version.resolve(), read_manifest(version))
    except InputError as error:
        yield Violation("manifest", MANIFEST, str(error))
        return
    yield from _manifest(opened)
    yield from _tars(opened)
    seen: set[str] = set()
    counts: list[shards.ShardCounts | None] = []
    for part in opened.manifest.parts:
        broken = list(_labels_file(opened.path, part))
        yield from broken
        for rows in _row_groups(opened.path / part.labels):
            if isinstance(rows, Violation):
                counts.append(None)
                if not broken:
                    yield rows
                continue
            counts.append(_count(rows))
            yield from _rows(opened, part, rows, seen)
            advance(len(rows))
    counted = [count for count in counts if count is not None]
    if (
        len(counted) == len(counts)
        and build_statistics(opened.taxonomy, counted) != opened.manifest.statistics
    ):
        yield Violation("statistics", MANIFEST, "the statistics are not those of the labels")


def _manifest(opened: ShardSet) -> Iterator[Violation]:
    manifest = opened.manifest
    digest = Manifest.content_digest(
        manifest.kind, manifest.taxonomy, manifest.parts, manifest.image_roots
    )
    if digest != manifest.digest:
        yield Violation(
            "digest", MANIFEST, f"the digest is {manifest.digest}, that of the content {digest}"
        )
    try:
        manifest.ledger.check()
    except SegkitError as error:
        yield Violation("ledger", MANIFEST, str(error))
    for parent in manifest.parents:
        yield from _parent(storage.join(opened.path, parent.path), parent.digest)
    listed = {name for part in manifest.parts for name in (part.labels, part.images)}
    for path in sorted(opened.path.iterdir()):
        if path.suffix in (".tar", ".parquet") and path.name not in listed:
            yield Violation("unlisted-file", path.name, "the manifest does not list this file")


def _parent(path: Path, digest: str) -> Iterator[Violation]:
    """A parent may be gone (its images are checked apart), but not another one than it was."""
    try:
        found = json.loads((path / MANIFEST).read_text("utf-8")).get("digest")
    except (OSError, ValueError, AttributeError):
        return
    if found != digest:
        yield Violation(
            "parent", str(path), f"the parent's digest is {found}, not {digest} as it was"
        )


def _tars(opened: ShardSet) -> Iterator[Violation]:
    for name, digest in opened.tars.items():
        try:
            found = shards.file_sha256(storage.join(opened.path, name))
        except OSError as error:
            yield Violation("missing-file", name, f"not readable ({storage.reason(error)})")
            continue
        if found != digest:
            yield Violation("checksum", name, f"SHA-256 is {found}, not {digest}")


def _labels_file(version: Path, part: Part) -> Iterator[Violation]:
    path = version / part.labels
    try:
        found = shards.file_sha256(path)
    except OSError as error:
        yield Violation("missing-file", part.labels, f"not readable ({storage.reason(error)})")
        return
    if found != part.labels_sha256:
        yield Violation("checksum", part.labels, f"SHA-256 is {found}, not {part.labels_sha256}")
    try:
        with storage.parquet_file(path) as file:
            rows, schema = file.metadata.num_rows, file.schema_arrow
    except (OSError, pa.ArrowException) as error:
        yield Violation("labels-unreadable", part.labels, str(error).splitlines()[0])
        return
    older = pa.schema([field for field in arrow.SCHEMA if field.name not in arrow.LATER])
    if not (schema.equals(arrow.SCHEMA) or schema.equals(older)):
        yield Violation(
            "schema", part.labels, "the columns are not those of schemas/sample.schema.json"
        )
    if rows != part.rows:
        yield Violation("row-count", part.labels, f"{rows} rows, the manifest says {part.rows}")


def _row_groups(path: Path) -> Iterator[list[Sample] | Violation]:
    try:
        with storage.parquet_file(path) as file:
            for index in range(file.num_row_groups):
                yield _row_group(file, index, path.name)
    except (OSError, pa.ArrowException) as error:
        yield Violation("labels-unreadable", path.name, str(error).splitlines()[0])


def _row_group(file: pq.ParquetFile, index: int, name: str) -> list[Sample] | Violation:
    try:
        return list(arrow.from_table(file.read_row_group(index, use_threads=False)))
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        return Violation(
            "labels-unreadable", f"{name}: row group {index}", str(error).splitlines()[0]
        )


def _rows(
    opened: ShardSet, part: Part, samples: list[Sample], seen: set[str]
) -> Iterator[Violation]:
    for sample in samples:
        found = list(check_sample(sample, opened.taxonomy, opened.manifest.kind))
        if sample.id in seen:
            found.append(
                Violation(
                    "duplicate-id", f"image {sample.id}", "another image of the set has this id"
                )
            )
        seen.add(sample.id)
        found.extend(_image(opened, sample))
        for item in found:
            yield Violation(item.code, f"{part.labels}: {item.where}", item.detail)


def _image(opened: ShardSet, sample: Sample) -> Iterator[Violation]:
    """The image's bytes are there, are those that were read when the set was made, and have the
    labels' size."""
    here, ref = f"image {sample.id}", sample.image
    if ref.tar is None and ref.path is None:
        if opened.manifest.images_by != "none":
            yield Violation("no-image", here, "the row names neither a tar nor a file")
        return
    if ref.tar is not None and ref.tar not in opened.tars:
        yield Violation("unlisted-tar", here, f"the manifest does not list {ref.tar}")
        return
    try:
        data = opened.image_bytes(sample)
    except SegkitError as error:
        # of what is damaged, a reader's mend is to validate; of what is not there, it is worth
        # repeating
        yield Violation(
            "image-bytes", here, str(error) if isinstance(error, InputError) else error.message
        )
        return
    if ref.sha256 is not None and hashlib.sha256(data).hexdigest() != ref.sha256:
        yield Violation(
            "image-checksum", here, "the image's bytes are not those that were converted"
        )
    size = image_size(data)
    if size != (sample.width, sample.height):
        found = "cannot be read" if size is None else f"is {size[0]} x {size[1]}"
        yield Violation(
            "image-size", here, f"the image {found}, its labels {sample.width} x {sample.height}"
        )


def _count(samples: list[Sample]) -> shards.ShardCounts | None:
    try:
        return shards.count(samples)
    except ValueError:  # a malformed mask, which is reported with its segment
        return None
