"""Records what a shard is made from: settings, records, and the state of every file that is read.

A shard of an interrupted conversion is used only if all of it still agrees.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from segkit import storage
from segkit.file_states import FileStates

OTHER_SETTINGS = "other settings"
OTHER_RECORDS = "other images or annotations"
_encode = msgspec.msgpack.Encoder(enc_hook=str).encode


@dataclass
class Provenance:
    """What a shard is made from."""

    settings: str
    """Digest of the source's options and classes, and of the version of segkit."""
    records: str
    """Digest of the shard's records: names of images, raw annotations, names of masks."""
    files: dict[str, str | None] = field(default_factory=dict)
    """File -> its state before it was read; None if it did not exist."""
    folders: dict[str, str] = field(default_factory=dict)
    """Folder of the files -> its path without links."""

    def to_json(self) -> dict[str, Any]:
        """Return the provenance as JSON values; `from_json` is the inverse."""
        return vars(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Provenance":
        """Read the provenance back from the values of `to_json`."""
        return cls(**data)

    def disagreement(self, current: "Provenance") -> str | None:
        """Return `OTHER_SETTINGS` or `OTHER_RECORDS` where they differ; files are not compared."""
        if self.settings != current.settings:
            return OTHER_SETTINGS
        return OTHER_RECORDS if self.records != current.records else None

    def changed_file(self, states: FileStates) -> str | None:
        """Return the first file or folder whose state is no longer the recorded one, or None."""
        for folder, place in self.folders.items():
            if states.place(storage.location(folder)) != place:
                return folder
        for name, state in self.files.items():
            if states(storage.location(name)) != state:
                return name
        return None


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Return the digest of JSON values."""
    return hashlib.sha256(_encode(settings)).hexdigest()


def records_digest(records: Iterable[object]) -> str:
    """Return the digest of everything that dataclasses hold, in their order."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(_encode(record))
    return digest.hexdigest()


_recording: ContextVar[tuple[Provenance, FileStates] | None] = ContextVar("recording", default=None)


@contextmanager
def recorded_files(provenance: Provenance, states: FileStates) -> Iterator[None]:
    """Record every file of a source that is read inside the block."""
    token = _recording.set((provenance, states))
    try:
        yield
    finally:
        _recording.reset(token)


def note_file(path: Path) -> None:
    """Record the state of a file that is about to be read, or that may not exist."""
    if (recording := _recording.get()) is None:
        return
    provenance, states = recording
    name = str(path)
    if name not in provenance.files:
        provenance.files[name] = states(path)
        folder = os.path.dirname(name)  # noqa: PTH120 - of a URL too, and four times as fast
        if folder not in provenance.folders:
            provenance.folders[folder] = states.place(path.parent)


def note_missing(path: Path) -> None:
    """Record that a file did not exist when it was read."""
    if (recording := _recording.get()) is not None:
        recording[0].files[str(path)] = None
