"""The digests of a checkpoint's files, which its `digests.json` lists. Imports no torch."""

import json
from pathlib import Path

from segkit.atomic import sync
from segkit.storage import file_sha256

DIGESTS = "digests.json"
"""SHA-256 of each other file; checkpoints of earlier versions have none."""


def write_digests(checkpoint: Path) -> None:
    """Write the digests of all files of a checkpoint into it, flushed to the disk."""
    (checkpoint / DIGESTS).write_text(json.dumps(_digests(checkpoint)), "utf-8")
    sync(checkpoint / DIGESTS)


def has_digests(checkpoint: Path) -> bool:
    """Whether a checkpoint lists the digests of its files."""
    return (checkpoint / DIGESTS).is_file()


def damaged_files(checkpoint: Path) -> list[str]:
    """Names of the files that are missing, new, or not the ones that were written.

    Raises:
        ValueError: the list of digests is itself damaged.
        OSError: a file cannot be read.
    """
    written = json.loads((checkpoint / DIGESTS).read_text("utf-8"))
    if not isinstance(written, dict):
        raise ValueError(f"{DIGESTS} does not list digests")
    digests = _digests(checkpoint)
    names = sorted(written.keys() | digests.keys())
    return [name for name in names if written.get(name) != digests.get(name)]


def _digests(checkpoint: Path) -> dict[str, str]:
    return {
        file.name: file_sha256(file)
        for file in sorted(checkpoint.iterdir())
        if file.name != DIGESTS and file.is_file()
    }
