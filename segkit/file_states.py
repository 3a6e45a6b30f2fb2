"""What the metadata of files says, here or in a store: whether one has changed, and its size."""

import hashlib
import os
import posixpath
import stat
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from segkit import storage


class FileStates:
    """The states of files: texts that differ once a file was changed, replaced or moved.

    They follow from the metadata (size, times, inode, or what a store lists), not from the bytes. A
    local file is looked up at every call. A remote folder is listed once for each instance, which
    is older than what is read later: if a file changes in between, its state differs as well.
    """

    def __init__(self) -> None:
        self._listed = lru_cache(maxsize=8)(_list_states)
        self._places = lru_cache(maxsize=64)(os.path.realpath)

    def __reduce__(self) -> tuple[Any, ...]:
        return (FileStates, ())

    def __call__(self, path: Path) -> str | None:
        """The state of a file; None if there is none."""
        try:
            if storage.is_remote(path):
                return self._listed(path.parent).get(path.name)
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                return f"{path.readlink()} {self._describe(path.stat())}"
            return self._describe(status)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        except OSError as error:
            return f"error {error.errno}"

    def place(self, folder: Path) -> str:
        """The path of a folder without links."""
        return str(folder) if storage.is_remote(folder) else str(self._places(folder))

    @staticmethod
    def _describe(status: os.stat_result) -> str:
        return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def size_lookup(root: Path) -> Callable[[str], int | None]:
    """A function from a file's name under `root` to its bytes, or None if there is no such file.

    A remote folder is listed once, since one request per file would take far longer.
    """
    if not storage.is_remote(root):
        return lambda name: _local_size(root / name)

    @lru_cache(maxsize=64)
    def sizes(folder: Path) -> dict[str, int]:
        return {name: entry["size"] for name, entry in storage.list_entries(folder).items()}

    def size(name: str) -> int | None:
        try:
            return sizes((root / name).parent).get(posixpath.basename(name))
        except ValueError:  # a name that is impossible in a URL
            return None

    return size


def _list_states(folder: Path) -> dict[str, str]:
    """The states of the files of a remote folder."""
    return {
        name: hashlib.sha256(repr(sorted(entry.items())).encode()).hexdigest()[:16]
        for name, entry in storage.list_entries(folder).items()
    }


def _local_size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return None
