"""Gives no file to two records: a file in another folder is taken only if one record can have it.

A record names its file by a path. Where no file has this path, a file with the same name in another
folder is taken (a fallback), unless the path of another record names that file, or another record
would fall back to it as well. Records that give one path share its file: the source says so.
"""

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segkit.file_names import is_unsafe
from segkit.file_states import size_lookup
from segkit.sources.external_sort import SpillFile
from segkit.sources.source import ImageName, Record, Source


class FileClaims:
    """The files that records fall back to, and the other records that have or want them."""

    def __init__(self) -> None:
        self._fallbacks: dict[str, dict[str, str]] = {}
        """File -> path that a record gives -> the record; at most two, which is enough."""
        self._by_path: dict[str, str] = {}
        """File that a record falls back to -> the record whose path names it."""

    def __len__(self) -> int:
        return len(self._fallbacks)

    def add_fallback(self, file: str, name: str, record: str) -> None:
        """Add a record that gives the path `name` and would fall back to a file."""
        claims = self._fallbacks.setdefault(file, {})
        if len(claims) < 2:
            claims.setdefault(name, record)

    def add_path(self, file: str, record: str) -> None:
        """Add a record whose path names a file, after all fallbacks."""
        if file in self._fallbacks:
            self._by_path.setdefault(file, record)

    def conflict(self, file: str, name: str) -> str | None:
        """Return which other record may have the file of a fallback; None if there is none."""
        if file in self._by_path:
            return f"{file} is that of image {self._by_path[file]}"
        claims = self._fallbacks[file].items()
        rival = next((record for path, record in claims if path != name), None)
        return None if rival is None else f"{file} may as well be that of image {rival}"


@dataclass(frozen=True, slots=True)
class PossibleFiles:
    """The files of a listed folder that a record can have."""

    record: str
    """Its id."""
    name: str
    """The path that it gives."""
    by_path: str | None
    """The file with this path."""
    fallback: str | None
    """The only file with its name in any folder."""


class Match(NamedTuple):
    """The file of a record."""

    file: str | None
    conflict: str
    """Why the fallback is not taken; empty where there is none, or it is."""


def match_files(records: Sequence[PossibleFiles]) -> list[Match]:
    """Return the file of each record, in their order."""
    claims = FileClaims()
    for record in records:
        if record.by_path is None and record.fallback is not None:
            claims.add_fallback(record.fallback, record.name, record.record)
    for record in records:
        if record.by_path is not None:
            claims.add_path(record.by_path, record.record)
    return [_match(record, claims) for record in records]


def _match(record: PossibleFiles, claims: FileClaims) -> Match:
    if record.by_path is not None or record.fallback is None:
        return Match(record.by_path, "")
    conflict = claims.conflict(record.fallback, record.name)
    return Match(record.fallback, "") if conflict is None else Match(None, conflict)


def refuse_shared_images(source: Source, records: Iterable[Record]) -> Iterator[Record]:
    """Yield the records of a source, with `conflict` where a fallback is not to be taken.

    Names are read once before the records, and kept in a temporary file as long as it is needed.
    In memory are 16 bytes for each file name that an image can have, about three times that while
    they are sorted, and the fallbacks to names that several images have in different folders.
    """
    conflicts = _conflicts(source.image_names(), source.images)
    for record in records:
        conflict = conflicts.get((record.id, record.candidates))
        yield record if conflict is None else replace(record, conflict=conflict)


def _conflicts(images: Iterable[ImageName], folder: Path) -> dict[tuple[str, tuple[str, ...]], str]:
    """Return (id, candidates) of each record that must not fall back -> the reason."""
    names = SpillFile()
    repeated = _repeated_names(_spilled(images, names))
    if not repeated:
        return {}
    size, claims = size_lookup(folder), FileClaims()
    fallbacks: list[tuple[ImageName, str]] = []
    for image in _read_back(names):
        if image.candidates != (image.name,) and not repeated.isdisjoint(_last_parts(image)):
            file = _first_file(image.candidates, size)
            if file is not None and file != image.name:
                claims.add_fallback(file, image.name, image.record)
                fallbacks.append((image, file))
    for image in _read_back(names) if claims else ():
        claims.add_path(image.name, image.record)
    reasons = ((image, claims.conflict(file, image.name)) for image, file in fallbacks)
    return {(image.record, image.candidates): reason for image, reason in reasons if reason}


def _spilled(images: Iterable[ImageName], file: SpillFile) -> Iterator[ImageName]:
    """Yield names and write them to a file: a source may parse all of its annotations for them."""
    for image in images:
        file.add(0, json.dumps(image).encode())
        yield image


def _read_back(file: SpillFile) -> Iterator[ImageName]:
    for _, raw in file:
        record, name, candidates = json.loads(raw)
        yield ImageName(record, name, tuple(candidates))


def _repeated_names(images: Iterable[ImageName]) -> set[int]:
    """The hashes of the names without folders that images of different paths can have."""
    parts, paths = array("Q"), array("Q")
    for image in images:
        path = _hash(image.name)
        for part in _last_parts(image):
            parts.append(part)
            paths.append(path)
    part_hashes, path_hashes = np.asarray(parts), np.asarray(paths)
    order = np.lexsort((path_hashes, part_hashes))
    part_hashes, path_hashes = part_hashes[order], path_hashes[order]
    again = part_hashes[1:] == part_hashes[:-1]
    differs = path_hashes[1:] != path_hashes[:-1]
    return set(part_hashes[1:][again & differs].tolist())


def _last_parts(image: ImageName) -> set[int]:
    return {_hash(part) for part in {name.rpartition("/")[2] for name in image.candidates}}


def _first_file(candidates: Iterable[str], size: Callable[[str], int | None]) -> str | None:
    """The first candidate that exists, as `find_image` looks for it; None before an unsafe one."""
    for name in candidates:
        if is_unsafe(name):
            return None
        if size(name) is not None:
            return name
    return None


def _hash(text: str) -> int:
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")
