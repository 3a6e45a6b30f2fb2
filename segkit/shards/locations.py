"""Find the files that a version names, and refuse the names of a crafted set that lead elsewhere.

- The version's own files are in its directory.
- A tar of another version is one that the manifest there lists, with the SHA-256 that this one
  gives: a set can only show images that its author had.
- An image file lies in the set's own directory, in a folder from which this user made such a set on
  this machine, or in one of $SEGKIT_IMAGES_ROOT (`--images-root`).
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from segkit import parse, storage
from segkit.atomic import new_cache_file
from segkit.cache import cache_root
from segkit.errors import InputError
from segkit.file_names import UnsafeNameError, resolve_inside
from segkit.shards.manifest import Manifest
from segkit.shards.relative_names import join
from segkit.shards.versions import MANIFEST

IMAGES_ROOT = "SEGKIT_IMAGES_ROOT"
"""Environment variable of further folders whose images may be read, separated as in PATH."""
_SEPARATOR = re.compile(f"{re.escape(os.pathsep)}(?!//)")
"""Between folders, not inside of `s3://`."""
_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "memory"})
"""Protocols of object stores, the only URLs that a set may name."""
_VERSION = re.compile(r"v[1-9]\d*")
_RESTORE = "restore it beside this version; a layer needs its parent's images"


class Locations:
    """The files that the rows and the manifest of one version name."""

    def __init__(self, version: Path, manifest: Manifest) -> None:
        """Take over a manifest.

        Args:
            version: the version's directory, resolved.
            manifest: its manifest.
        """
        self.version, self.manifest = version, manifest
        self.tar = lru_cache(maxsize=None)(self._tar)

    def part(self, name: str) -> Path:
        """The path of one of the version's own files; InputError if a link leads elsewhere."""
        try:
            return resolve_inside(self.version, name)
        except UnsafeNameError as error:
            hint = "copy the file itself to this place"
            raise InputError(str(error), file=self.version, hint=hint) from None

    def image(self, name: str) -> Path:
        """The path of an image file that a row names.

        Raises:
            InputError: it lies in no folder whose images may be read.
        """
        path = resolved(locate(self.version, name, self._folders))
        remote = storage.is_remote(path), storage.is_remote(self.version)
        same_bucket = all(remote) and _bucket(path) == _bucket(self.version)
        if same_bucket or any(str(folder) in self._folders for folder in path.parents):
            return path
        folder = str(path.parent)
        hint = f"if you trust the set, allow its images with --images-root {folder}"
        message = "the image file lies outside of the folders that may be read for this set"
        raise InputError(message, file=name, hint=hint)

    @cached_property
    def _folders(self) -> frozenset[str]:
        """The folders whose images may be read."""
        texts = filter(None, _SEPARATOR.split(os.environ.get(IMAGES_ROOT, "")))
        given = (storage.location(text).resolve() for text in texts)
        return frozenset(map(str, (self.version.parent, *given, *_remembered())))

    def _tar(self, name: str) -> Path:
        """The path of a tar that a row names.

        Raises:
            InputError: the manifest does not list it, or it is not a part of the version that holds
                it, or not the one that this version was made from.
        """
        if any(part.images == name for part in self.manifest.parts):
            return self.part(name)
        digest = self.manifest.image_roots.get(name)
        if digest is None:
            hint = "`segkit validate` lists the damage"
            raise InputError(f"the manifest lists no tar {name!r}", file=self.version, hint=hint)
        path = locate(self.version, name)
        try:
            folder = resolved(path.parent)
            listed, tar = _listed_tars(folder), resolve_inside(folder, path.name)
        except (InputError, UnsafeNameError) as error:
            message = f"image tar not readable ({error})"
            raise InputError(message, file=path, hint=_RESTORE) from error
        if listed.get(path.name) != digest:
            message = "the image tar is not the one that this version was made from"
            raise InputError(message, file=path, hint=_RESTORE)
        return tar


def parent_path(version: Path, name: str) -> Path:
    """The directory of the parent that a manifest names; it need not exist.

    Raises:
        InputError: it cannot be that of a version, or is the URL of something else than an object
            store.
    """
    path = resolved(locate(version, name))
    if not _VERSION.fullmatch(path.name):
        message = f"names {name!r}, which cannot be a version"
        raise InputError(message, file=version / MANIFEST, hint="make the version again")
    return path


