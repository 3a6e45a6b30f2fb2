"""Where data lies: plain paths, and URLs of stores that fsspec knows (s3://, gs://, ...) behind the
same interface.

`location` is the only place that tells one from the other. A plain path, and a file:// URL, is a
`pathlib.Path` and is read as ever. Any other URL is a `upath.UPath`, which has pathlib's methods
over fsspec; it is typed as a `Path` so that one code reads both. What needs more than pathlib has
(a range of bytes, Parquet, a name that crosses stores) is here.
"""

import errno
import os
import posixpath
import re
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, cast

from segkit.errors import InputError, SegkitError

if TYPE_CHECKING:
    import pyarrow.parquet as pq
    from fsspec import AbstractFileSystem
    from upath import UPath

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SLASHES = re.compile(r"(?<!:)/{2,}")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


def location(text: str | Path) -> Path:
    """The path that a user's argument means: a plain one, or one in a store where it is a URL.

    Raises:
        InputError: fsspec does not know such URLs, its package for them is not installed, or the
            store cannot be reached or has no such bucket.
    """
    if not isinstance(text, str):
        return text
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    if not _URL.match(text):
        return Path(text)
    from upath import UPath

    text = _SLASHES.sub("/", text)  # as a plain path does
    try:
        # listings are not cached: another process may have published meanwhile
        path = UPath(text, use_listings_cache=False)
        _reach(path.protocol, path.drive)
    except ImportError as error:
        extra = _EXTRAS.get(text.partition("://")[0].lower())
        hint = (
            f"pip install 'segkit[{extra}]'" if extra else "install the package that fsspec names"
        )
        raise InputError(
            f"a package for such URLs is not installed ({error})", file=text, hint=hint
        ) from None
    except ValueError as error:
        raise InputError(
            f"no such kind of URL ({error})", file=text, hint="give a path, s3://... or gs://..."
        ) from None
    return cast(Path, path)


def here(place: str | Path) -> Path:
    """The path on this machine, for what is not read or written anywhere else; InputError where it
    is a URL."""
    text = str(place).removeprefix("file://")
    if _URL.match(text):
        raise InputError(
            "is a URL",
            file=text,
            hint="give a path on this machine (shard sets alone may lie elsewhere)",
        )
    return Path(text)


def writable(place: str | Path) -> Path:
    """The location, for what is to be written there.

    Raises:
        InputError: neither the path, nor the folder above it that exists, is a folder that can be
            written to. What a store allows shows only in writing.
    """
    path = location(place)
    if is_remote(path):
        return path
    above = next(
        folder
        for folder in (path.absolute(), *path.absolute().parents)
        if os.access(folder, os.F_OK)
    )
    code = errno.EACCES if above.is_dir() else errno.ENOTDIR
    if code == errno.ENOTDIR or not os.access(above, os.W_OK | os.X_OK):
        raise InputError(
            f"cannot be written to ({os.strerror(code)})", file=above, hint="choose another"
        )
    return path


def writable_local(place: str | Path) -> Path:
    """The path on this machine, for what is to be written there; InputError as of `here` and
    `writable`."""
    return writable(here(place))


def is_remote(path: Path) -> bool:
    """Whether a location lies in a store behind fsspec."""
    return not isinstance(path, PurePath)


def reason(error: BaseException) -> str:
    """What an error of a file system says, in one line; errors of stores have a text where the
    system has a number."""
    text = (
        (error.strerror if isinstance(error, OSError) else None)
        or str(error)
        or type(error).__name__
    )
    return text.splitlines()[0]


def join(folder: Path, name: str) -> Path:
    """The location that a name in a file of `folder` means: relative to it, absolute, or a URL."""
    if is_absolute(name):
        return location(name)
    return (folder / name).resolve() if is_remote(folder) else folder / name


def is_absolute(name: str) -> bool:
    """Whether a name means the same from every folder."""
    return name.startswith("/") or bool(_URL.match(name))


def relative(path: Path, folder: Path) -> str:
    """The name by which a file of `folder` leads to `path`; inverse of `join`.

    Relative where both lie in one store (and bucket), so that they can be moved together; otherwise
    absolute.
    """
    path, folder = path.resolve(), folder.resolve()
    if not is_remote(path) and not is_remote(folder):
        return Path(os.path.relpath(path, folder)).as_posix()
    one, other = _remote(path), _remote(folder)
    if is_remote(path) != is_remote(folder) or (one.protocol, one.drive) != (
        other.protocol,
        other.drive,
    ):
        return path.as_posix()
    return posixpath.relpath(one.path, other.path)


