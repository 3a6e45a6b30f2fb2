"""A bounded cache of what was read from a store, shared by all processes of a user.

Files are named by the SHA-256 of their content, so a cache never holds an old state of anything,
and sets that share images share their files. One process writes at a time, under a lock that a
killed process does not hold: it leaves at most a draft, which the next writer overwrites.
"""

import hashlib
import os
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from segkit.arguments import parse_size
from segkit.cache import cache_root, exclusive_lock
from segkit.errors import Notice
from segkit.storage import reason

LIMIT = "SEGKIT_CACHE_SIZE"
"""Environment variable with the limit, such as 200GB; without it, or with 0, nothing is cached."""
_LOCK, _DRAFT, _TOTAL = ".lock", ".draft", ".total"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_KEEP = 0.9
"""Share of the limit that an eviction leaves, so that not every write needs one."""
_MAX_SHARE = 1 / 16
"""Share of the limit that one file may take."""


class ByteCache:
    """Contents by their SHA-256, of which the least recently used are deleted at a limit.

    Args:
        folder: made once something is kept.
        limit: bytes of all contents together.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._too_large: set[str] = set()
        self._verified: dict[str, tuple[int, int]] = {}
        """Inode and bytes of the files that had their digest when this process first used them."""

    @classmethod
    def from_environment(cls) -> "ByteCache | None":
        """The cache in $SEGKIT_CACHE/bytes of the size $SEGKIT_CACHE_SIZE; None without a size.

        Raises:
            InputError: the size is not a size.
        """
        text = os.environ.get(LIMIT, "0").strip()
        if text in ("", "0"):
            return None
        return cls(cache_root() / "bytes", parse_size(text, LIMIT))

    def read(self, digest: str, load: Callable[[], bytes]) -> bytes:
        """A content, from the cache if it is there and intact.

        Args:
            digest: its SHA-256 in hex.
            load: reads it from the store. What it returns is kept if it has the digest.
        """
        if not _DIGEST.fullmatch(digest):
            return load()
        file = self._file(digest)
        try:
            data = file.read_bytes()
            if hashlib.sha256(data).hexdigest() == digest:
                _touch(file)
                return data
        except OSError:  # missing, or deleted just now
            pass
        data = load()
        self._keep(digest, data)
        return data

    def open(self, digest: str, load: Callable[[], bytes]) -> pa.NativeFile | None:
        """A content as an open file, which a later eviction does not close.

        A file is compared with its digest at its first use in a process only: a row group of labels
        takes a small part of it. One that differs is loaded anew.

        Args:
            digest, load: as of `read`.

        Returns:
            None if the content is too large to be kept: read the part that is needed instead.
        """
        if digest in self._too_large or not _DIGEST.fullmatch(digest):
            return None
        file = self._file(digest)
        try:
            if self._is_intact(digest):
                opened = pa.OSFile(str(file))
                _touch(file)
                return opened
        except OSError:  # missing, or deleted just now
            pass
        data = load()
        self._keep(digest, data)
        return pa.BufferReader(data)

    def _is_intact(self, digest: str) -> bool:
        """Whether a kept file has its digest; OSError if it is missing."""
        with self._file(digest).open("rb") as file:
            status = os.fstat(file.fileno())
            version = status.st_ino, status.st_size
            if self._verified.get(digest) == version:
                return True
            intact = hashlib.file_digest(file, "sha256").hexdigest() == digest
        if intact:
            self._verified[digest] = version
        return intact

    def _file(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest

    def _keep(self, digest: str, data: bytes) -> None:
        if len(data) > self.limit * _MAX_SHARE:
            self._too_large.add(digest)
            return
        if hashlib.sha256(data).hexdigest() != digest:
            return  # damaged: the reader reports it
        file = self._file(digest)
        try:
            with exclusive_lock(self.folder / _LOCK):
                before = file.stat().st_size if file.exists() else 0
                total = self._total() + len(data) - before
                if total > self.limit:
                    total = self._evict(int(self.limit * _KEEP) - len(data)) + len(data)
                (self.folder / _TOTAL).write_text(f"{total:020}")
                (self.folder / _DRAFT).write_bytes(data)
                _touch(self.folder / _DRAFT)
                file.parent.mkdir(exist_ok=True)
                (self.folder / _DRAFT).replace(file)
        except OSError as error:
            self.limit = 0  # try no more
            message = f"{self.folder}: nothing is cached there ({reason(error)})"
            warnings.warn(message, Notice, stacklevel=2)

    def _total(self) -> int:
        """Bytes of all contents; too many by a few after a kill, until the next eviction."""
        try:
            return int((self.folder / _TOTAL).read_text())
        except (FileNotFoundError, ValueError):  # new, or cut by a kill
            return sum(size for _, size, _ in self._contents())

    def _evict(self, target: int) -> int:
        """Delete the least recently used contents down to a number of bytes; returns it."""
        contents = sorted(self._contents())
        total = sum(size for _, size, _ in contents)
        for _, size, file in contents:
            if total <= target:
                break
            Path(file).unlink(missing_ok=True)
            total -= size
        return total

    def _contents(self) -> list[tuple[int, int, str]]:
        """Time of the last use in nanoseconds, bytes and path of each content."""
        contents = []
        for folder in os.scandir(self.folder):
            for entry in os.scandir(folder) if folder.is_dir() else ():
                status = entry.stat()
                contents.append((status.st_mtime_ns, status.st_size, entry.path))
        return contents


def _touch(file: Path) -> None:
    """Record the use of a file; the system's own times are too coarse to order uses."""
    os.utime(file, ns=(now := time.time_ns(), now))
