"""Read a version of a shard set: samples in order or by index, and the bytes of their images."""

import hashlib
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from functools import cached_property, lru_cache, partial
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from segkit import storage
from segkit.errors import InputError, SegkitError
from segkit.images.decode import decode_rgb
from segkit.sample import Sample
from segkit.shards import arrow, label_files
from segkit.shards.byte_cache import ByteCache
from segkit.shards.labeled_image import LabeledImage
from segkit.shards.locations import Locations, labels_only
from segkit.shards.manifest import Manifest, Parent, Part
from segkit.shards.manifest_file import read_typed
from segkit.shards.read_ahead import ReadAhead
from segkit.shards.versions import MANIFEST, resolve, version_number
from segkit.taxonomy import Taxonomy

_COPY_HINT = "copy the set again from where it is intact, or convert again"
_SET_HINT = "give a set that segkit convert has written"


class ShardSet:
    """A published version of a shard set; cheap to open, to pickle and to fork.

    Attributes:
        path: the version's directory, which may be remote (see `segkit.storage`).
        version: its number.
        manifest: its manifest.
        taxonomy: its classes.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.version = version_number(path)
        self.manifest = manifest
        self.taxonomy = Taxonomy.from_json(manifest.taxonomy, file=path / MANIFEST)
        self._fetching: tuple[int, ReadAhead] | None = None

    @classmethod
    def open(cls, spec: storage.StrPath) -> "ShardSet":
        """Open `DIR` (the newest version), `DIR@v2`, or a version's own directory.

        Raises:
            InputError: there is no shard set, or not that version.
        """
        path = resolve(spec).resolve()
        opened = cls(path, read_manifest(path))
        if storage.is_remote(path):
            opened._cache  # noqa: B018 - an invalid size is reported now
        return opened

    def __reduce__(self) -> tuple[Any, ...]:
        return (ShardSet, (self.path, self.manifest))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __repr__(self) -> str:
        return f"ShardSet({str(self.path)!r}, {self.manifest.kind}, {len(self)} images)"

    def as_parent(self, destination: storage.StrPath) -> Parent:
        """This version as a parent of any version under the directory `destination`."""
        return Parent.from_version(self.path, self.manifest.digest, destination)

    def __getitem__(self, index: int) -> LabeledImage:
        """The image at an index, with its labels; negative indices count from the end."""
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        sample = self.sample(position, check_masks=True)
        return LabeledImage(sample, self.taxonomy, self.image)

    def __iter__(self) -> Iterator[LabeledImage]:
        """All images in order, with their labels."""
        samples = self.samples(check_masks=True)
        return (LabeledImage(sample, self.taxonomy, self.image) for sample in samples)

    def require_present(self) -> None:
        """Raise SegkitError if the version has been deleted or moved; a store is not asked."""
        if not storage.is_remote(self.path) and not (self.path / MANIFEST).is_file():
            message = f"{self.path}: was deleted or moved after it was published"
            raise SegkitError(message, hint="run it again")

    def samples(self, *, check_masks: bool = False) -> Iterator[Sample]:
        """All samples in order, with one row group in memory at a time.

        Args:
            check_masks: check that the run lengths of every mask, and of void, fill the image. Not
                necessary where they are not used, or decoded by a function that checks them.

        Raises:
            InputError: labels cannot be read, or hold values that cannot be computed with.
        """
        for part in self.manifest.parts:
            path = self.path / part.labels
            with self._open_labels(part) as file:
                for group in range(file.num_row_groups):
                    rows = self._read_group(file, group, part)
                    samples = label_files.checked_samples(rows, self.taxonomy, path)
                    if check_masks:
                        samples = iter(checked := list(samples))
                        label_files.check_masks(checked, path)
                    yield from samples

    def sample(self, index: int, *, check_masks: bool = False) -> Sample:
        """The sample at a 0-based index; reads its row group and caches the last few.

        Arguments and errors are those of `samples`.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        part = bisect_right(self._ends, index)
        row = index - (self._ends[part - 1] if part else 0)
        path = self.path / self.manifest.parts[part].labels
        (sample,) = label_files.checked_samples([self._read_row(part, row)], self.taxonomy, path)
        if check_masks:
            label_files.check_masks([sample], path)
        return sample

    def samples_at(self, indices: Sequence[int]) -> Iterator[Sample]:
        """The samples at 0-based indices; those of a remote set are read in threads."""
        if not storage.is_remote(self.path):
            return (self.sample(index) for index in indices)
        by_part: dict[int, list[int]] = {}
        for index in indices:
            by_part.setdefault(bisect_right(self._ends, index), []).append(index)

        def read(group: list[int]) -> list[tuple[int, Sample]]:
            return [(index, self.sample(index)) for index in group]

        pairs = self._fetcher.pool.map(read, by_part.values())
        samples = {index: sample for group in pairs for index, sample in group}
        return (samples[index] for index in indices)

    def read_ahead(
        self, samples: Iterable[Sample], needed: Callable[[Sample], bool] = lambda sample: True
    ) -> Iterator[Sample]:
        """Samples of this set, unchanged; the images of the next ones are fetched from a store.

        Args:
            samples: their images are read in this order, each soon after its sample is yielded.
            needed: whether the image of a sample will be read.
        """

        def fetched(sample: Sample) -> bool:
            return self._in_store(sample) and needed(sample)

        stream = iter(samples)
        for sample in stream:
            if self._in_store(sample):
                yield from self._fetcher.samples(chain((sample,), stream), fetched)
            else:
                yield sample

    def image_ids(self, part: int | None = None) -> Iterator[str]:
        """The image ids of a part, or of all, in order; reads one column of the labels."""
        for number in range(len(self.manifest.parts)) if part is None else [part]:
            with self._open_labels(self.manifest.parts[number]) as file:
                column = file.read(["id"], use_threads=False)[0]
                for chunk in column.chunks:
                    yield from chunk.to_pylist()

    def image_digests(self) -> Iterator[tuple[str, str | None]]:
        """Id and SHA-256 of every image, None where its row has none; reads two columns."""
        for part in self.manifest.parts:
            with self._open_labels(part) as file:
                table = file.read(["id", "sha256"], use_threads=False)
            yield from zip(*(column.to_pylist() for column in table), strict=True)

    @cached_property
    def locations(self) -> Locations:
        """The files that rows and manifest name."""
        return Locations(self.path, self.manifest)

    @cached_property
    def tars(self) -> dict[str, str]:
        """Every tar that rows may name (relative to `path`) and its SHA-256."""
        tars = {
            part.images: part.images_sha256 or "" for part in self.manifest.parts if part.images
        }
        return {**tars, **self.manifest.image_roots}

    def image_bytes(self, sample: Sample, *, verify: bool = True, cached: bool = True) -> bytes:
        """The image file's bytes, as in the source.

        Args:
            sample: of this set.
            verify: compare the bytes with the SHA-256 in the row, where it has one.
            cached: take them from the cache of remote files, if they are there.

        Raises:
            InputError: the set holds labels only, the image's file or tar is missing or one that
                the set may not name (see `segkit.shards.locations`), or the bytes are not those
                that were converted.
            SegkitError: the tar is shorter than the row says.
        """
        data = self._read_image(sample) if cached else self._fetch_image(sample, cached=False)
        digest = sample.image.sha256
        if verify and digest is not None and hashlib.sha256(data).hexdigest() != digest:
            place = f"{sample.image.tar or sample.image.path}: image {sample.id}"
            message = "the image's bytes are not those that were converted"
            raise InputError(message, file=self.path, record=place, hint=_COPY_HINT)
        return data

    def require_images(self) -> None:
        """Raise InputError if the set holds labels only; not where images are missing."""
        if self.manifest.images_by == "none":
            raise labels_only(self.path)

    def verify_image(self, sample: Sample) -> None:
        """Raise as `image_bytes` does, but not for a sample of a set that holds labels only."""
        if sample.image.tar is not None or sample.image.path is not None:
            self.image_bytes(sample, cached=False)

    def _read_image(self, sample: Sample) -> bytes:
        early = self._fetcher.take(sample) if self._in_store(sample) else None
        return self._fetch_image(sample) if early is None else early

    def _fetch_image(self, sample: Sample, *, cached: bool = True) -> bytes:
        image = sample.image
        if image.tar is not None:
            return self._read_from_tar(sample, cached)
        if image.path is None:
            raise labels_only(self.path, sample.id)
        path = self.locations.image(image.path)
        try:
            digest = image.sha256 if cached else None
            return self._load(path, digest, lambda: storage.read_bytes(path))
        except OSError as error:
            message = f"image not readable ({storage.reason(error)})"
            hint = "restore the file or convert again"
            raise InputError(message, file=image.path, hint=hint) from error

    def image(self, sample: Sample, *, verify: bool = True) -> NDArray[np.uint8]:
        """The image as (H, W, 3) uint8 RGB; EXIF orientation is ignored, as the labels ignore it.

        Args:
            sample: of this set.
            verify: as of `image_bytes`.

        Raises:
            InputError: as of `image_bytes`; the bytes are not an image, or its size is not that of
                the labels.
        """
        data = self.image_bytes(sample, verify=verify)
        hint = "replace the image and convert again"
        pixels = decode_rgb(data, file=sample.file_name, record=sample.id, hint=hint)
        height, width = pixels.shape[:2]
        if (height, width) != (sample.height, sample.width):
            sizes = f"is {width} x {height}, its labels {sample.width} x {sample.height}"
            raise InputError(
                f"the image {sizes}", file=sample.file_name, record=sample.id, hint="convert again"
            )
        return pixels

    @cached_property
    def _ends(self) -> list[int]:
        """Index after the last row of each part."""
        return list(accumulate(part.rows for part in self.manifest.parts))

    @cached_property
    def _read_row(self) -> Callable[[int, int], Sample]:
        """A function from part and row to a sample; its caches are those of this set."""

        @lru_cache(maxsize=32)
        def read_group(part: int, group: int) -> arrow.Rows:
            with self._open_labels(self.manifest.parts[part]) as file:
                return self._read_group(file, group, self.manifest.parts[part])

        @lru_cache(maxsize=256)
        def group_ends(part: int) -> list[int]:
            with self._open_labels(self.manifest.parts[part]) as file:
                groups = range(file.metadata.num_row_groups)
                return list(accumulate(file.metadata.row_group(i).num_rows for i in groups))

        def read_row(part: int, row: int) -> Sample:
            ends = group_ends(part)
            group = bisect_right(ends, row)
            start = ends[group - 1] if group else 0
            return read_group(part, group)[row - start]

        return read_row

    @cached_property
    def crowds(self) -> int:
        """Number of segments that are crowds; reads one column of the labels."""
        total = 0
        for part in self.manifest.parts:
            with self._open_labels(part) as file:
                column = file.read(["segments.list.element.is_crowd"], use_threads=False)[0]
            total += sum(chunk.values.field("is_crowd").true_count for chunk in column.chunks)
        return total

    @cached_property
    def masks_by_class(self) -> Counter[int]:
        """Number of segments with a mask by class id; reads two columns of the labels."""
        counts: Counter[int] = Counter()
        columns = [f"segments.list.element.{name}" for name in ("class_id", "mask_from")]
        for part in self.manifest.parts:
            with self._open_labels(part) as file:
                column = file.read(columns, use_threads=False)[0]
            for chunk in column.chunks:
                segments = chunk.flatten()
                masked = segments.field("class_id").filter(segments.field("mask_from").is_valid())
                counts.update(masked.to_pylist())
        return counts

    def _open_labels(self, part: Part) -> AbstractContextManager[pq.ParquetFile]:
        path, content = self.locations.part(part.labels), None
        if storage.is_remote(path) and self._cache:
            with suppress(OSError):  # reported by `open_labels`
                content = self._cache.open(part.labels_sha256, lambda: storage.read_bytes(path))
        return label_files.open_labels(path, part.rows, content)

    @cached_property
    def _cache(self) -> ByteCache | None:
        return ByteCache.from_environment()

    def _load(self, path: Path, digest: str | None, load: Callable[[], bytes]) -> bytes:
        """Read a file or a part of it, through the cache if it is in a store."""
        if digest is None or not storage.is_remote(path) or self._cache is None:
            return load()
        return self._cache.read(digest, load)

    @property
    def _fetcher(self) -> ReadAhead:
        """The images on their way to this process; a forked child has none of its parent's."""
        if self._fetching is None or self._fetching[0] != os.getpid():
            self._fetching = os.getpid(), ReadAhead(self._fetch_image)
        return self._fetching[1]

    def _in_store(self, sample: Sample) -> bool:
        name = sample.image.tar or sample.image.path
        if name is None or storage.is_absolute(name):
            return name is not None and "://" in name
        return storage.is_remote(self.path)

    def _read_group(self, file: pq.ParquetFile, group: int, part: Part) -> arrow.Rows:
        """The rows of a row group, of images whose sizes are possible."""
        table = label_files.read_group(file, group)
        label_files.check_sizes(table, self.path / part.labels)
        return arrow.Rows(table)

    def _read_from_tar(self, sample: Sample, cached: bool) -> bytes:
        path = self.locations.tar(str(sample.image.tar))
        digest, place = sample.image.sha256, (sample.image.offset, sample.image.length)
        try:
            read = partial(storage.read_range, path, *place)
            data = self._load(path, digest if cached else None, read)
        except OSError as error:
            message = f"image tar not readable ({storage.reason(error)})"
            hint = "restore it beside this version; a layer needs its parent's images"
            raise InputError(message, file=path, hint=hint) from error
        if len(data) != sample.image.length:
            message = f"too short to hold image {sample.id}"
            raise InputError(message, file=path, hint=label_files.DAMAGE_HINT)
        return data


def read_manifest(path: Path, *, verify: bool = True) -> Manifest:
    """The manifest of a shard-set version.

    Args:
        path: the version's directory.
        verify: check the digest of the manifest, where it carries one.

    Raises:
        InputError: there is none, or it is damaged.
    """
    noun = "the manifest of a shard set"
    foreign = {"run": "is a run, not a shard set"}
    return read_typed(Manifest, path, noun=noun, hint=_SET_HINT, other_types=foreign, verify=verify)
