"""Images that two sets share: the same bytes, or the same picture scaled or encoded anew."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from segkit.images.decode import decode
from segkit.shards.reader import ShardSet

SIDE = 16
BITS = SIDE * SIDE
NEAR = 24
"""Bits of 256 in which two pictures may differ and count as one; `docs/shards.md` has the
measurement behind it."""
_CHUNK = 4096
_MEND = "replace the image and convert again"


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


def leaks(
    sets: Sequence[ShardSet], *, near: int = NEAR, advance: Callable[[], None] = lambda: None
) -> Iterator[Leak]:
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


def perceptual_hash(grey: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """256 bits of a picture (H, W): whether each cell of a 16 x 17 thumbnail is brighter than its
    left neighbor.

    The difference hash of N. Krawetz ("Kind of Like That", 2013) at twice its side.
    """
    import cv2

    small = cv2.resize(grey.astype(np.float32), (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA)
    bits: NDArray[np.bool_] = (small[:, 1:] > small[:, :-1]).reshape(-1)
    return bits


def _fingerprints(one: ShardSet, advance: Callable[[], None]) -> _Prints:
    import cv2

    ids, digests = [], []
    signs = np.empty((len(one), BITS), np.float32)
    for row, sample in enumerate(one.samples()):
        data, record = one.image_bytes(sample), f"image {sample.id} of {one.path}"
        half = decode(
            data, cv2.IMREAD_REDUCED_GRAYSCALE_2, file=sample.file_name, record=record, hint=_MEND
        )
        signs[row] = np.where(perceptual_hash(half), 1, -1)
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
