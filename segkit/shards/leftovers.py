"""Delete what only the unfinished version needed, once the version is visible.

A kill before the rename that makes a version visible must leave all that is needed to resume: the
fingerprint, the records of finished shards, checkpoints. So they take their new name with the
version, which lists them in `leftovers.json`, and are deleted then; after a kill, by the next
writer of the directory.
"""

import json
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from segkit import parse
from segkit.errors import InputError

LEFTOVERS = "leftovers.json"
"""Names of the files and folders in a version that are yet to be deleted."""


def write_leftovers(version: Path, names: Iterable[str]) -> None:
    """List the files and folders that `delete_leftovers` is to delete."""
    (version / LEFTOVERS).write_text(json.dumps(sorted(names)), "utf-8")


def delete_leftovers(version: Path) -> None:
    """Delete what a visible version lists, as far as the system lets it, and then the list."""
    try:
        names = parse.read_json(version / LEFTOVERS)
    except InputError:  # there are none
        return
    listed = set(map(str, names)) if isinstance(names, list) else set()
    with suppress(OSError):
        # the folder's own entries: a listed name that leads out of the version is none of them
        for entry in [entry for entry in version.iterdir() if entry.name in listed]:
            with suppress(OSError):
                delete(entry)
        if listed.isdisjoint(entry.name for entry in version.iterdir()):
            (version / LEFTOVERS).unlink()


def delete(path: Path) -> None:
    """Delete a file, a link or a folder."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
