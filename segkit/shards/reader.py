"""Reading a version of a shard set: samples in order or by index, and exactly the bytes of an
image."""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from segkit import storage
from segkit.errors import InputError, SegkitError
from segkit.images.decode import decode_rgb
from segkit.sample import Sample
from segkit.shards import arrow
from segkit.shards.manifest import Manifest, Parent
from segkit.shards.publish import MANIFEST, resolve
from segkit.taxonomy import Taxonomy

_TELLS = "`segkit validate` tells what is damaged"


class ShardSet:
    """A published version of a shard set; cheap to open, to pickle and to fork.

    Attributes:
        path: the version's directory; what remote ones are is told in `segkit.storage`.
        version: its number.
        manifest: its manifest.
        taxonomy: its classes.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.version = int(path.name[1:])
        self.manifest = manifest
        self.taxonomy = Taxonomy.from_json(manifest.taxonomy)

    @classmethod
    def open(cls, spec: str | Path) -> "ShardSet":
        """Open `DIR` (the newest version), `DIR@v2`, or a version's own directory; InputError where
        it is no set."""
        path = resolve(spec).resolve()
        return cls(path, read_manifest(path))

    def __reduce__(self) -> tuple[Any, ...]:
        return (ShardSet, (self.path, self.manifest))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __repr__(self) -> str:
        return f"ShardSet({str(self.path)!r}, {self.manifest.kind}, {len(self)} images)"

    def as_parent(self, directory: Path) -> Parent:
        """How the manifest of a version in `directory` names this one as its parent."""
        path = storage.relocate(".", self.path, directory)
        return Parent(path=path, version=self.version, digest=self.manifest.digest)

    def samples(self) -> Iterator[Sample]:
        """All samples in order, one row group in memory at a time."""
        for part in self.manifest.parts:
            with self._labels(part.labels) as file:
                for group in range(file.num_row_groups):
                    yield from self._read(file, group)

    def sample(self, index: int) -> Sample:
        """The sample at a 0-based index; reads one row group, and keeps the last few."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = bisect_right(self._ends, index)
        row = index - (self._ends[number - 1] if number else 0)
        return self._row(number, row)

    @cached_property
    def tars(self) -> dict[str, str]:
        """Every tar that rows may name (relative to `path`) and its SHA-256."""
        own = {part.images: part.images_sha256 or "" for part in self.manifest.parts if part.images}
        return {**own, **self.manifest.image_roots}

    def image_bytes(self, sample: Sample) -> bytes:
        """The image file's bytes as the source had them.

        Raises:
            InputError: the set holds labels only, or the image's file or tar is not there.
            SegkitError: the tar is shorter than the row says.
        """
        ref = sample.image
        if ref.tar is not None:
            return self._from_tar(sample)
        if ref.path is None:
            raise InputError(
                "the set holds labels only",
                file=self.path,
                record=sample.id,
                hint="convert with images",
            )
        try:
            return storage.read_bytes(storage.join(self.path, ref.path))
        except OSError as error:
            hint = "restore the file or convert again"
            raise InputError(
                f"image not readable ({storage.reason(error)})", file=ref.path, hint=hint
            ) from error

    def image(self, sample: Sample) -> NDArray[np.uint8]:
        """The image as (H, W, 3) uint8 RGB; EXIF orientation is ignored, as the labels ignore it.

        Raises:
            InputError: the bytes are no image, or one of another size than the labels.
        """
        hint = "replace the image and convert again"
        pixels = decode_rgb(
            self.image_bytes(sample), file=sample.file_name, record=sample.id, hint=hint
        )
        if pixels.shape[:2] != (sample.height, sample.width):
            found = f"{pixels.shape[1]} x {pixels.shape[0]}"
            message = f"the image is {found}, its labels {sample.width} x {sample.height}"
            raise InputError(message, file=sample.file_name, record=sample.id, hint="convert again")
        return pixels

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(part.rows for part in self.manifest.parts))

    @cached_property
    def _row(self) -> Callable[[int, int], Sample]:
        @lru_cache(maxsize=32)
        def group(number: int, index: int) -> pa.Table:
            with self._labels(self.manifest.parts[number].labels) as file:
                return self._table(file, index)

        @lru_cache(maxsize=256)
        def ends(number: int) -> list[int]:
            with self._labels(self.manifest.parts[number].labels) as file:
                meta = file.metadata
                return list(
                    accumulate(meta.row_group(i).num_rows for i in range(meta.num_row_groups))
                )

        def row(number: int, index: int) -> Sample:
            bounds = ends(number)
            place = bisect_right(bounds, index)
            start = bounds[place - 1] if place else 0
            # a table is read in a millisecond; it is turning all its rows into objects that would
            # take fifty
            return next(arrow.from_table(group(number, place).slice(index - start, 1)))

        return row

    def _labels(self, name: str) -> pq.ParquetFile:
        try:
            return storage.parquet_file(self.path / name)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(self.path / name, error) from error

    def _read(self, file: pq.ParquetFile, group: int) -> Iterator[Sample]:
        return arrow.from_table(self._table(file, group))

    def _table(self, file: pq.ParquetFile, group: int) -> pa.Table:
        try:
            return file.read_row_group(group, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(self.path, error) from error

    def _from_tar(self, sample: Sample) -> bytes:
        path = storage.join(self.path, str(sample.image.tar))
        try:
            data = storage.read_range(path, sample.image.offset, sample.image.length)
        except OSError as error:
            hint = "restore it beside this version; a layer needs its parent's images"
            raise InputError(
                f"image tar not readable ({storage.reason(error)})", file=path, hint=hint
            ) from error
        if len(data) != sample.image.length:
            raise SegkitError(f"{path}: too short to hold image {sample.id}", hint=_TELLS)
        return data


def read_manifest(path: Path) -> Manifest:
    """The manifest of a shard-set version; InputError where it is none."""
    file = path / MANIFEST
    try:
        return Manifest.model_validate_json(storage.read_bytes(file))
    except OSError as error:
        raise InputError(
            f"not readable ({storage.reason(error)})", file=file, hint="check the path"
        ) from error
    except ValidationError as error:
        if any(each["loc"] == ("type",) and each["input"] == "run" for each in error.errors()):
            raise is_run(path) from error
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message, hint = (
            f"not the manifest of a shard set ({first['msg']})",
            "give what segkit convert has written",
        )
        raise InputError(message, file=file, record=where or None, hint=hint) from error


def is_run(path: Path) -> InputError:
    """What to say of a version that is a run where a shard set is asked for."""
    return InputError(
        "is a run, not a shard set", file=path, hint="give what segkit convert has written"
    )


def _damaged(path: Path, error: Exception) -> SegkitError:
    return SegkitError(f"{path}: labels not readable ({str(error).splitlines()[0]})", hint=_TELLS)
