"""Folders in which every image has an annotation file of its own, such as labelme's JSON."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath

from segkit import storage
from segkit.errors import InputError
from segkit.file_names import is_unsafe
from segkit.images.check import IMAGE_EXTENSIONS
from segkit.sources.drawn_source import DrawnSource
from segkit.sources.file_format import reject_other_formats
from segkit.sources.image_files import read_source_file, visible_files
from segkit.sources.ledger import ImageError
from segkit.sources.source import Record

MAX_BYTES = 256 << 20
"""A larger annotation file of one image is not read."""
_REQUESTS = 32  # files of a store that are read at a time


def stem(name: str) -> str:
    """Return a relative path without its extension."""
    return str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).suffix else name


def image_candidates(names: Iterable[str]) -> tuple[str, ...]:
    """Return the possible paths of an image, without absolute ones if there are others.

    Absolute paths come from other machines. Names with `..` stay, so that they are refused.
    """
    distinct = tuple(dict.fromkeys(name for name in names if name))
    climbing = [name for name in distinct if ".." in name.split("/")]
    return tuple(climbing) or tuple(n for n in distinct if not is_unsafe(n)) or distinct


@dataclass(frozen=True)
class ImageFolder:
    """The images in a folder and its subfolders."""

    names: tuple[str, ...]
    """Sorted paths relative to the folder."""

    @classmethod
    def of(cls, folder: Path) -> "ImageFolder":
        """List a folder; one that does not exist has no images."""
        if not folder.is_dir():
            return cls(())
        names = (name for name in visible_files(folder) if _extension(name) in IMAGE_EXTENSIONS)
        return cls(tuple(sorted(names)))

    @cached_property
    def _by_stem(self) -> dict[str, str]:
        return {stem(name): name for name in reversed(self.names)}

    @cached_property
    def _by_last_part(self) -> dict[str, str | None]:
        """Stem without folders -> the image, or None if several have it."""
        images: dict[str, str | None] = {}
        for name in self._by_stem.values():
            last = stem(name).rpartition("/")[2]
            images[last] = None if last in images else name
        return images

    def by_path(self, name: str) -> str | None:
        """Return the image with a path, except for the extension."""
        return self._by_stem.get(stem(name))

    def by_name(self, name: str) -> str | None:
        """Return the only image with the name of a path, in any folder."""
        return self._by_last_part.get(stem(name).rpartition("/")[2])


@dataclass(frozen=True)
class AnnotationFiles(DrawnSource):
    """Base of the sources with an annotation file for each image."""

    entries: tuple[Record, ...] = ()
    """`data` is the path of the annotation file under `annotations`, None if there is none."""

    def all_records(self) -> Iterator[Record]:
        """Yield the images in the order of `entries`."""
        yield from self.entries

    def read_file(self, record: Record) -> bytes:
        """Return the bytes of a record's annotation file.

        Raises:
            ImageError: there is none (`not-annotated`), or it cannot be read
                (`unreadable-annotations`).
        """
        name = f"image {record.id}"
        if record.data is None:
            message = "no annotation file has the name of the image"
            file = self.images / record.file_name
            raise ImageError("not-annotated", message, file=file, record=name)
        return read_annotations(self.annotations / record.data, record=name)


def read_annotations(path: Path, *, record: str) -> bytes:
    """Read an annotation file; ImageError (`unreadable-annotations`) if that is impossible."""
    try:
        data = read_source_file(path, "annotations", record=record)
    except ImageError as error:
        message = str(error)
    else:
        if len(data) <= MAX_BYTES:
            return data
        message = f"has {len(data)} bytes, more than annotations of one image"
    raise ImageError("unreadable-annotations", message, file=path, record=record)


def list_annotations(folder: Path, extension: str, command: str, *, hint: str) -> list[str]:
    """Return the sorted relative paths of the files with an extension.

    Args:
        folder: its subfolders are searched.
        extension: in lower case.
        command: subcommand of the format, for a file that is given in the place of a folder.
        hint: what to give.

    Raises:
        InputError: there is no such folder, or no such file in it.
    """
    if not folder.is_dir():
        reject_other_formats(folder, command)
        message = "is a file, not a folder" if folder.is_file() else "no such folder"
        raise InputError(message, file=folder, hint=hint)
    names = sorted(name for name in visible_files(folder) if _extension(name) == extension)
    if not names:
        raise InputError(f"contains no file of {extension}", file=folder, hint=hint)
    return names


def read_all(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, bytes | None]]:
    """Yield each name with the bytes of its file, in order; None if it cannot be read."""

    def read(name: str) -> bytes | None:
        try:
            return read_annotations(folder / name, record=name)
        except ImageError:
            return None  # reported when its record is converted

    if not storage.is_remote(folder):
        yield from ((name, read(name)) for name in names)
        return
    with ThreadPoolExecutor(_REQUESTS) as pool:
        remaining = iter(names)
        while batch := list(islice(remaining, 8 * _REQUESTS)):
            yield from zip(batch, pool.map(read, batch), strict=True)


def broken_file(folder: Path, problems: Mapping[str, str]) -> InputError | None:
    """The error that names the first file that cannot be read; None where all can be.

    Args:
        folder: of the files.
        problems: name of each file that cannot be read -> the reason, which completes a sentence.
    """
    if not problems:
        return None
    name, problem = next(iter(problems.items()))
    others = f", and {len(problems) - 1} more that cannot be read" if len(problems) > 1 else ""
    hint = f"fix the file{others}, or save it again with the labeling tool"
    return InputError(problem, file=folder / name, hint=hint)


def _extension(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
