"""Read and write files by path or by URL (s3://, gs://, ...), through one interface.

Only `location` decides what a user's argument is. A plain path or a file:// URL becomes a
`pathlib.Path`. Any other URL becomes a `upath.UPath`, which has pathlib's methods over fsspec; it
is typed as a `Path`, so that one code serves both. This module adds what pathlib lacks: a range of
bytes, Parquet, listings.
"""

import errno
import hashlib
import os
import posixpath
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, cast

from segkit.errors import InputError, SegkitError
from segkit.extras import EXTRAS, missing_extra

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from fsspec import AbstractFileSystem
    from upath import UPath

StrPath = str | os.PathLike[str]
"""A path as callers give it: text, which may be a URL, or a path object."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SLASHES = re.compile(r"(?<!:)/{2,}")
_ABSENT = (FileNotFoundError, NotADirectoryError, PermissionError)
"""Answers of a store that works: nothing is there, or nothing that may be read."""
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


def location(text: StrPath) -> Path:
    """The path that a user's argument names: local, or in a store if it is a URL.

    Raises:
        InputError: fsspec does not know such URLs, its package for them is not installed, or the
            store cannot be reached or has no such bucket.
    """
    if not isinstance(text, str):  # a UPath, of a store, is not an os.PathLike
        return Path(text) if isinstance(text, os.PathLike) else text
    if text.startswith("file://") or not _URL.match(text):
        return Path(text.removeprefix("file://"))
    from upath import UPath

    text = _SLASHES.sub("/", text)  # as pathlib does for a local path
    try:
        # listings are not cached: another process may publish meanwhile
        path = UPath(text, use_listings_cache=False)
        _check_bucket(path.protocol, path.drive)
    except ImportError as error:
        extra = _EXTRAS.get(text.partition("://")[0].lower())
        if extra:
            raise missing_extra(extra, EXTRAS[extra][0], text) from None
        message = f"the package for such URLs is not installed ({error})"
        raise InputError(message, file=text, hint="install what fsspec names") from None
    except ValueError as error:
        hint = "give a path, s3://... or gs://..."
        raise InputError(f"unknown kind of URL ({error})", file=text, hint=hint) from None
    return cast(Path, path)


def local_path(text: StrPath) -> Path:
    """The path of a file or folder that must be on this machine; InputError for a URL."""
    name = str(text if isinstance(text, str) else location(text)).removeprefix("file://")
    if _URL.match(name):
        hint = "give a path on this machine (only shard sets may be in a store)"
        raise InputError("is a URL", file=name, hint=hint)
    return Path(name)


def writable(text: StrPath) -> Path:
    """The location of something that is to be written.

    Raises:
        InputError: the path, or else its closest existing parent, is not a folder that can be
            written to, or a name is too long. In a store, only writing shows what is allowed.
    """
    path = location(text)
    if is_remote(path):
        return path
    existing = require_short_names(path)
    code = errno.EACCES if existing.is_dir() else errno.ENOTDIR
    if code == errno.ENOTDIR or not os.access(existing, os.W_OK | os.X_OK):
        message = f"cannot be written to ({os.strerror(code)})"
        raise InputError(message, file=existing, hint="choose another directory")
    return path


def require_short_names(path: Path) -> Path:
    """Return the closest existing parent of a local path, or itself.

    Raises:
        InputError: a name below that folder is too long for its file system.
    """
    place = path.absolute()
    existing = next(p for p in (place, *place.parents) if os.access(p, os.F_OK))
    names = place.relative_to(existing).parts
    limit = os.pathconf(existing, "PC_NAME_MAX") if names else 0
    for name in names:
        if (size := len(os.fsencode(name))) > limit:
            message = f"a name of {size} bytes, where {limit} are allowed"
            raise InputError(message, file=f"{name[:32]}...", hint="give a shorter name")
    return existing


def writable_local(text: StrPath) -> Path:
    """The local path of something to be written; InputError as of `local_path` and `writable`."""
    return writable(local_path(text))


def is_remote(path: Path) -> bool:
    """Whether a location is in a store behind fsspec."""
    return not isinstance(path, PurePath)


def reason(error: BaseException) -> str:
    """The message of an error of a file system or a store, in one line."""
    system_text = error.strerror if isinstance(error, OSError) else None
    return (system_text or str(error) or type(error).__name__).splitlines()[0]


def is_absolute(name: str) -> bool:
    """Whether a name means the same in every folder."""
    return name.startswith("/") or bool(_URL.match(name))


def read_bytes(path: Path) -> bytes:
    """A file's content, in one request if it is remote.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: a local file cannot be read.
        SegkitError: a store failed, whatever the state of the file.
    """
    return _cat(path) if is_remote(path) else require_regular(path).read_bytes()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex; OSError if it cannot be read or is not a regular file, SegkitError
    if the store failed."""
    with _store_errors(path), require_regular(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_regular(path: Path) -> Path:
    """Return a path; OSError if it is local and a FIFO, a device or a socket, which may never end.

    A folder or a missing file is left to whoever opens it.
    """
    if not is_remote(path):
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.EINVAL, "is a FIFO, a device or a socket, not a file", str(path))
    return path


