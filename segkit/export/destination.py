"""Where an export goes: a directory that appears whole or not at all, safe names in it, and what
was left out."""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError, SegkitError
from segkit.masks import rle
from segkit.sample import Sample
from segkit.shards.reader import ShardSet


@dataclass
class ExportReport:
    """What an export wrote, and what its format could not hold."""

    images: int = 0
    annotations: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Segments left out, by reason."""
    altered: Counter[str] = field(default_factory=Counter)
    """Segments that were written in a form that is not quite theirs, by what was done to them."""
    files: list[str] = field(default_factory=list)
    """The files that tell the rest, relative to the directory."""

    def leave_out(self, reason: str, count: int) -> None:
        """Count segments that the format cannot hold."""
        if count:
            self.dropped[reason] += count

    def to_json(self) -> dict[str, Any]:
        """As `segkit export --json` prints it."""
        return {
            "images": self.images,
            "annotations": self.annotations,
            "dropped": dict(sorted(self.dropped.items())),
            "altered": dict(sorted(self.altered.items())),
            "files": self.files,
        }


@contextmanager
def output(out: Path) -> Iterator[Path]:
    """A directory to write into that becomes `out` when the block ends well.

    Raises:
        InputError: `out` is there and not empty, or cannot be made.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("is there already and not empty", file=out, hint="give a new directory")
    draft = out.parent / f".{out.name}.partial"
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    except OSError as error:
        raise InputError(
            f"cannot be written to ({error.strerror})", file=out, hint="choose another"
        ) from error
    yield draft
    draft.replace(out)


def need(data: ShardSet, kinds: tuple[str, ...], format_name: str, why: str) -> None:
    """Raise InputError where the set's kind does not fit the format."""
    if data.manifest.kind not in kinds:
        message = f"a set of kind {data.manifest.kind} cannot be exported as {format_name}: {why}"
        raise InputError(message, file=data.path, hint=f"give a set of kind {' or '.join(kinds)}")


class Names:
    """File names inside one folder of an export: each leads nowhere else and occurs once."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._taken = folder, dict[PurePosixPath, str]()

    def path(self, sample: Sample, suffix: str | None = None) -> Path:
        """The path for a sample's file, its folder made; `suffix` replaces the image's own.

        Raises:
            InputError: the name leads out of the folder, or another sample has it.
        """
        name = PurePosixPath(sample.file_name)
        if name.is_absolute() or ".." in name.parts or not name.name or "\0" in sample.file_name:
            message = f"the file name {sample.file_name!r} leads out of the export"
            raise InputError(
                message, record=f"image {sample.id}", hint="convert from a source with plain names"
            )
        name = name.with_suffix(suffix) if suffix else name
        if (other := self._taken.setdefault(name, sample.id)) != sample.id:
            message = f"images {other} and {sample.id} would both be written to {name}"
            raise InputError(
                message, file=self._folder, hint="export them apart, see `segkit split`"
            )
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def painted(masks: Sequence[tuple[int, bytes]], sample: Sample, where: str) -> NDArray[np.int32]:
    """The (H, W) map of a sample's masks, each by its number, 0 elsewhere.

    Raises:
        SegkitError: two masks share a pixel, which `where` it goes cannot hold.
    """
    numbers = rle.paint(masks, sample.height, sample.width)
    if int(rle.areas([mask for _, mask in masks]).sum()) != np.count_nonzero(numbers):
        raise SegkitError(f"image {sample.id}: masks share pixels, which {where} cannot hold")
    return numbers


def write_images(data: ShardSet, folder: Path) -> None:
    """Write every image file as the source had it."""
    names = Names(folder)
    for sample in data.samples():
        names.path(sample).write_bytes(data.image_bytes(sample))


def split_name(data: ShardSet) -> str:
    """What stands behind `instances_` and `panoptic_` in file names: the split, or the set's
    name."""
    name = data.manifest.split or data.manifest.name
    return (
        "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name) or "set"
    )
