"""The cache of a user on this machine, and lock files, by which processes share a folder.

The system releases a lock when its process ends, however it ends. The file of a lock stays: if it
were removed, a process that waits for it and one that makes it again would both hold a lock of that
name.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from segkit.errors import BusyError, InputError


def cache_root() -> Path:
    """$SEGKIT_CACHE, by default ~/.cache/segkit; it need not exist.

    Raises:
        InputError: the variable is unset or empty, and the user has no home directory.
    """
    if text := os.environ.get("SEGKIT_CACHE"):
        return Path(text)
    try:
        return Path.home() / ".cache" / "segkit"
    except RuntimeError as error:
        message, hint = "this user has no home directory", "set SEGKIT_CACHE to a folder"
        raise InputError(message, hint=hint) from error


@contextmanager
def exclusive_lock(file: Path) -> Iterator[None]:
    """Hold the lock of a file on this machine; other processes that ask for it wait.

    Args:
        file: made if it is missing, and left there.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with _open(file) as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def try_lock(file: Path, place: object) -> IO[bytes]:
    """Open a lock file, made if it is missing, and hold its lock until it is closed.

    Args:
        file: the lock file; its content is left alone.
        place: the file or folder that the errors name.

    Raises:
        InputError: the lock file is a link or a folder, or its folder cannot be written to.
        BusyError: another process holds the lock.
    """
    try:
        opened = _try_lock(file)
    except OSError as error:
        message = f"cannot be written to ({error.strerror})"
        raise InputError(message, file=place, hint="choose another directory") from error
    if opened is None:
        message = f"{place}: another process is writing here"
        raise BusyError(message, hint="wait until it ends")
    return opened


def _try_lock(file: Path) -> IO[bytes] | None:
    """The lock file, open and locked; None if another process holds it, or removed its folder."""
    opened = _open(file)
    while True:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            opened.close()
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(opened.fileno()), file.stat()):
                return opened
        opened.close()  # its holder has just removed the file: take the lock of a new one
        try:
            opened = _open(file)
        except FileNotFoundError:  # and the folder as well
            return None


def _open(file: Path) -> IO[bytes]:
    """Open a lock file; OSError if it is a link or a folder. A FIFO does not block."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    return os.fdopen(os.open(file, flags, 0o666), "r+b", buffering=0)
