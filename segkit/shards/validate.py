"""Check a whole version: files by their checksums, rows by the schema, samples by themselves."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from segkit import storage
from segkit.errors import InputError, SegkitError, first_line
from segkit.file_states import size_lookup
from segkit.images.decode import image_size
from segkit.sample import Sample
from segkit.shards import arrow
from segkit.shards.check_manifest import check_manifest
from segkit.shards.consistency import Violation, check_sample
from segkit.shards.header import build_statistics
from segkit.shards.label_files import DAMAGE_HINT, has_schema, read_group
from segkit.shards.manifest import Part
from segkit.shards.reader import ShardSet, read_manifest
from segkit.shards.shard import count_samples
from segkit.shards.sidecar import ShardCounts
from segkit.shards.versions import MANIFEST
from segkit.storage import file_sha256


def validate(
    version: Path, *, advance: Callable[[int], None] = lambda rows: None
) -> Iterator[Violation]:
    """Every violation of a version of a shard set, file by file, image by image.

    Args:
        version: the version's directory.
        advance: called with the number of rows of each finished row group.
    """
    try:
        data = ShardSet(version.resolve(), read_manifest(version, verify=False))
    except InputError as error:
        yield Violation("manifest", MANIFEST, str(error))
        return
    yield from check_manifest(data)
    yield from _check_files(data)
    yield from _Labels(data, advance).check()


class _Labels:
    """Checks the label files of a set, and counts what they hold."""

    def __init__(self, data: ShardSet, advance: Callable[[int], None]) -> None:
        self.data, self.advance = data, advance
        self.ids: set[str] = set()
        self.counts: list[ShardCounts] = []
        self.complete = True
        """Whether every row group is in `counts`."""

    def check(self) -> Iterator[Violation]:
        for part in self.data.manifest.parts:
            yield from self._check_part(part)
        statistics = build_statistics(self.data.taxonomy, self.counts)
        if self.complete and statistics != self.data.manifest.statistics:
            yield Violation("statistics", MANIFEST, "the statistics are not those of the labels")

    def _check_part(self, part: Part) -> Iterator[Violation]:
        try:
            path = self.data.locations.part(part.labels)
        except InputError as error:
            self.complete = False
            yield Violation("missing-file", part.labels, str(error))
            return
        file_violations = list(_check_labels_file(path, part))
        yield from file_violations
        if any(violation.code == "schema" for violation in file_violations):
            self.complete = False
            return
        for rows in _read_row_groups(path):
            if isinstance(rows, Violation):
                self.complete = False
                if not file_violations:
                    yield rows
                continue
            try:
                self.counts.append(count_samples(rows))
            except ValueError:  # a malformed mask, which is reported with its segment
                self.complete = False
            for sample in rows:
                for item in self._check_row(sample):
                    yield Violation(item.code, f"{part.labels}: {item.where}", item.detail)
            self.advance(len(rows))

    def _check_row(self, sample: Sample) -> Iterator[Violation]:
        yield from check_sample(sample, self.data.taxonomy, self.data.manifest.kind)
        if sample.id in self.ids:
            detail = "another image of the set has this id"
            yield Violation("duplicate-id", f"image {sample.id}", detail)
        self.ids.add(sample.id)
        yield from _check_image(self.data, sample)


def _check_files(data: ShardSet) -> Iterator[Violation]:
    """Compare tars and extra files with the manifest."""
    extra_files = data.manifest.extra_files
    for name, digest in {**data.tars, **extra_files}.items():
        find = data.locations.part if name in extra_files else data.locations.tar
        try:
            path = find(name)
        except InputError as error:
            yield Violation("missing-file", name, str(error))
            continue
        yield from _check_file(path, name, digest)
    file_size = size_lookup(data.path)
    for part in data.manifest.parts:
        size = file_size(part.images) if part.images else 0
        if size not in (None, part.images_bytes):
            detail = f"{size} bytes, the manifest says {part.images_bytes}"
            yield Violation("file-size", part.images or part.labels, detail)


def _check_file(path: Path, name: str, listed: str) -> Iterator[Violation]:
    try:
        digest = file_sha256(path)
    except OSError as error:
        yield Violation("missing-file", name, f"not readable ({storage.reason(error)})")
        return
    if digest != listed:
        yield Violation("checksum", name, f"SHA-256 is {digest}, not {listed}")


def _check_labels_file(path: Path, part: Part) -> Iterator[Violation]:
    name = part.labels
    for violation in _check_file(path, name, part.labels_sha256):
        yield violation
        if violation.code == "missing-file":
            return
    try:
        with storage.parquet_file(path) as file:
            rows, schema = file.metadata.num_rows, file.schema_arrow
    except (OSError, ValueError, pa.ArrowException) as error:
        yield Violation("labels-unreadable", name, first_line(error))
        return
    if not has_schema(schema):
        detail = "the columns are not those of schemas/sample.schema.json"
        yield Violation("schema", name, detail)
    if rows != part.rows:
        yield Violation("row-count", name, f"{rows} rows, the manifest says {part.rows}")


def _read_row_groups(path: Path) -> Iterator[list[Sample] | Violation]:
    try:
        with storage.parquet_file(path) as file:
            for index in range(file.num_row_groups):
                yield _read_row_group(file, index, path.name)
    except (OSError, ValueError, pa.ArrowException) as error:
        yield Violation("labels-unreadable", path.name, first_line(error))


def _read_row_group(file: pq.ParquetFile, index: int, name: str) -> list[Sample] | Violation:
    try:
        return list(arrow.Rows(read_group(file, index)))
    except (OSError, ValueError, pa.ArrowException) as error:
        place = f"{name}: row group {index}"
        return Violation("labels-unreadable", place, first_line(error))


def _check_image(data: ShardSet, sample: Sample) -> Iterator[Violation]:
    """The image's bytes exist, are those that were converted, and have the labels' size."""
    place, image = f"image {sample.id}", sample.image
    images_by = data.manifest.images_by
    if (images_by != "embed" and image.tar) or (images_by == "none" and image.path):
        detail = f"the row names {image.tar or image.path}, the manifest says {images_by}"
        yield Violation("images-by", place, detail)
    if image.tar is None and image.path is None:
        if images_by != "none":
            yield Violation("no-image", place, "the row names neither a tar nor a file")
        return
    if image.tar is not None and image.tar not in data.tars:
        yield Violation("unlisted-tar", place, f"the manifest does not list {image.tar}")
        return
    try:
        content = data.image_bytes(sample, verify=False, cached=False)
    except SegkitError as error:
        text = str(error).removesuffix(f"; {DAMAGE_HINT}")
        yield Violation("image-bytes", place, text)
        return
    if image.sha256 is not None and hashlib.sha256(content).hexdigest() != image.sha256:
        detail = "the image's bytes are not those that were converted"
        yield Violation("image-checksum", place, detail)
    size = image_size(content)
    if size != (sample.width, sample.height):
        state = "cannot be read" if size is None else f"is {size[0]} x {size[1]}"
        detail = f"the image {state}, its labels {sample.width} x {sample.height}"
        yield Violation("image-size", place, detail)