def image_names(version: Path, manifest: Manifest) -> Iterator[str]:
    """The image files that the rows of a version name."""
    locations = Locations(version, manifest)
    for part in manifest.parts:
        with storage.parquet_file(locations.part(part.labels)) as file:
            for batch in file.iter_batches(columns=["path"], use_threads=False):
                yield from filter(None, batch.column(0).to_pylist())


def remember_folders(files: Iterable[str], root: Path | None) -> None:
    """Let this user read image files by reference, now and later: their folders are remembered.

    Each folder is noted in $SEGKIT_CACHE/image-folders, under a hash of its path.

    Args:
        files: paths or URLs of the files.
        root: the folder that the user gave, whose subfolders need no notes of their own. Files
            elsewhere, to which it has links, do.
    """
    top = root and root.resolve()
    folders = {str(top)} if top and top != top.parent else set()
    for folder in sorted({file.rpartition("/")[0] or "/" for file in files}):
        if not _covers(folders, folder):
            folders.add(folder)
    try:
        _remember(folders)
    except OSError:  # a cache that cannot be written to: for this process only
        allow_images(folders)


def allow_images(folders: Iterable[str]) -> None:
    """Add folders to $SEGKIT_IMAGES_ROOT, for this process and those that it starts."""
    others = filter(None, [os.environ.get(IMAGES_ROOT)])
    os.environ[IMAGES_ROOT] = os.pathsep.join([*others, *folders])


def _remember(folders: Iterable[str]) -> None:
    for folder in folders:
        name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]
        with new_cache_file(_memory() / name) as draft:
            draft.write_bytes(os.fsencode(folder))


def _covers(folders: set[str], folder: str) -> bool:
    parts = folder.split("/")
    return any("/".join(parts[:end]) in folders for end in range(1, len(parts) + 1))


def _remembered() -> Iterator[str]:
    """The folders of `remember_folders`."""
    place = _memory()
    for note in place.iterdir() if place.is_dir() else ():
        if not note.name.startswith("."):
            yield os.fsdecode(note.read_bytes())


def _memory() -> Path:
    return cache_root() / "image-folders"


def locate(version: Path, name: str, allowed: Iterable[str] = ()) -> Path:
    """The location that a name in a version's manifest or rows means, not resolved.

    Args:
        version: the version's directory.
        name: the name.
        allowed: folders that may have other URLs than those of object stores.

    Raises:
        InputError: no file can have the name, or it is a URL of another kind than object stores
            and the version itself, which is not requested.
    """
    protocol, separator, _ = name.partition("://")
    own = str(getattr(version, "protocol", ""))
    known = not separator or protocol.lower() in _STORES or protocol == own
    if "\0" in name or not (known or any(name.startswith(f"{folder}/") for folder in allowed)):
        hint = "only files and object stores such as s3:// can be named"
        raise InputError(f"names {name!r}", file=version / MANIFEST, hint=hint)
    return join(version, name)


def resolved(path: Path) -> Path:
    """A path without links and `..`; InputError where that is not possible."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, an impossible name
        message = f"cannot be found ({storage.reason(error)})"
        raise InputError(message, file=path, hint="check the path") from error


def labels_only(version: Path, record: str | None = None) -> InputError:
    """The error of a set, or of one of its images, that refers to no image file."""
    hint = "convert it without --images-by none"
    return InputError("the set holds labels only", file=version, record=record, hint=hint)


def _bucket(path: Path) -> tuple[str, str]:
    remote: Any = path
    return str(remote.protocol), str(remote.drive)


def _listed_tars(version: Path) -> dict[str, str]:
    """The tars that the manifest of a version lists as its own, and their SHA-256."""
    manifest = parse.read_json(version / MANIFEST)
    parts = manifest.get("parts") if isinstance(manifest, dict) else None
    return {
        str(part.get("images")): str(part.get("images_sha256"))
        for part in (parts if isinstance(parts, list) else ())
        if isinstance(part, dict)
    }