@lru_cache(maxsize=1024)
def relocate(name: str, old: Path, new: Path) -> str:
    """A name relative to folder `old`, made relative to folder `new`; absolute ones stay."""
    return name if is_absolute(name) else relative(join(old, name), new)


def read_bytes(path: Path) -> bytes:
    """A whole file, in one request where it is remote.

    Raises:
        FileNotFoundError: there is none.
        OSError: a local file cannot be read.
        SegkitError: a store failed, which says nothing of the file.
    """
    return _cat(path) if is_remote(path) else path.read_bytes()


def read_range(path: Path, offset: int, length: int) -> bytes:
    """Bytes `offset` to `offset + length` of a file, fewer where it ends before; errors are those
    of `read_bytes`."""
    if is_remote(path):
        return _cat(path, start=offset, end=offset + length)
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), length, offset)


def _cat(path: Path, **part: int) -> bytes:
    try:
        return cast(bytes, _store(path).cat_file(_remote(path).path, **part))
    except FileNotFoundError:
        raise
    except Exception as error:  # each package has its own types for a failed connection
        if (
            isinstance(error, OSError) and error.errno == errno.EINVAL
        ):  # of S3: a range that begins behind the end
            return b""
        raise SegkitError(f"{path}: the store failed ({reason(error)}); run it again") from error


def parquet_file(path: Path) -> "pq.ParquetFile":
    """A Parquet file whose page checksums are verified; of a remote one a row group is one
    request."""
    import pyarrow.parquet as pq

    if not is_remote(path):
        return pq.ParquetFile(path, page_checksum_verification=True)
    file: Any = _store(path).open(
        _remote(path).path, "rb", cache_type="none"
    )  # pyarrow asks for what it needs
    return pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=True)


def sizer(root: Path) -> Callable[[str], int | None]:
    """A function that tells the bytes of a file by its name under `root`, or None where there is
    none.

    A remote folder is listed once, since a question for each of its files would take far longer.
    """
    if not is_remote(root):
        return lambda name: _size(root / name)

    @lru_cache(maxsize=64)
    def listed(folder: Path) -> dict[str, int]:
        try:
            entries = _store(folder).ls(_remote(folder).path, detail=True)
        except OSError:
            return {}
        return {
            posixpath.basename(entry["name"]): entry["size"]
            for entry in entries
            if entry["type"] == "file"
        }

    def size(name: str) -> int | None:
        try:
            return listed((root / name).parent).get(posixpath.basename(name))
        except ValueError:  # a name that no URL can have
            return None

    return size


def listing(folder: Path) -> dict[str, int]:
    """The files under a remote folder by their names relative to it, and their bytes."""
    root = _remote(folder).path
    found = _store(folder).find(root, detail=True)
    return {posixpath.relpath(name, root): entry["size"] for name, entry in found.items()}


def create(path: Path, data: bytes) -> None:
    """Write a remote file that is not there yet; FileExistsError where it is, however close the
    race."""
    _store(path).pipe_file(_remote(path).path, data, mode="create")


def put(source: Path, path: Path) -> None:
    """Copy a local file to a remote one; in an object store it is there as a whole or not at
    all."""
    _store(path).put_file(str(source), _remote(path).path)


def delete(path: Path) -> None:
    """Remove a remote file if it is there."""
    with suppress(FileNotFoundError):
        _store(path).rm_file(_remote(path).path)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return None


def _remote(path: Path) -> "UPath":
    return cast("UPath", path)


def _store(path: Path) -> "AbstractFileSystem":
    """The store of a remote path; not `UPath.fs`, which a forked process (a loader's worker) cannot
    use."""
    import fsspec

    return fsspec.filesystem(_remote(path).protocol, **_remote(path).storage_options)


@lru_cache(maxsize=64)
def _reach(protocol: str, bucket: str) -> None:
    """Ask for the bucket once, so that a wrong name or missing credentials show at once and as what
    they are."""
    import fsspec

    store = fsspec.filesystem(protocol, use_listings_cache=False)
    try:
        if bucket:
            store.info(bucket)
    except PermissionError:
        return  # a bucket may be closed as a whole and open in part
    except Exception as error:  # each package has its own types for a failed connection or login
        missing = isinstance(error, FileNotFoundError)
        if missing and store.exists(bucket):
            return  # older s3fs finds nothing in an empty bucket
        what = "no such bucket" if missing else f"cannot be reached ({reason(error)})"
        raise InputError(
            what, file=f"{protocol}://{bucket}", hint="check the URL and the credentials"
        ) from error


def cache_root() -> Path:
    """$SEGKIT_CACHE, by default ~/.cache/segkit; it need not exist."""
    return Path(os.environ.get("SEGKIT_CACHE", Path.home() / ".cache" / "segkit"))
