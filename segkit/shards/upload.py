"""Publish a version to an object store, which can neither lock nor rename a folder.

A version is written to a local folder first, which survives a kill. Then its number is claimed by
an object that only one writer can create (`vN/upload.json`), the files are put, and the manifest is
created last, again exclusively: no reader sees a version without a manifest. A claimed number
belongs to one writer until its manifest exists, so two writers never mix their files: the second
takes the next number. docs/shards.md lists the requirements on a store.
"""

import json
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Any

from segkit import storage
from segkit.errors import SegkitError

CLAIM = "upload.json"
_MAX_TRIES = 20


def upload(
    folder: Path, destination: Path, *, first: int, manifest: str, leave_out: Collection[Path]
) -> Path:
    """Publish a local folder as a version of a remote destination, or resume a killed upload.

    Args:
        folder: the finished version.
        destination: directory of the versions.
        first: the number to try first.
        manifest: name of the file that makes the version visible.
        leave_out: files of the folder that are not part of the version.

    Returns:
        The version's directory.

    Raises:
        SegkitError: the store refused something or failed; the next call uses what was uploaded.
    """
    last = folder / manifest
    skipped = {*leave_out, last}
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path not in skipped]
    try:
        version = _claim(folder, destination, first, manifest)
        uploaded = storage.list_files(version)
        for path in files:
            name = path.relative_to(folder).as_posix()
            # no other process writes here, and an object is never there in part
            if uploaded.get(name) != path.stat().st_size:
                storage.put(path, version / name)
        _create(version / manifest, last.read_bytes())
        storage.delete(version / CLAIM)
    except SegkitError:
        raise
    except Exception as error:  # each package has its own types for a failed connection or login
        message = f"the upload stopped ({storage.reason(error)})"
        hint = "run it again: it resumes after the uploaded files"
        raise SegkitError(f"{destination}: {message}", hint=hint) from error
    return version


def abandon(folder: Path, destination: Path, manifest: str) -> None:
    """Remove the files of a killed upload from the store, before its local folder is deleted."""
    claim = _read_claim(folder)
    if claim is None:
        return
    version = destination / f"v{claim['version']}"
    uploaded = storage.list_files(version)
    if manifest not in uploaded and CLAIM in uploaded and _owner(version) == claim["token"]:
        # the claim last: it guards the other files
        for name in sorted(uploaded, key=lambda name: name == CLAIM):
            storage.delete(version / name)


def _claim(folder: Path, destination: Path, first: int, manifest: str) -> Path:
    """The version directory that belongs to the upload of this folder."""
    if claim := _read_claim(folder):
        version = destination / f"v{claim['version']}"
        published = _read_optional(version / manifest) == (folder / manifest).read_bytes()
        if published or _owner(version) == claim["token"]:
            return version
    token = uuid.uuid4().hex
    for version in (destination / f"v{number}" for number in range(first, first + _MAX_TRIES)):
        data = json.dumps({"version": int(version.name[1:]), "token": token})
        # locally first, so that a kill leaves no claim in the store that no folder knows
        (folder / CLAIM).write_text(data, "utf-8")
        try:
            _create(version / CLAIM, data.encode())
        except FileExistsError:
            continue
        if storage.list_files(version).keys() == {CLAIM}:
            return version
        storage.delete(version / CLAIM)  # published meanwhile, or files without a claim
    message = f"v{first} to {version.name} are claimed by other uploads, or hold unclaimed files"
    raise SegkitError(message, hint="remove those of dead uploads")


def _create(path: Path, data: bytes) -> None:
    """Create an object; FileExistsError if there is another one (a retry finds its own)."""
    try:
        storage.create(path, data)
    except FileExistsError:
        if _read_optional(path) != data:
            raise


def _read_claim(folder: Path) -> dict[str, Any] | None:
    file = folder / CLAIM
    return json.loads(file.read_text("utf-8")) if file.is_file() else None


def _owner(version: Path) -> str | None:
    data = _read_optional(version / CLAIM)
    return json.loads(data)["token"] if data else None


def _read_optional(path: Path) -> bytes | None:
    try:
        return storage.read_bytes(path)
    except FileNotFoundError:
        return None
