"""Finds image files without leaving their folder, and checks that they are whole."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from segkit import file_names, parse, storage
from segkit.errors import InputError
from segkit.file_names import UnsafeNameError, require_utf8
from segkit.file_states import size_lookup
from segkit.images.check import check_image
from segkit.shards.versions import MANIFEST, versions
from segkit.sources.ledger import ImageError
from segkit.sources.provenance import note_file, note_missing

_VERSION = re.compile(r"(?:^|(?<=/))v[1-9]\d*(?=/|\.(?:png|html)$)")
"""A part of a path that may be a version `vN`, or `vN.png` or `vN.html` beside it."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file that was read and is whole."""

    path: Path
    data: bytes
    width: int
    height: int
    warnings: tuple[str, ...] = ()
    """Codes of `ledger.WARNINGS`."""
    orientation: int = 1
    """As of `segkit.images.orientation`; 1 also for a picture that has been turned."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, in hex."""
        return hashlib.sha256(self.data).hexdigest()


def resolve_inside(root: Path, name: str, *, record: str) -> Path:
    """Return the path of `name` under `root`; the file need not exist.

    Raises:
        ImageError: `unsafe-path`, as `segkit.file_names.resolve_inside` decides.
    """
    if not file_names.is_unsafe(name):
        note_file(root / name)
    try:
        return file_names.resolve_inside(root, name)
    except UnsafeNameError as error:
        message, hint = str(error), error.hint
        raise ImageError("unsafe-path", message, file=root, record=record, hint=hint) from error


def find_image(root: Path, candidates: tuple[str, ...], *, record: str) -> Path:
    """Return the first candidate under `root` that is a file.

    A single candidate in a store is returned unchecked: reading it will tell.

    Raises:
        ImageError: none exists (`missing-image`), or one is outside of `root` (`unsafe-path`).
    """
    unchecked = len(candidates) == 1 and storage.is_remote(root)
    for name in candidates:
        path = resolve_inside(root, name, record=record)
        if unchecked or path.is_file():
            return path
    tried = f" (tried {', '.join(candidates)})" if len(candidates) > 1 else ""
    message, path, hint = f"no such image{tried}", root / candidates[0], None
    others = (file_names.other_case(root / name) for name in candidates)
    if other := next(filter(None, others), None):
        message += f", but {other}, which differs in case"
        hint = "rename the file, or write its name so in the annotations"
    raise ImageError("missing-image", message, file=path, record=record, hint=hint)


def image_sizer(root: Path) -> Callable[[tuple[str, ...]], int]:
    """Return a function from candidates to the bytes of the first one that exists, or 0."""
    size = size_lookup(root)

    def image_bytes(candidates: tuple[str, ...]) -> int:
        sizes = (size(name) for name in candidates)
        return next((count for count in sizes if count is not None), 0)

    return image_bytes


def read_source_file(path: Path, noun: str, *, record: str) -> bytes:
    """Read an image or a mask of a source.

    Args:
        path: the file.
        noun: "image" or "mask", as in the codes `missing-image` and `unreadable-mask`.
        record: the record that errors name.

    Raises:
        ImageError: `missing-<noun>` or `unreadable-<noun>`.
    """
    note_file(path)
    try:
        return storage.read_bytes(path)
    except FileNotFoundError:
        note_missing(path)
        message = f"no such {noun}"
        raise ImageError(f"missing-{noun}", message, file=path, record=record) from None
    except OSError as error:
        message = f"cannot be read ({error.strerror})"
        raise ImageError(f"unreadable-{noun}", message, file=path, record=record) from error


def read_picture(path: Path, *, record: str) -> Picture:
    """Read an image file once and check that it is whole: its bytes, stored size and warnings.

    Raises:
        ImageError: `missing-image`, or it cannot be read or decoded (`unreadable-image`).
    """
    return check_picture(read_source_file(path, "image", record=record), path, record=record)


def check_picture(data: bytes, path: Path, *, record: str) -> Picture:
    """Check that the bytes of an image are whole; `path` is the name that errors give.

    Raises:
        ImageError: they cannot be decoded (`unreadable-image`).
    """
    try:
        info = check_image(data, path.suffix.lower())
    except ValueError as error:
        raise ImageError("unreadable-image", str(error), file=path, record=record) from error
    return Picture(path, data, info.width, info.height, info.warnings, info.orientation)


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Each folder and its files; hidden folders and loops of links are left out."""

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            message = f"the folder is not readable ({error.strerror})"
            raise InputError(message, file=error.filename, hint="check its permissions") from error

    for name, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        place = Path(name)
        folders[:] = [
            inner for inner in folders if not (inner.startswith(".") or _is_loop(place / inner))
        ]
        yield place, files


def _is_loop(folder: Path) -> bool:
    """Whether a folder is a link to one that it is in."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


class _PublishedFiles:
    """The files under a folder that segkit published there, by the manifests of the versions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._is_published = lru_cache(maxsize=None)(self._find_manifest)

    def __contains__(self, name: str) -> bool:
        """Whether a path under the folder is that of a file of a version, or drawn from one."""
        return any(self._is_published(name[: part.end()]) for part in _VERSION.finditer(name))

    def _find_manifest(self, name: str) -> bool:
        """Whether the folder of a relative path is a version, or `predict` wrote it beside some."""
        version = PurePosixPath(name)
        if version.parent.name in ("overlays", "native"):
            predictions = self.folder / version.parent.with_name("predictions")
            if any(map(_is_version, versions(predictions).values())):
                return True
        return _is_version(self.folder / version)


def _is_version(folder: Path) -> bool:
    """Whether a folder has a manifest of segkit."""
    try:
        manifest = parse.read_json(folder / MANIFEST)
    except InputError:
        return False
    return isinstance(manifest, dict) and str(manifest.get("schema")).startswith("segkit.")


def visible_files(folder: Path) -> Iterator[str]:
    """Yield the relative paths of the files of a folder and its subfolders that belong to a user.

    Left out are files whose path has a part that begins with a dot, and what segkit published
    inside the folder: versions, with the pictures and reports beside them, and the overlays and
    native files of predictions. Links to folders are followed, except to those that they are in.

    Raises:
        InputError: a name is not UTF-8, or a folder cannot be read.
    """
    if storage.is_remote(folder):
        paths: Iterable[str] = storage.list_files(folder)
    else:
        paths = (
            (place / name).relative_to(folder).as_posix()
            for place, files in _walk(folder)
            for name in files
        )
    published = _PublishedFiles(folder)
    for path in paths:
        if not any(part.startswith(".") for part in path.split("/")) and path not in published:
            if not path.isascii():
                require_utf8(folder / path)
            yield path
