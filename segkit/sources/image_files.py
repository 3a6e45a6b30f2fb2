"""Finds image files without leaving their folder, and checks that they are whole."""

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
    """An image file that was read and is whole."""

    path: Path
    data: bytes
    width: int
    height: int
    warnings: tuple[str, ...] = ()
    """Codes of `ledger.WARNINGS`."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, in hex."""
        return hashlib.sha256(self.data).hexdigest()


def resolve_inside(root: Path, name: str, *, record: str) -> Path:
    """Return the path of `name` under `root`; the file need not exist.

    Raises:
        ImageError: `name` is absolute, climbs with `..`, or a symbolic link leads out of `root`
            (`unsafe-path`).
    """
    if is_unsafe(name) or not _stays_inside(root, name):
        message = f"the path {name!r} leads out of {root}"
        raise ImageError("unsafe-path", message, file=root, record=record)
    return root / name


def is_unsafe(name: str) -> bool:
    """Whether the text of a file name can lead out of its folder; links are not followed."""
    foreign = "\\" in name or name[1:2] == ":" or "://" in name
    return not name or "\0" in name or name.startswith("/") or ".." in name.split("/") or foreign


def _stays_inside(root: Path, name: str) -> bool:
    """Whether no symbolic link on the way from `root` to `name` leads out of `root`."""
    folder = name.rpartition("/")[0]
    try:
        return _folder_stays_inside(root, folder) and (
            not (root / name).is_symlink() or _resolves_inside(root, name)
        )
    except (OSError, RuntimeError):  # a name too long for the file system, a loop of links
        return False


@lru_cache(maxsize=4096)
def _folder_stays_inside(root: Path, name: str) -> bool:
    return not name or _resolves_inside(root, name)


def _resolves_inside(root: Path, name: str) -> bool:
    return (root / name).resolve().is_relative_to(root.resolve())


def find_image(root: Path, candidates: tuple[str, ...], *, record: str) -> Path:
    """Return the first candidate under `root` that is a file.

    A single candidate in a store is returned unchecked: reading it will tell.

    Raises:
        ImageError: none exists (`missing-image`), or one is outside of `root` (`unsafe-path`).
    """
    unchecked = len(candidates) == 1 and storage.is_remote(root)
    for name in candidates:
        path = resolve_inside(root, name, record=record)
        if unchecked or path.is_file():
            return path
    tried = f" (tried {', '.join(candidates)})" if len(candidates) > 1 else ""
    message = f"no such image{tried}"
    raise ImageError("missing-image", message, file=root / candidates[0], record=record)


def image_sizer(root: Path) -> Callable[[tuple[str, ...]], int]:
    """Return a function from candidates to the bytes of the first one that exists, or 0."""
    size = storage.size_lookup(root)

    def image_bytes(candidates: tuple[str, ...]) -> int:
        sizes = (size(name) for name in candidates)
        return next((count for count in sizes if count is not None), 0)

    return image_bytes


def read_source_file(path: Path, noun: str, *, record: str) -> bytes:
    """Read an image or a mask of a source.

    Args:
        path: the file.
        noun: "image" or "mask", as in the codes `missing-image` and `unreadable-mask`.
        record: the record that errors name.

    Raises:
        ImageError: `missing-<noun>` or `unreadable-<noun>`.
    """
    try:
        return storage.read_bytes(path)
    except FileNotFoundError:
        message = f"no such {noun}"
        raise ImageError(f"missing-{noun}", message, file=path, record=record) from None
    except OSError as error:
        message = f"cannot be read ({error.strerror})"
        raise ImageError(f"unreadable-{noun}", message, file=path, record=record) from error


def read_picture(path: Path, *, record: str) -> Picture:
    """Read an image file once and check that it is whole: its bytes, stored size and warnings.

    Raises:
        ImageError: `missing-image`, or it cannot be read or decoded (`unreadable-image`).
    """
    data = read_source_file(path, "image", record=record)
    try:
        info = check_image(data, path.suffix.lower())
    except ValueError as error:
        raise ImageError("unreadable-image", str(error), file=path, record=record) from error
    return Picture(path, data, info.width, info.height, info.warnings)
