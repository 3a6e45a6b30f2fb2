"""Publish versions v1, v2, ... of a directory.

A version is written to a hidden directory, becomes visible by one atomic rename, and never changes
afterwards; only what an unfinished version needed is deleted then, see `segkit.shards.leftovers`. A
store behind a URL has no rename: see `segkit.shards.upload`.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from segkit import parse, storage
from segkit.atomic import disk_errors, make_folder, sync
from segkit.cache import cache_root, try_lock
from segkit.errors import InputError, SegkitError
from segkit.shards.leftovers import LEFTOVERS, delete, delete_leftovers, write_leftovers
from segkit.shards.unfinished import (
    FINGERPRINT,
    WRITER,
    partials,
    read_fingerprint,
    require_replaceable,
    write_writer,
)
from segkit.shards.upload import CLAIM, abandon, upload
from segkit.shards.versions import MANIFEST, parse_spec, versions
from segkit.stopping import cleanup_on_stop

Content = Literal["shards", "run", "bank"]
"""The `type` in the manifest of a version."""
_NOUNS = {"shards": "shard set", "run": "run", "bank": "feature bank"}
_LOCK = ".lock"


@dataclass(frozen=True)
class Staging:
    """A version that is being written."""

    path: Path
    """Its directory until `publish`, always on this machine."""
    destination: Path
    version: int
    resumable: bool
    """Whether the same command resumes what is killed or stopped."""
    resumed: bool
    """Whether `path` holds the finished part of a killed run with the same fingerprint."""
    discarded: bool
    """Whether finished shards of another run were deleted, which could not be used."""
    inode: int
    """Of `path`, which tells it from a directory that another process makes in its place."""

    @property
    def home(self) -> Path:
        """The directory from which names in the version are relative.

        It is the final directory, or one of another number at the same depth.
        """
        return self.destination / f"v{self.version}"

    def publish(self, files: Collection[str] | None = None) -> Path:
        """Make the version visible, complete and flushed to the disk, and return its path.

        Args:
            files: names of the files of the version; None for all that were written. The others
                stay until the version is visible, or the upload is complete, so that a process that
                is killed before can be resumed.

        Raises:
            SegkitError: the directory was deleted meanwhile, another file has the version's name,
                or a store refused the upload or failed.
        """
        self.require_in_place()
        entries = {path.name: path for path in self.path.iterdir()}
        needless = {FINGERPRINT, WRITER, LEFTOVERS, CLAIM}
        keep = (entries.keys() if files is None else {*files}) - needless
        if storage.is_remote(self.destination):
            published = upload(
                self.path,
                self.destination,
                first=self.version,
                resumable=self.resumable,
                files=[entries[name] for name in keep & entries.keys() if name != MANIFEST],
            )
            remove_partial(self.path)
            return published
        _require_free(self.home)
        write_leftovers(self.path, entries.keys() - keep - {LEFTOVERS})
        for folder, _, names in os.walk(self.path):
            for name in names:
                sync(Path(folder) / name)
            sync(Path(folder))
        self.path.rename(self.home)
        sync(self.destination)
        delete_leftovers(self.home)
        return self.home

    def discard(self) -> None:
        """Delete the directory, because nothing is to be published."""
        self.require_in_place()
        if storage.is_remote(self.destination):
            abandon(self.path, self.destination)
        remove_partial(self.path)

    @property
    def in_place(self) -> bool:
        """Whether the directory is the one that was made at the start."""
        try:
            return self.path.stat().st_ino == self.inode
        except OSError:
            return False

    def require_in_place(self) -> None:
        """Raise SegkitError if the directory was deleted, or replaced by another process."""
        if not self.in_place:
            message = f"{self.path}: was deleted or replaced while it was written"
            raise SegkitError(message, hint="run it again")


def interrupted(destination: Path) -> dict[str, Any] | None:
    """The fingerprint of a killed run that was writing the next version; None without one."""
    return read_fingerprint(_next_version(_local_directory(destination))[0])


def unfinished(destination: Path) -> list[Path]:
    """The local folders of the unfinished versions of a directory."""
    return partials(_local_directory(destination))


@contextmanager
def staging(
    destination: storage.StrPath,
    fingerprint: Mapping[str, Any],
    *,
    inputs: Iterable[str],
    resume: bool,
    content: Content = "shards",
    precious: bool = False,
) -> Iterator[Staging]:
    """Lock `destination`, and yield a directory in which to write its next version.

    Files that are written but not published stay there (`.vN.partial`), so that a later call can
    resume; without `resume`, a failure removes those that are not precious and new folders in which
    nothing was written. For a remote destination, lock and directory are on this machine, under
    `segkit.cache.cache_root`, and stay.

    Args:
        destination: directory of the versions; created if missing.
        fingerprint: JSON values that decide the content (inputs and their sizes, options, taxonomy,
            tool version); the files of a killed run with another fingerprint are deleted.
        inputs: digest or path of each set, run and bank that is read, which `segkit prune` spares.
        resume: whether to keep the files of a killed run with the same fingerprint.
        content: the `type` of the version's manifest.
        precious: whether the files are kept, whatever happens, for a later call of the same
            command. Only such a call, which asks its user before, deletes precious files.

    Raises:
        SegkitError: another live process is writing there, the disk is full, or the directory was
            deleted while it was written.
        InputError: the destination is not a directory that can be written to, its versions are of
            another type, a file or folder of the user has the name of the new version, or an
            unfinished version is precious and `precious` is false.
    """
    destination = storage.location(destination)
    _check_type(destination, content)
    directory = _local_directory(destination)
    new_folders = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    make_folder(directory, directory)
    with (
        try_lock(directory / _LOCK, destination),
        _empty_folders_removed(directory, new_folders),
        disk_errors(destination),
        _prepare(directory, destination, dict(fingerprint), resume, precious) as stage,
    ):
        keep = resume or precious or directory != destination
        removal = nullcontext() if keep else _removed_on_failure(stage)
        with removal, _deletion_errors(stage):  # removed only once the error is known
            write_writer(stage.path, list(inputs), precious=precious)
            yield stage


@contextmanager
def _empty_folders_removed(directory: Path, new_folders: Sequence[Path]) -> Iterator[None]:
    """Where the block raises, remove the folders that were made for it if they hold only a lock."""
    try:
        yield
    except BaseException:
        with suppress(OSError):  # something else is in them
            if new_folders and {entry.name for entry in directory.iterdir()} == {_LOCK}:
                (directory / _LOCK).unlink()
                for folder in new_folders:
                    folder.rmdir()
        raise


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold the lock of a local directory of versions; SegkitError if another process writes."""
    with try_lock(directory / _LOCK, directory):
        yield


