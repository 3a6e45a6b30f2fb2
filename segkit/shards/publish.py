"""Versions v1, v2, ... of a directory: written aside, visible by one atomic rename, never changed
afterwards.

In a store behind a URL there is no rename: see `segkit.shards.upload`.
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
from segkit.errors import InputError, SegkitError
from segkit.shards.upload import CLAIM, abandon, upload
from segkit.storage import cache_root

MANIFEST = "manifest.json"
_FINGERPRINT = "fingerprint.json"
_LOCK = ".lock"
_VERSION = re.compile(r"v([1-9]\d*)")
_PARTIAL = re.compile(r"\.v[1-9]\d*\.partial")


def parse_spec(spec: str | Path) -> tuple[Path, int | None]:
    """The directory and version number of `DIR` (None: the newest) or `DIR@v2`."""
    match = re.fullmatch(r"(.+)@v([1-9]\d*)", str(spec), re.DOTALL)
    return (storage.location(match[1]), int(match[2])) if match else (storage.location(spec), None)


def versions(directory: Path) -> dict[int, Path]:
    """The published versions under a directory, ascending."""
    if not directory.is_dir():
        return {}
    found = {
        int(match[1]): entry
        for entry in directory.iterdir()
        if (match := _VERSION.fullmatch(entry.name))
    }
    return {
        number: found[number] for number in sorted(found) if (found[number] / MANIFEST).is_file()
    }


def resolve(spec: str | Path) -> Path:
    """The version directory that `DIR`, `DIR@v2` or the version directory's own path names.

    Raises:
        InputError: nothing is published there, or not that version.
    """
    directory, wanted = parse_spec(spec)
    if wanted is None and _VERSION.fullmatch(directory.name) and (directory / MANIFEST).is_file():
        return directory
    published = versions(directory)
    if not published:
        hint = "check the path" if directory.exists() else "no such directory"
        raise InputError("holds no published version", file=directory, hint=hint)
    if wanted is not None and wanted not in published:
        known = ", ".join(f"v{number}" for number in published)
        raise InputError(f"has no version v{wanted}", file=directory, hint=f"published are {known}")
    return published[wanted or max(published)]


@dataclass(frozen=True)
class Staging:
    """A version being written: `path` is its directory until `publish` renames or uploads it."""

    path: Path
    """On this machine, wherever the destination is."""
    destination: Path
    version: int
    resumed: bool
    """Whether `path` holds what an earlier, killed run with the same fingerprint had finished."""

    @property
    def home(self) -> Path:
        """Where names in the version count from: it will lie here, or under another number at the
        same depth."""
        return self.destination / f"v{self.version}"

    def publish(self, *, scratch: Sequence[str] = ()) -> Path:
        """Make the version visible, whole and on the disk, and return its path.

        Args:
            scratch: patterns of files that are not part of it; in a remote one's folder they stay
                until it is there, so that a killed upload can be taken up.

        Raises:
            SegkitError: a store refused the upload, or went away.
        """
        left_out = [
            path for pattern in (*scratch, _FINGERPRINT, CLAIM) for path in self.path.glob(pattern)
        ]
        if storage.is_remote(self.destination):
            published = upload(
                self.path,
                self.destination,
                first=self.version,
                manifest=MANIFEST,
                leave_out=left_out,
            )
            shutil.rmtree(self.path)
            return published
        for path in left_out:
            path.unlink()
        for folder, _, files in os.walk(self.path):
            for name in files:
                sync(Path(folder) / name)
            sync(Path(folder))
        self.path.rename(self.home)
        sync(self.destination)
        return self.home


def interrupted(destination: Path) -> dict[str, Any] | None:
    """The fingerprint of what a killed run left behind for the next version; None where there is
    nothing."""
    mark = _partial(_room(destination))[0] / _FINGERPRINT
    return json.loads(mark.read_text("utf-8")) if mark.is_file() else None


@contextmanager
def staging(
    destination: Path,
    fingerprint: Mapping[str, Any],
    *,
    resume: bool,
    content: Literal["shards", "run"] = "shards",
) -> Iterator[Staging]:
    """Hold the lock of `destination` and a directory in which to write its next version.

    What is written but not published stays there (`.vN.partial`), so that a later call can resume.
    For a remote destination lock and directory are on this machine, under
    `segkit.storage.cache_root`.

    Args:
        destination: directory of the versions; made if missing.
        fingerprint: JSON values that decide the content (inputs and their sizes, options, taxonomy,
            tool version); what a run with another fingerprint left behind is thrown away.
        resume: whether what a run with the same fingerprint left behind is kept.
        content: the `type` of the version's manifest.

    Raises:
        SegkitError: another live process is writing there.
        InputError: the destination is not a directory that can be written to, or its versions are
            of the other type.
    """
    _refuse_other(destination, content)
    room = _room(destination)
    try:
        room.mkdir(parents=True, exist_ok=True)
        lock = (room / _LOCK).open("w")
    except OSError as error:
        raise InputError(
            f"cannot be written to ({error.strerror})", file=room, hint="choose another directory"
        ) from error
    with lock:
        _take(lock.fileno(), destination)
        yield _prepare(room, destination, dict(fingerprint), resume)


def _refuse_other(destination: Path, content: str) -> None:
    """A directory holds sets or runs: the newest version of one must not hide those of the
    other."""
    published = versions(destination)
    if not published:
        return
    try:
        manifest = json.loads(storage.read_bytes(published[max(published)] / MANIFEST))
    except (OSError, ValueError):
        return  # damaged, which a new version mends
    if manifest.get("type", content) != content:
        message = (
            f"holds a {'run' if content == 'shards' else 'shard set'}: no place for anything else"
        )
        raise InputError(message, file=destination, hint="choose another directory")


def sync(path: Path) -> None:
    """Flush a file, or a directory's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _room(destination: Path) -> Path:
    """The local directory in which the versions of a destination are written."""
    if not storage.is_remote(destination):
        return destination
    key = hashlib.sha256(str(destination).encode()).hexdigest()[:16]
    return cache_root() / "uploads" / f"{destination.name}-{key}"


def _take(descriptor: int, destination: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SegkitError(
            f"{destination}: another process is writing here; wait for it to end"
        ) from None


def _partial(destination: Path) -> tuple[Path, int]:
    """Directory and number of the version that is written next."""
    version = max(versions(destination), default=0) + 1
    return destination / f".v{version}.partial", version


def _prepare(room: Path, destination: Path, fingerprint: dict[str, Any], resume: bool) -> Staging:
    path = _partial(room)[0]
    version = _partial(destination)[1]
    text = json.dumps(fingerprint, sort_keys=True, default=str)
    mark = path / _FINGERPRINT
    resumed = resume and mark.is_file() and mark.read_text("utf-8") == text
    for entry in room.iterdir():
        if _PARTIAL.fullmatch(entry.name) and not (resumed and entry == path):
            if room != destination:
                abandon(entry, destination, MANIFEST)
            shutil.rmtree(entry)
    if not resumed:
        path.mkdir()
        mark.write_text(text, "utf-8")
    return Staging(path, destination, version, resumed)
