"""Temporary files that sort more annotations than the memory holds to the images that they belong to."""

import struct
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

_LENGTH = struct.Struct("<I")
_ENTRY = struct.Struct("<II")
_FILES = 256
_LEAST = 4096


class Spool:
    """Image records in order and, through at most 256 temporary files, the annotations of each.

    Iterating gives (image record, its annotations in the order in which they were added); a few thousand images are in
    memory at a time. A context manager: the files are gone at its end. They lie in the system's temporary folder
    (TMPDIR).
    """

    def __init__(self, images: int) -> None:
        self._span = max(_LEAST, -(-images // _FILES))
        self._stack = ExitStack()
        self._count = 0

    def __enter__(self) -> "Spool":
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="segkit-"))
        self._folder = Path(folder)
        self._images = self._open("images")
        self._annotations: dict[int, IO[bytes]] = {}
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add_image(self, raw: bytes) -> None:
        """Append an image; its place is the number of those before it."""
        self._images.write(_LENGTH.pack(len(raw)) + raw)
        self._count += 1

    def add_annotation(self, place: int, raw: bytes) -> None:
        """Append an annotation of the image at `place`."""
        number = place // self._span
        file = self._annotations.get(number)
        if file is None:
            file = self._annotations[number] = self._open(str(number))
        file.write(_ENTRY.pack(place % self._span, len(raw)) + raw)

    def __iter__(self) -> Iterator[tuple[bytes, list[bytes]]]:
        self._images.seek(0)
        for start in range(0, self._count, self._span):
            groups = self._groups(start // self._span)
            for place in range(min(self._span, self._count - start)):
                (length,) = _LENGTH.unpack(self._images.read(_LENGTH.size))
                yield self._images.read(length), groups.pop(place, [])

    def _groups(self, number: int) -> dict[int, list[bytes]]:
        groups: dict[int, list[bytes]] = {}
        file = self._annotations.get(number)
        if file is not None:
            file.seek(0)
            while head := file.read(_ENTRY.size):
                place, length = _ENTRY.unpack(head)
                groups.setdefault(place, []).append(file.read(length))
        return groups

    def _open(self, name: str) -> IO[bytes]:
        return self._stack.enter_context((self._folder / name).open("w+b"))
