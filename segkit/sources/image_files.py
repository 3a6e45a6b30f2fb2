"""Images as they are: found without leaving their folder, read once, decoded far enough to know
that they are whole."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from segkit import storage
from segkit.images.check import check_image
from segkit.sources.ledger import ImageError


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file that was read and found whole."""

    path: Path
    data: bytes
    width: int
    height: int
    warnings: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, in hex."""
        return hashlib.sha256(self.data).hexdigest()


def inside(root: Path, name: str, *, record: str) -> Path:
    """The path of `name` under `root`, existing or not.

    Raises:
        ImageError: `name` is absolute, climbs with `..`, or a symbolic link leads out of `root`
            (`unsafe-path`).
    """
    if is_unsafe(name) or not _stays(root, name):
        raise ImageError(
            "unsafe-path", f"the path {name!r} leads out of {root}", file=root, record=record
        )
    return root / name


def is_unsafe(name: str) -> bool:
    """Whether a file name, read as text alone, may leave the folder it belongs to."""
    foreign = "\\" in name or name[1:2] == ":" or "://" in name
    return not name or "\0" in name or name.startswith("/") or ".." in name.split("/") or foreign


def _stays(root: Path, name: str) -> bool:
    """Whether no symbolic link on the way from `root` to `name` leads out of `root`."""
    folder = name.rpartition("/")[0]
    try:
        return _folder_stays(root, folder) and (
            not (root / name).is_symlink() or _resolves_inside(root, name)
        )
    except (OSError, RuntimeError):  # a name too long for the file system, a loop of links
        return False


@lru_cache(maxsize=4096)
def _folder_stays(root: Path, name: str) -> bool:
    return not name or _resolves_inside(root, name)


def _resolves_inside(root: Path, name: str) -> bool:
    return (root / name).resolve().is_relative_to(root.resolve())


def find(root: Path, candidates: tuple[str, ...], *, record: str) -> Path:
    """The first candidate under `root` that is a file.

    Raises:
        ImageError: there is none (`missing-image`), or it lies outside of `root` (`unsafe-path`).
    """
    for name in candidates:
        path = inside(root, name, record=record)
        if (
            len(candidates) == 1 and storage.is_remote(root)
        ) or path.is_file():  # reading it tells as well
            return path
    tried = f" (tried {', '.join(candidates)})" if len(candidates) > 1 else ""
    raise ImageError(
        "missing-image", f"there is no such image{tried}", file=root / candidates[0], record=record
    )


def measure(root: Path) -> Callable[[tuple[str, ...]], int]:
    """A function from candidates to the bytes of the first one that is there, 0 where none is; for
    planning shards."""
    size = storage.sizer(root)
    return lambda candidates: next(
        (found for name in candidates if (found := size(name)) is not None), 0
    )


def read_picture(path: Path, *, record: str) -> Picture:
    """Read an image file and check that it is complete: bytes, size as stored, and warnings.

    Raises:
        ImageError: `missing-image`, or it cannot be read or decoded (`unreadable-image`).
    """
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError:
        raise ImageError(
            "missing-image", "there is no such image", file=path, record=record
        ) from None
    except OSError as error:
        raise ImageError(
            "unreadable-image", f"cannot be read ({error.strerror})", file=path, record=record
        ) from error
    try:
        info = check_image(data, path.suffix.lower())
    except ValueError as error:
        raise ImageError("unreadable-image", str(error), file=path, record=record) from error
    return Picture(path, data, info.width, info.height, info.warnings)
