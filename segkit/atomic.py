"""Write files and folders that are complete or absent, with one writer at a time.

Everything that a command writes outside of a version of a shard set or run (which has its own
staging directory, see `segkit.shards.publish`) goes through this module: a draft beside the
destination takes its name by one rename, once it is complete.
"""

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segkit.cache import try_lock
from segkit.errors import InputError, SegkitError
from segkit.stopping import cleanup_on_stop, removed_on_stop
from segkit.storage import require_short_names, writable

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Errors of a disk that takes no more, whatever is written to it."""
_LOCK = ".segkit.lock"
_DRAFT = ".draft-"


def existing_folder(folder: Path) -> Path:
    """The folder itself, or the nearest one above that exists: it says which disk will be used."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Be the only process that writes into a folder; it is created if it is missing.

    Drafts that a killed process left there are removed.

    Raises:
        InputError: the folder cannot be created or written to.
        SegkitError: another process is writing there.
    """
    is_new = not folder.exists()
    make_folder(folder, folder)
    try:
        with _lock(folder / _LOCK, folder):
            for leftover in folder.glob(f"{_DRAFT}*"):
                leftover.unlink(missing_ok=True)
            yield
    finally:
        if is_new:
            with suppress(OSError):  # something was written
                folder.rmdir()


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to, with the same extension; it becomes `path` at the end of the block.

    Where the block raises, nothing remains of it. The folder is created if it is missing.

    Raises:
        InputError: as of `require_writable`.
        SegkitError: the disk is full.
    """
    require_writable(path)
    make_folder(path.parent, path)
    with disk_errors(path), cleanup_on_stop(), new_cache_file(path) as draft:
        yield draft
        sync(draft)


@contextmanager
def new_cache_file(path: Path) -> Iterator[Path]:
    """As `new_file`, for a file that can be written again: it is not flushed to the disk.

    The name of the draft is that of no other writer, in other containers either: there, all
    processes may have one id.

    Raises:
        OSError: the file or its folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{_DRAFT}{secrets.token_hex(8)}-{path.name[-32:]}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def require_writable(path: Path) -> None:
    """Raise InputError if a file cannot be created or replaced: it is a folder, or in a folder that
    cannot be written to, or its name is too long."""
    require_short_names(path)
    if path.is_dir():
        raise InputError("is a folder", file=path, hint="give the name of a file")
    writable(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; it is complete or absent."""
    with new_file(path) as draft:
        draft.write_text(text, "utf-8")


def replace_bytes(path: Path, content: bytes) -> None:
    """Write or replace a file of a staging directory; a kill leaves the old content or the new one.

    The name of the draft is always the same, so that none is left where a run is resumed.
    """
    draft = path.with_name(f"{path.name}.partial")
    draft.write_bytes(content)
    sync(draft)
    draft.replace(path)


@contextmanager
def new_directory(path: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a folder to write to; it becomes `path` at the end of the block.

    Where the block raises, nothing remains of it.

    Args:
        path: the folder, or a link to it; its parents are created.
        replace: replace an existing folder, instead of refusing one that is not empty.

    Raises:
        InputError: `path` cannot be created, has a name that is too long, or exists and is not
            empty, a mount point, or the current folder.
        SegkitError: another process is writing it, or the disk is full.
    """
    require_short_names(Path(path))
    path = _resolved(Path(path))
    if not replace:
        _require_new(path)
    _require_replaceable(path)
    draft = path.with_name(f".{path.name}.partial")
    make_folder(path.parent, path)
    with (
        _lock(path.with_name(f".{path.name}.lock"), path),
        disk_errors(path),
        cleanup_on_stop(),
    ):
        try:
            shutil.rmtree(draft, ignore_errors=True)  # of a killed process
            draft.mkdir()
            yield draft
            if replace:
                _swap(draft, path)
            else:
                _require_new(path)  # another process may have written it meanwhile
                draft.replace(path)
            sync(path.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _swap(draft: Path, path: Path) -> None:
    """Give a draft the name of a folder; the old folder disappears at once, not file by file."""
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)  # of a killed process
    if path.exists():
        path.rename(old)
    try:
        draft.replace(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def disk_errors(place: object) -> Iterator[None]:
    """Name the place in the error of a disk that takes no more.

    Raises:
        SegkitError: instead of such an OSError, or of a library's error with the system's text.
    """
    try:
        yield
    except SegkitError:
        raise
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else None
        texts = {os.strerror(number): number for number in _FULL}
        if code is None:  # of a library such as safetensors
            code = next((texts[text] for text in texts if text in str(error)), None)
        if code in _FULL:
            message = f"{place}: cannot be written ({os.strerror(code)})"
            raise SegkitError(message, hint="make room there and run it again") from error
        raise


def temporary_file_error(error: OSError) -> SegkitError:
    """The error of temporary files that cannot be written; it names their folder (TMPDIR)."""
    try:
        folder = tempfile.gettempdir()
    except OSError:  # no folder can be written to
        folder = os.environ.get("TMPDIR") or "/tmp"
    message = f"{folder}: temporary files cannot be written ({error.strerror or error})"
    return SegkitError(message, hint="set TMPDIR to a folder on a disk with more room")


def sync(path: Path) -> None:
    """Flush a file, or a directory's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, destination: Path) -> None:
    """Create a folder where it is missing; InputError that names the destination if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"cannot be written to ({error.strerror})"
        raise InputError(message, file=destination, hint="choose another directory") from error


def _require_new(path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError("exists and is not empty", file=path, hint="give a new directory")


def _resolved(path: Path) -> Path:
    """The place that links lead to, existing or not: a rename would replace the link itself."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # links that lead back to themselves
        message = "cannot be written to (a loop of links)"
        raise InputError(message, file=path, hint="choose another directory") from error


def _require_replaceable(path: Path) -> None:
    """Raise InputError for a folder that a rename cannot replace, or not without leaving the user's
    shell in the old one."""
    if not path.exists():
        return
    is_current = False
    with suppress(OSError):  # the current folder may have been deleted
        is_current = path.samefile(os.curdir)
    if is_current or path.is_mount():
        kind = "the current folder" if is_current else "a mount point"
        message, hint = f"is {kind}, which a new folder cannot replace", "give a new folder in it"
        raise InputError(message, file=path, hint=hint)


@contextmanager
def _lock(file: Path, destination: Path) -> Iterator[None]:
    """Hold a lock file, and remove it at the end; SegkitError if another process holds it."""
    opened = try_lock(file, destination)
    try:
        with removed_on_stop(str(file)):
            yield
    finally:
        with suppress(OSError):
            file.unlink()
        opened.close()
