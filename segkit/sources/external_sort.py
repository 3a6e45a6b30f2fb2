"""Sorts annotations to their images in temporary files, for more of them than the memory holds."""

import struct
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import suppress
from mmap import ACCESS_READ, mmap
from typing import IO

from segkit.atomic import temporary_file_error

SPAN = 16384
"""Images whose records share a file and are in memory together."""
_ENTRY = struct.Struct("<II")  # number of the record, bytes that follow


class ExternalSort:
    """Image records in order, each with its annotations.

    Iterating yields (image record, its annotations in the order in which they were added), any
    number of times. The files are in the system's temporary folder (TMPDIR) and have no names, so
    a killed process leaves nothing behind.
    """

    def __init__(self) -> None:
        self._images: dict[int, IO[bytes]] = {}
        self._annotations: dict[int, IO[bytes]] = {}
        self._count = 0
        weakref.finalize(self, _close, self._images, self._annotations)

    def add_image(self, raw: bytes) -> None:
        """Append an image; its place is the number of images before it."""
        _append(self._images, self._count, raw)
        self._count += 1

    def add_annotation(self, place: int, raw: bytes) -> None:
        """Append an annotation of the image at `place`."""
        _append(self._annotations, place, raw)

    def images(self) -> Iterator[bytes]:
        """Yield the image records, in order."""
        for images in self._images.values():
            yield from (raw for _, raw in _entries(images))

    def __iter__(self) -> Iterator[tuple[bytes, list[bytes]]]:
        for number, images in self._images.items():
            annotations: dict[int, list[bytes]] = {}
            for place, raw in _entries(self._annotations.get(number)):
                annotations.setdefault(place, []).append(raw)
            for place, raw in _entries(images):
                yield raw, annotations.pop(place, [])


class SpillFile:
    """Numbered records in a temporary file, in the order in which they were added.

    Only one reader may iterate at a time.
    """

    def __init__(self) -> None:
        self._file = _temporary_file()
        weakref.finalize(self, _close_file, self._file)

    def add(self, number: int, raw: bytes) -> None:
        """Append a record with a number of the caller's choice."""
        _write(self._file, _ENTRY.pack(number, len(raw)) + raw)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        _flush(self._file)
        self._file.seek(0)
        while head := self._file.read(_ENTRY.size):
            number, length = _ENTRY.unpack(head)
            yield number, self._file.read(length)


def _append(files: dict[int, IO[bytes]], place: int, raw: bytes) -> None:
    file = files.get(place // SPAN)
    if file is None:
        file = _temporary_file()
        files[place // SPAN] = file
    _write(file, _ENTRY.pack(place % SPAN, len(raw)) + raw)


def _temporary_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise temporary_file_error(error) from error


def _write(file: IO[bytes], data: bytes) -> None:
    try:
        file.write(data)
    except OSError as error:
        raise temporary_file_error(error) from error


def _flush(file: IO[bytes]) -> None:
    try:
        file.flush()
    except OSError as error:
        raise temporary_file_error(error) from error


def _close(*groups: dict[int, IO[bytes]]) -> None:
    for files in groups:
        for file in files.values():
            _close_file(file)


def _close_file(file: IO[bytes]) -> None:
    with suppress(OSError):  # what a full disk did not take has been reported
        file.close()


def _entries(file: IO[bytes] | None) -> Iterator[tuple[int, bytes]]:
    """Yield (place within the file, record) without moving the file's position."""
    if file is None:
        return
    _flush(file)
    with mmap(file.fileno(), 0, access=ACCESS_READ) as data:  # `os.pread` stops at 2 GiB
        start = 0
        while start < len(data):
            place, length = _ENTRY.unpack_from(data, start)
            start += _ENTRY.size + length
            yield place, data[start - length : start]