@contextmanager
def _deletion_errors(stage: Staging) -> Iterator[None]:
    """Raise the error of a directory that was deleted, instead of those that follow from it."""
    try:
        yield
    except InputError:
        raise
    except (OSError, SegkitError):
        if not storage.is_remote(stage.destination) and not stage.home.exists():
            stage.require_in_place()
        raise


@contextmanager
def _removed_on_failure(stage: Staging) -> Iterator[None]:
    with cleanup_on_stop():
        try:
            yield
        except BaseException:
            if stage.in_place:
                shutil.rmtree(stage.path, ignore_errors=True)
            raise


def check_staging(destination: Path, content: Content) -> None:
    """Raise InputError where `staging` would refuse files of the type that are not precious."""
    _check_type(destination, content)
    for partial in unfinished(destination):
        require_replaceable(partial, destination)


def _check_type(destination: Path, content: Content) -> None:
    """Raise InputError if versions of the type cannot be written to the directory.

    It holds versions of another type, the newest of which a new version would hide, or it is called
    `DIR@v2` and could not be found again.
    """
    if parse_spec(destination)[1] is not None:
        hint = "versions get the next number by themselves"
        raise InputError("names a version, not a directory", file=destination, hint=hint)
    published = versions(destination)
    if not published:
        return
    try:
        manifest = parse.read_json(published[max(published)] / MANIFEST)
    except InputError:
        return  # damaged; a new version is the repair
    if isinstance(manifest, dict) and manifest.get("type", content) != content:
        noun = _NOUNS.get(str(manifest["type"]), "version of another kind")
        message = f"holds a {noun} and nothing else"
        raise InputError(message, file=destination, hint="choose another directory")


def _local_directory(destination: Path) -> Path:
    """The local directory in which the versions of a destination are written."""
    if not storage.is_remote(destination):
        return destination
    key = hashlib.sha256(str(destination).encode()).hexdigest()[:16]
    return cache_root() / "uploads" / f"{destination.name}-{key}"


def require_unlocked(destination: Path) -> None:
    """Raise SegkitError if another live process is writing there; creates nothing."""
    file = _local_directory(destination) / _LOCK
    if file.is_file() and os.access(file, os.W_OK):
        try_lock(file, destination).close()


def _next_version(directory: Path) -> tuple[Path, int]:
    """Directory and number of the version that is written next."""
    version = max(versions(directory), default=0) + 1
    return directory / f".v{version}.partial", version


@contextmanager
def _prepare(
    directory: Path, destination: Path, fingerprint: dict[str, Any], resume: bool, precious: bool
) -> Iterator[Staging]:
    """Keep the files that can be resumed, and delete those of other killed runs."""
    path = _next_version(directory)[0]
    version = _next_version(destination)[1]
    left = partials(directory)
    for entry in left:
        _require_partial(entry)
        if not precious:
            require_replaceable(entry, destination)
    if directory == destination:
        _require_free(destination / f"v{version}")
        for published in versions(destination).values():
            delete_leftovers(published)
    text = json.dumps(fingerprint, sort_keys=True, default=str)
    file = path / FINGERPRINT
    resumed = resume and file.is_file() and storage.read_bytes(file) == text.encode()
    discarded = not resumed and any(path.glob("labels-*.parquet"))
    for entry in left:
        if not (resumed and entry == path):
            if directory != destination:
                abandon(entry, destination)
            remove_partial(entry)
    if not resumed:
        path.mkdir()
        file.write_text(text, "utf-8")
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)  # keeps its inode from being reused
    try:
        inode = os.fstat(descriptor).st_ino
        yield Staging(path, destination, version, resume, resumed, discarded, inode)
    finally:
        os.close(descriptor)


def _require_partial(path: Path) -> None:
    """Raise InputError if a file or folder is not the unfinished version that its name says."""
    if path.is_symlink() or not path.is_dir():
        message = "is not a folder, but has the name of an unfinished version"
    elif not any(path.iterdir()) or any((path / n).is_file() for n in (FINGERPRINT, MANIFEST)):
        return  # an earlier segkit that was killed while it published left no fingerprint
    else:
        message = f"has the name of an unfinished version, but no {FINGERPRINT}"
    raise InputError(message, file=path, hint="move it away, or choose another directory")


def remove_partial(path: Path) -> None:
    """Delete an unfinished version; fingerprint and manifest, by which it is recognized, last."""
    for entry in path.iterdir():
        if entry.name not in (FINGERPRINT, MANIFEST):
            delete(entry)
    shutil.rmtree(path)


def _require_free(path: Path) -> None:
    """Raise InputError if a file or folder that is not a version has the name of the next one."""
    if os.path.lexists(path):
        message = f"has the name of the next version, but no {MANIFEST}"
        raise InputError(message, file=path, hint="move it away, or choose another directory")
