"""File names that come from data: resolved inside a folder, or made safe to write.

Every name that a file holds (a JSON, a list, a manifest, a row) goes through this module before it
is joined to a folder, so that it leads to nothing outside of it.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Container
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from segkit import storage
from segkit.errors import InputError

_DIGEST = re.compile("[0-9a-f]{64}")
_MAX_BYTES = 200
"""Bytes of a part of a file name; file systems allow 255, and a file being written has a longer
name."""
_MARK = "~"
"""Stands before the hash in a changed name; names that contain it are always changed."""


def path_text(path: storage.StrPath) -> str:
    """A path as text, such as `DIR@v2`, the name of a public model or a URL."""
    return path if isinstance(path, str) else str(storage.location(path))


def expand_home(text: str) -> str:
    """A path with its `~` or `~user` expanded, as a shell does where one begins a word."""
    if not text.startswith("~"):
        return text
    with suppress(RuntimeError):  # no such user
        return str(Path(text).expanduser())
    return text


def known_form(name: str, known: Container[str]) -> str | None:
    """The form of a name that is known: as it is written, else in Unicode's NFC or NFD, or None.

    Files from macOS are often named in NFD, and lists of them in NFC, which looks the same.
    """
    forms = (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))
    return next((form for form in forms if form in known), None)


def other_case(path: Path) -> Path | None:
    """The existing path that differs from one that does not exist only in the case of letters."""
    if storage.is_remote(path) or path.parent == path:
        return None
    try:
        folder = path.parent if path.parent.is_dir() else other_case(path.parent)
        name = None if folder is None else _names_by_letters(folder).get(path.name.casefold())
    except (OSError, ValueError):  # a folder that is not readable, a name that no file can have
        return None
    if folder is None or name is None or not (folder / name).exists():  # listed long ago
        return None
    return folder / name


@lru_cache(maxsize=16)
def _names_by_letters(folder: Path) -> dict[str, str]:
    return {entry.name.casefold(): entry.name for entry in folder.iterdir()}


class UnsafeNameError(ValueError):
    """A name leads out of its folder, or names no file."""

    hint: str | None = None


class LinkError(UnsafeNameError):
    """A symbolic link leads out of the folder."""

    hint = "put a copy of the file in place of the link, or give the folder of the file itself"


def resolve_inside(root: Path, name: str) -> Path:
    """The path of `name` under `root`; the file need not exist.

    Raises:
        UnsafeNameError: `name` is unsafe, or a symbolic link leads out of `root` (`LinkError`).
    """
    message = f"the path {name!r} leads out of {root}"
    if is_unsafe(name):
        raise UnsafeNameError(message)
    if not _stays_inside(root, name):
        link = _outward_link(root, name)
        if link is None:
            raise UnsafeNameError(message)
        target = os.path.realpath(link)
        missing = "" if link.exists() else ", which does not exist"
        raise LinkError(f"{message}: {link} is a link to {target}{missing}")
    return root / name


def is_unsafe(name: str) -> bool:
    """Whether a name leads out of its folder on any system, or cannot name a file.

    These are empty and absolute names, drives, URLs, `..` as a part, and characters that file
    systems do not take. Links are not followed.
    """
    parts = name.replace("\\", "/").split("/")
    has_drive = name[1:2] == ":" and name[0].isascii() and name[0].isalpha()
    if not parts[0] or ".." in parts or has_drive or "://" in name or "\0" in name:
        return True
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # a surrogate
        return True
    return False


def relative_name(root: Path, name: str) -> str:
    """A name as data of any system gives it, relative to `root` if it lies inside.

    Backslashes become slashes. A name outside of `root` stays absolute, and thus unsafe.
    """
    name = name.replace("\\", "/")
    if not name.startswith("/") or storage.is_remote(root):
        return name
    for folder in (root, root.absolute(), root.resolve()):
        if name.startswith(f"{folder.as_posix().rstrip('/')}/"):
            return name[len(folder.as_posix().rstrip("/")) :].lstrip("/")
    return name


def is_inside(path: Path, root: Path) -> bool:
    """Whether a path is in a folder (or is it), once all links and `..` are resolved."""
    if storage.is_remote(path) != storage.is_remote(root):
        return False
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name that cannot be one
        return False


def require_utf8(path: str | Path) -> None:
    """Raise InputError for a path whose bytes are not UTF-8, such as one in Latin-1.

    Parquet and JSON hold Unicode only, so that neither rows nor manifests could name it.
    """
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        hint = "rename it, such as with convmv -f latin1 -t utf8 --notest"
        raise InputError("the name is not UTF-8", file=path, hint=hint) from None


def safe_name(text: str) -> str:
    """A name for one file: the text if it can be one, else its letters and a hash of it.

    Different texts have different names.
    """
    letters = "".join(c if c.isalnum() or c in "-_. " else "_" for c in text)
    name = letters.encode("utf-8")[:_MAX_BYTES].decode("utf-8", "ignore").strip(". ")
    if name == text and name:
        return name
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{name}{_MARK}{digest[:16]}"


def safe_path(text: str) -> str:
    """A relative path for a text such as a sample id: its folders stay if all parts are safe."""
    parts = text.split("/")
    is_plain = text and all(part and safe_name(part) == part for part in parts)
    return text if is_plain else safe_name(text)


def is_digest(text: object) -> bool:
    """Whether a value is a SHA-256 in hex, which may become part of a file name."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def _stays_inside(root: Path, name: str) -> bool:
    """Whether no symbolic link on the way from `root` to `name` leads out of `root`."""
    if storage.is_remote(root):
        return True  # object stores have no links
    folder = name.rpartition("/")[0]
    try:
        return _folder_stays_inside(root, folder) and (
            not (root / name).is_symlink() or is_inside(root / name, root)
        )
    except (OSError, RuntimeError):  # a name too long for the file system, a loop of links
        return False


def _outward_link(root: Path, name: str) -> Path | None:
    """The first link on the way from `root` to `name` that leads out of `root`."""
    path = root
    with suppress(OSError):  # a name too long for the file system
        for part in name.split("/"):
            path /= part
            if path.is_symlink() and not is_inside(path, root):
                return path
    return None


@lru_cache(maxsize=4096)
def _folder_stays_inside(root: Path, name: str) -> bool:
    return not name or is_inside(root / name, root)
