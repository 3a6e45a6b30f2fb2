"""Find the versions v1, v2, ... of a directory, and publish new ones.

A version is written to a hidden directory, becomes visible by one atomic rename, and never changes
afterwards. A store behind a URL has no rename: see `segkit.shards.upload`.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from segkit import storage
from segkit.atomic import disk_errors, sync
from segkit.errors import InputError, SegkitError
from segkit.shards.upload import CLAIM, abandon, upload
from segkit.stopping import cleanup_on_stop
from segkit.storage import cache_root

MANIFEST = "manifest.json"
_FINGERPRINT = "fingerprint.json"
_LOCK = ".lock"
_VERSION = re.compile(r"v([1-9]\d*)")
_PARTIAL = re.compile(r"\.v[1-9]\d*\.partial")


def parse_spec(spec: str | Path) -> tuple[Path, int | None]:
    """The directory and the version number of `DIR@v2`; None, the newest, for `DIR`."""
    match = re.fullmatch(r"(.+)@v([1-9]\d*)", str(spec), re.DOTALL)
    return (storage.location(match[1]), int(match[2])) if match else (storage.location(spec), None)


def versions(directory: Path) -> dict[int, Path]:
    """The published versions of a directory, in ascending order."""
    if not directory.is_dir():
        return {}
    numbered = {
        int(match[1]): entry
        for entry in directory.iterdir()
        if (match := _VERSION.fullmatch(entry.name))
    }
    return {n: numbered[n] for n in sorted(numbered) if (numbered[n] / MANIFEST).is_file()}


def resolve(spec: str | Path) -> Path:
    """The version directory that `DIR`, `DIR@v2` or the version directory's own path names.

    Raises:
        InputError: there is no published version, or not that one.
    """
    directory, number = parse_spec(spec)
    if number is None and _VERSION.fullmatch(directory.name) and (directory / MANIFEST).is_file():
        return directory
    published = versions(directory)
    if not published:
        hint = "check the path" if directory.exists() else "no such directory"
        raise InputError("holds no published version", file=directory, hint=hint)
    if number is not None and number not in published:
        hint = f"published: {', '.join(f'v{known}' for known in published)}"
        raise InputError(f"has no version v{number}", file=directory, hint=hint)
    return published[number or max(published)]


@dataclass(frozen=True)
class Staging:
    """A version that is being written."""

    path: Path
    """Its directory until `publish`, always on this machine."""
    destination: Path
    version: int
    resumed: bool
    """Whether `path` holds the finished part of a killed run with the same fingerprint."""

    @property
    def home(self) -> Path:
        """The directory from which names in the version are relative.

        It is the final directory, or one of another number at the same depth.
        """
        return self.destination / f"v{self.version}"

    def publish(self, *, scratch: Sequence[str] = ()) -> Path:
        """Make the version visible, complete and flushed to the disk, and return its path.

        Args:
            scratch: patterns of files that are not part of it. For a remote destination, they stay
                until the upload is complete, so that a killed upload can be resumed.

        Raises:
            SegkitError: a store refused the upload, or failed.
        """
        patterns = (*scratch, _FINGERPRINT, CLAIM)
        leave_out = [path for pattern in patterns for path in self.path.glob(pattern)]
        if storage.is_remote(self.destination):
            published = upload(
                self.path,
                self.destination,
                first=self.version,
                manifest=MANIFEST,
                leave_out=leave_out,
            )
            shutil.rmtree(self.path)
            return published
        for path in leave_out:
            path.unlink()
        for folder, _, files in os.walk(self.path):
            for name in files:
                sync(Path(folder) / name)
            sync(Path(folder))
        self.path.rename(self.home)
        sync(self.destination)
        return self.home


def interrupted(destination: Path) -> dict[str, Any] | None:
    """The fingerprint of a killed run that was writing the next version; None without one."""
    file = _next_version(_local_directory(destination))[0] / _FINGERPRINT
    return json.loads(file.read_text("utf-8")) if file.is_file() else None


@contextmanager
def staging(
    destination: str | Path,
    fingerprint: Mapping[str, Any],
    *,
    resume: bool,
    content: Literal["shards", "run"] = "shards",
) -> Iterator[Staging]:
    """Lock `destination`, and yield a directory in which to write its next version.

    Files that are written but not published stay there (`.vN.partial`), so that a later call can
    resume; without `resume`, a failure removes those of a local shard set. For a remote
    destination, lock and directory are on this machine, under `segkit.storage.cache_root`.

    Args:
        destination: directory of the versions; created if missing.
        fingerprint: JSON values that decide the content (inputs and their sizes, options, taxonomy,
            tool version); the files of a killed run with another fingerprint are deleted.
        resume: whether to keep the files of a killed run with the same fingerprint.
        content: the `type` of the version's manifest.

    Raises:
        SegkitError: another live process is writing there, or the disk is full.
        InputError: the destination is not a directory that can be written to, or its versions are
            of the other type.
    """
    destination = storage.location(destination)
    _check_type(destination, content)
    directory = _local_directory(destination)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / _LOCK).open("w")
    except OSError as error:
        message = f"cannot be written to ({error.strerror})"
        raise InputError(message, file=directory, hint="choose another directory") from error
    with lock:
        _lock(lock.fileno(), destination)
        stage = _prepare(directory, destination, dict(fingerprint), resume)
        with disk_errors(destination):
            if resume or content == "run" or directory != destination:
                yield stage
            else:
                with _removed_on_failure(stage.path):
                    yield stage


@contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    with cleanup_on_stop():
        try:
            yield
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise


def _check_type(destination: Path, content: str) -> None:
    """Raise InputError if the directory holds versions of the other type.

    A new version would hide the newest of those.
    """
    published = versions(destination)
    if not published:
        return
    try:
        manifest = json.loads(storage.read_bytes(published[max(published)] / MANIFEST))
    except (OSError, ValueError):
        return  # damaged; a new version is the repair
    if manifest.get("type", content) != content:
        message = f"holds a {'run' if content == 'shards' else 'shard set'} and nothing else"
        raise InputError(message, file=destination, hint="choose another directory")


def _local_directory(destination: Path) -> Path:
    """The local directory in which the versions of a destination are written."""
    if not storage.is_remote(destination):
        return destination
    key = hashlib.sha256(str(destination).encode()).hexdigest()[:16]
    return cache_root() / "uploads" / f"{destination.name}-{key}"


def _lock(descriptor: int, destination: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        message = f"{destination}: another process is writing here"
        raise SegkitError(message, hint="wait until it ends") from None


def _next_version(directory: Path) -> tuple[Path, int]:
    """Directory and number of the version that is written next."""
    version = max(versions(directory), default=0) + 1
    return directory / f".v{version}.partial", version


def _prepare(
    directory: Path, destination: Path, fingerprint: dict[str, Any], resume: bool
) -> Staging:
    """Keep the files that can be resumed, and delete those of other killed runs."""
    path = _next_version(directory)[0]
    version = _next_version(destination)[1]
    text = json.dumps(fingerprint, sort_keys=True, default=str)
    file = path / _FINGERPRINT
    resumed = resume and file.is_file() and file.read_text("utf-8") == text
    for entry in directory.iterdir():
        if _PARTIAL.fullmatch(entry.name) and not (resumed and entry == path):
            if directory != destination:
                abandon(entry, destination, MANIFEST)
            shutil.rmtree(entry)
    if not resumed:
        path.mkdir()
        file.write_text(text, "utf-8")
    return Staging(path, destination, version, resumed)
