"""Images that two sets share: the same bytes, or the same picture scaled or encoded anew."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.shards.reader import ShardSet

SIDE = 16
BITS = SIDE * SIDE
NEAR = 24
"""Bits of 256 in which two pictures may differ and count as one; `docs/shards.md` has the measurement behind it."""
_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Leak:
    """One image in two sets."""

    a: int
    """Number of the set, from 0."""
    id_a: str
    b: int
    id_b: str
    distance: int | None
    """None: the same bytes; else bits in which the perceptual hashes differ."""


@dataclass(frozen=True)
class _Prints:
    ids: list[str]
    sha256: list[str]
    signs: NDArray[np.float32]
    """(N, 256) of -1 and 1: the bits of the perceptual hashes."""


def leaks(sets: Sequence[ShardSet], *, near: int = NEAR, advance: Callable[[], None] = lambda: None) -> Iterator[Leak]:
    """Every pair of images of two different sets that are the same; each image is decoded once.

    Args:
        sets: sets with images, at least two.
        near: bits of 256 in which perceptual hashes may differ.
        advance: called after every image.

    Raises:
        InputError: a set has no images, or one of them cannot be decoded.
    """
    prints = [_fingerprints(one, advance) for one in sets]
    for a, b in combinations(range(len(sets)), 2):
        exact = set(_same_bytes(prints[a], prints[b]))
        for i, j in sorted(exact):
            yield Leak(a, prints[a].ids[i], b, prints[b].ids[j], None)
        for i, j, distance in _same_picture(prints[a], prints[b], near):
            if (i, j) not in exact:
                yield Leak(a, prints[a].ids[i], b, prints[b].ids[j], distance)


def perceptual_hash(data: bytes) -> NDArray[np.bool_]:
    """256 bits of an image file: whether each cell of a 16 x 17 thumbnail is brighter than its left neighbour.

    The difference hash of N. Krawetz ("Kind of Like That", 2013) at twice its side. Raises ValueError where the bytes
    are no image.
    """
    import cv2

    raw = np.frombuffer(data, np.uint8)
    flags = cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_IGNORE_ORIENTATION
    grey = cv2.imdecode(raw, flags) if raw.size else None
    if grey is None:
        raise ValueError("the image cannot be decoded")
    small = cv2.resize(grey.astype(np.float32), (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA)
    bits: NDArray[np.bool_] = (small[:, 1:] > small[:, :-1]).reshape(-1)
    return bits


def _fingerprints(one: ShardSet, advance: Callable[[], None]) -> _Prints:
    ids, digests = [], []
    signs = np.empty((len(one), BITS), np.float32)
    for row, sample in enumerate(one.samples()):
        data = one.image_bytes(sample)
        try:
            signs[row] = np.where(perceptual_hash(data), 1, -1)
        except ValueError as error:
            raise InputError(str(error), file=sample.file_name, record=f"image {sample.id} of {one.path}") from error
        ids.append(sample.id)
        digests.append(sample.image.sha256 or hashlib.sha256(data).hexdigest())
        advance()
    return _Prints(ids, digests, signs)


def _same_bytes(a: _Prints, b: _Prints) -> Iterator[tuple[int, int]]:
    places: defaultdict[str, list[int]] = defaultdict(list)
    for i, digest in enumerate(a.sha256):
        places[digest].append(i)
    for j, digest in enumerate(b.sha256):
        for i in places.get(digest, ()):
            yield i, j


def _same_picture(a: _Prints, b: _Prints, near: int) -> Iterator[tuple[int, int, int]]:
    """Pairs by Hamming distance: of sign vectors it is (256 - their product) / 2."""
    for left, right in product(range(0, len(a.ids), _CHUNK), range(0, len(b.ids), _CHUNK)):
        distance = (BITS - a.signs[left : left + _CHUNK] @ b.signs[right : right + _CHUNK].T) / 2
        for i, j in zip(*np.nonzero(distance <= near), strict=True):
            yield left + int(i), right + int(j), int(distance[i, j])