def read_range(path: Path, offset: int, length: int) -> bytes:
    """Read up to `length` bytes from `offset` on, fewer at the end of the file.

    Raises the errors of `read_bytes`.
    """
    if is_remote(path):
        return _cat(path, start=offset, end=offset + length)
    with require_regular(path).open("rb") as file:  # `os.pread` stops at 2 GiB
        size = os.fstat(file.fileno()).st_size  # a row may claim any length
        file.seek(offset)
        return file.read(max(0, min(length, size - offset)))


def _cat(path: Path, **byte_range: int) -> bytes:
    try:
        return cast(bytes, _store(path).cat_file(_remote(path).path, **byte_range))
    except FileNotFoundError:
        raise
    except Exception as error:  # each package has its own types for a failed connection
        is_range = "range" in str(error).lower()  # EINVAL is many more of the errors of S3
        if byte_range and isinstance(error, OSError) and error.errno == errno.EINVAL and is_range:
            return b""  # S3 refuses a range that begins behind the end
        raise _store_error(path, error) from error


def _store_error(path: Path, error: Exception) -> SegkitError:
    return SegkitError(f"{path}: the store failed ({reason(error)})", hint="run it again")


@contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    """Raise SegkitError for a store that failed, not for a path that is absent or impossible."""
    try:
        yield
    except (*_ABSENT, ValueError):
        raise
    except Exception as error:  # each package has its own types for a failed connection
        if not is_remote(path):
            raise
        raise _store_error(path, error) from error


def parquet_file(path: Path, content: "pa.NativeFile | None" = None) -> "pq.ParquetFile":
    """Open a Parquet file and verify its page checksums; a remote row group is one request.

    Args:
        path: the file.
        content: its content, where it need not be read from `path`.
    """
    import pyarrow.parquet as pq

    if content is not None or not is_remote(path):
        return pq.ParquetFile(content or path, page_checksum_verification=True)
    # no cache of fsspec's: pyarrow requests exactly what it needs
    with _store_errors(path):
        file: Any = _store(path).open(_remote(path).path, "rb", cache_type="none")
    return pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=True)


def list_entries(folder: Path) -> dict[str, dict[str, Any]]:
    """The metadata of each file in a remote folder; empty if the folder may not be listed.

    Raises:
        SegkitError: the store failed.
    """
    return {name: entry for name, entry in _list(folder).items() if entry["type"] == "file"}


def _list(folder: Path) -> dict[str, dict[str, Any]]:
    """The metadata of all entries of a remote folder; errors of `list_entries`."""
    try:
        with _store_errors(folder):
            entries = _store(folder).ls(_remote(folder).path, detail=True)
    except _ABSENT:
        return {}
    return {posixpath.basename(entry["name"].rstrip("/")): entry for entry in entries}


def list_names(folder: Path) -> list[str]:
    """Names of the files and folders in a folder; none if it is absent or a file.

    Raises:
        InputError: a name in a local path is too long.
        OSError: a local folder cannot be read.
        SegkitError: the store failed.
    """
    if is_remote(folder):
        return [*_list(folder)]
    require_short_names(folder)
    return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []


def is_file(path: Path) -> bool:
    """Whether a path is a file; SegkitError if the store failed, which fsspec takes for False."""
    if not is_remote(path):
        return path.is_file()
    try:
        with _store_errors(path):
            return bool(_store(path).info(_remote(path).path)["type"] == "file")
    except _ABSENT:
        return False


def list_files(folder: Path) -> dict[str, int]:
    """Bytes of all files under a remote folder, by their names relative to it.

    Raises:
        SegkitError: the store failed.
    """
    root = _remote(folder).path
    with _store_errors(folder):
        entries = _store(folder).find(root, detail=True)
    return {posixpath.relpath(name, root): entry["size"] for name, entry in entries.items()}


def create(path: Path, data: bytes) -> None:
    """Write a new remote file; FileExistsError if it exists, even if another process races."""
    _store(path).pipe_file(_remote(path).path, data, mode="create")


def put(source: Path, path: Path) -> None:
    """Copy a local file to a remote one; an object store never shows a part of it."""
    _store(path).put_file(str(source), _remote(path).path)


def delete(path: Path) -> None:
    """Remove a remote file if it exists; SegkitError if the store failed."""
    with suppress(FileNotFoundError), _store_errors(path):
        _store(path).rm_file(_remote(path).path)


def _remote(path: Path) -> "UPath":
    return cast("UPath", path)


def _store(path: Path) -> "AbstractFileSystem":
    """The store of a remote path.

    `UPath.fs` does not work in a forked process, such as a loader's worker.
    """
    import fsspec

    return fsspec.filesystem(_remote(path).protocol, **_remote(path).storage_options)


@lru_cache(maxsize=64)
def _check_bucket(protocol: str, bucket: str) -> None:
    """Request the bucket once, so that a wrong name or missing credentials are reported as such."""
    import fsspec

    store = fsspec.filesystem(protocol, use_listings_cache=False)
    try:
        if bucket:
            store.info(bucket)
    except PermissionError:
        return  # the bucket itself may be closed while some of its objects are open
    except Exception as error:  # each package has its own types for a failed connection or login
        missing = isinstance(error, FileNotFoundError)
        if missing and store.exists(bucket):
            return  # older versions of s3fs raise for an empty bucket
        message = "no such bucket" if missing else f"cannot be reached ({reason(error)})"
        hint = "check the URL and the credentials"
        raise InputError(message, file=f"{protocol}://{bucket}", hint=hint) from error
