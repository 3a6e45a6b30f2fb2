"""Names that lead from a folder to a file, on this machine or in a store."""

import os
import posixpath
from functools import lru_cache
from pathlib import Path
from typing import Any

from segkit.storage import is_absolute, is_remote, location


def join(folder: Path, name: str) -> Path:
    """The location that `name` means in a file of `folder`: relative, absolute, or a URL."""
    if is_absolute(name):
        return location(name)
    return (folder / name).resolve() if is_remote(folder) else folder / name


def relative(path: Path, folder: Path) -> str:
    """The name of `path` in a file of `folder`; inverse of `join`.

    It is relative if both are on this machine, or in one bucket of one store, so that they can be
    moved together; otherwise it is absolute.
    """
    path, folder = path.resolve(), folder.resolve()
    if is_remote(path) != is_remote(folder):
        return path.as_posix()
    if not is_remote(path):
        return Path(os.path.relpath(path, folder)).as_posix()
    target: Any = path  # a `UPath`
    start: Any = folder
    if (target.protocol, target.drive) != (start.protocol, start.drive):
        return path.as_posix()
    return str(posixpath.relpath(target.path, start.path))


@lru_cache(maxsize=1024)
def relocate(name: str, old: Path, new: Path) -> str:
    """A name relative to folder `old`, made relative to folder `new`; an absolute one stays."""
    return name if is_absolute(name) else relative(join(old, name), new)
