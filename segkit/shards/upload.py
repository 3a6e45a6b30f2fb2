"""Publishing into an object store, which can neither lock nor rename a folder.

A version is written in a local folder first, which survives a kill. Then its number is claimed by
an object that only one writer can create (`vN/upload.json`), the files are put, and last, again by
exclusive creation, the manifest: a version without manifest is not there for any reader. A claimed
number belongs to one writer until its manifest is there, so two writers never mix their files: the
second takes the next number. docs/shards.md says what this asks of a store.
"""

import json
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Any

from segkit import storage
from segkit.errors import SegkitError

CLAIM = "upload.json"
_TRIES = 20


def upload(
    folder: Path, destination: Path, *, first: int, manifest: str, leave_out: Collection[Path]
) -> Path:
    """Publish a local folder as a version of a remote destination, or go on where a killed upload
    stopped.

    Args:
        folder: the finished version.
        destination: directory of the versions.
        first: the number to try first.
        manifest: name of the file that makes the version visible.
        leave_out: files of the folder that are not part of the version.

    Raises:
        SegkitError: the store refused something or went away; what was uploaded is used by the next
            call.
    """
    last = folder / manifest
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path not in {*leave_out, last}
    ]
    try:
        version = _claim(folder, destination, first, manifest)
        there = storage.list_files(version)
        for path in files:
            name = path.relative_to(folder).as_posix()
            if (
                there.get(name) != path.stat().st_size
            ):  # no other writes here, and an object is there whole or not
                storage.put(path, version / name)
        _create(version / manifest, last.read_bytes())
        storage.delete(version / CLAIM)
    except SegkitError:
        raise
    except Exception as error:  # each package has its own types for a failed connection or login
        what = (
            f"the upload stopped ({storage.reason(error)}); run it again: what was uploaded is kept"
        )
        raise SegkitError(f"{destination}: {what}") from error
    return version


def abandon(folder: Path, destination: Path, manifest: str) -> None:
    """Remove from the store what a killed upload of a folder left there, before the folder is
    thrown away."""
    claim = _read_claim(folder)
    if claim is None:
        return
    version = destination / f"v{claim['version']}"
    there = storage.list_files(version)
    if manifest not in there and CLAIM in there and _owner(version) == claim["token"]:
        for name in sorted(
            there, key=lambda name: name == CLAIM
        ):  # the claim last: it guards the others
            storage.delete(version / name)


def _claim(folder: Path, destination: Path, first: int, manifest: str) -> Path:
    """The version directory that this folder's upload owns."""
    if claim := _read_claim(folder):
        version = destination / f"v{claim['version']}"
        published_already = _bytes(version / manifest) == (folder / manifest).read_bytes()
        if published_already or _owner(version) == claim["token"]:
            return version
    token = uuid.uuid4().hex
    for version in (destination / f"v{number}" for number in range(first, first + _TRIES)):
        data = json.dumps({"version": int(version.name[1:]), "token": token})
        (folder / CLAIM).write_text(
            data, "utf-8"
        )  # first here, so that a kill does not leave a claim that nobody knows
        try:
            _create(version / CLAIM, data.encode())
        except FileExistsError:
            continue
        if storage.list_files(version).keys() == {CLAIM}:
            return version
        storage.delete(
            version / CLAIM
        )  # published meanwhile, or what somebody left without a claim
    raise SegkitError(
        f"v{first} to {version.name} are claimed by other uploads, or hold files of none: remove what is dead"
    )


def _create(path: Path, data: bytes) -> None:
    """Create an object that is not there; FileExistsError where another one is (a repeated request
    finds its own)."""
    try:
        storage.create(path, data)
    except FileExistsError:
        if _bytes(path) != data:
            raise


def _read_claim(folder: Path) -> dict[str, Any] | None:
    mark = folder / CLAIM
    return json.loads(mark.read_text("utf-8")) if mark.is_file() else None


def _owner(version: Path) -> str | None:
    data = _bytes(version / CLAIM)
    return json.loads(data)["token"] if data else None


def _bytes(path: Path) -> bytes | None:
    try:
        return storage.read_bytes(path)
    except FileNotFoundError:
        return None
