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

from segkit import parse, storage
from segkit.atomic import replace_bytes
from segkit.errors import InputError, SegkitError
from segkit.file_states import FileStates
from segkit.shards.versions import MANIFEST

CLAIM = "upload.json"
_MAX_TRIES = 20


def upload(
    folder: Path,
    destination: Path,
    *,
    first: int,
    files: Collection[Path],
    resumable: bool,
) -> Path:
    """Publish a local folder as a version of a remote destination, or resume a killed upload.

    Args:
        folder: the finished version.
        destination: directory of the versions.
        first: the number to try first.
        files: the files of the version, except for its manifest.
        resumable: whether the same command uses what was uploaded; otherwise it starts anew.

    Returns:
        The version's directory.

    Raises:
        SegkitError: the store refused something or failed.
    """
    last = (folder / MANIFEST).read_bytes()
    try:
        version = _claim(folder, destination, first)
        if _read_optional(version / MANIFEST) != last:
            uploaded = _keep_unchanged(folder, files, version)
            for path in sorted(files):
                name = path.relative_to(folder).as_posix()
                # no other process writes here, and an object is never there in part
                if name not in uploaded:
                    storage.put(path, version / name)
            _create(version / MANIFEST, last)
        storage.delete(version / CLAIM)
    except SegkitError:
        raise
    except Exception as error:  # each package has its own types for a failed connection or login
        message = f"the upload stopped ({storage.reason(error)})"
        hint = "run it again: it resumes after the uploaded files" if resumable else "run it again"
        raise SegkitError(f"{destination}: {message}", hint=hint) from error
    return version


def abandon(folder: Path, destination: Path) -> None:
    """Remove the files of a killed upload from the store, before its local folder is deleted."""
    claim = _read_claim(folder)
    if claim is None:
        return
    version = destination / f"v{claim['version']}"
    uploaded = storage.list_files(version)
    if MANIFEST not in uploaded and CLAIM in uploaded and _owner(version) == claim["token"]:
        # the claim last: it guards the other files
        for name in sorted(uploaded, key=lambda name: name == CLAIM):
            storage.delete(version / name)


def _keep_unchanged(folder: Path, files: Collection[Path], version: Path) -> set[str]:
    """Delete what a killed upload put of files that have changed; returns the names of the rest.

    The local claim records the state of each file before it is put, and only after the deletions:
    whenever a process is killed, an object that exists is of the recorded state.
    """
    states = FileStates()
    claim = _read_claim(folder) or {}
    current = {path.relative_to(folder).as_posix(): states(path) for path in files}
    recorded = claim.get("files", {})
    uploaded = storage.list_files(version).keys() - {CLAIM}
    kept = {name for name in uploaded if name in current and recorded.get(name) == current[name]}
    for name in uploaded - kept:
        storage.delete(version / name)
    replace_bytes(folder / CLAIM, json.dumps({**claim, "files": current}).encode())
    return kept


def _claim(folder: Path, destination: Path, first: int) -> Path:
    """The version directory that belongs to the upload of this folder."""
    if claim := _read_claim(folder):
        version = destination / f"v{claim['version']}"
        published = _read_optional(version / MANIFEST)
        if published == (folder / MANIFEST).read_bytes():
            return version
        if _owner(version) == claim["token"]:
            if published is None:
                return version
            storage.delete(version / CLAIM)  # the input has changed since it was published
    token = uuid.uuid4().hex
    for number in range(first, first + _MAX_TRIES):
        version, claim = destination / f"v{number}", {"version": number, "token": token}
        # locally first, so that a kill leaves no claim in the store that no folder knows
        replace_bytes(folder / CLAIM, json.dumps(claim).encode())
        try:
            _create(version / CLAIM, json.dumps(claim).encode())
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
    """The claim of a folder's upload; None if there is none."""
    file = folder / CLAIM
    return _parse_claim(file.read_bytes(), file) if file.is_file() else None


def _parse_claim(data: bytes, file: Path) -> dict[str, Any] | None:
    try:
        claim = parse.parse_json(data, file=file)
    except InputError:
        return None
    valid = isinstance(claim, dict) and isinstance(claim.get("version"), int) and "token" in claim
    return claim if valid else None


def _owner(version: Path) -> str | None:
    data = _read_optional(version / CLAIM)
    claim = _parse_claim(data, version / CLAIM) if data else None
    return claim["token"] if claim else None


def _read_optional(path: Path) -> bytes | None:
    try:
        return storage.read_bytes(path)
    except FileNotFoundError:
        return None
