"""Find images that two sets share: the same bytes, or the same picture scaled or re-encoded."""

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
MAX_DISTANCE = 24
"""Bits of 256 in which the hashes of one picture may differ; `docs/shards.md` has the measurement
behind it."""
_BLOCK = 4096
"""Images of each side whose distances are computed at once."""


@dataclass(frozen=True, slots=True)
class Leak:
    """One image in two sets."""

    a: int
    """Index of the set."""
    id_a: str
    b: int
    id_b: str
    distance: int | None
    """None: the same bytes; else the bits in which the perceptual hashes differ."""


@dataclass(frozen=True)
class _Fingerprints:
    ids: list[str]
    sha256: list[str]
    signs: NDArray[np.float32]
    """(N, 256) bits of the perceptual hashes as -1 and 1."""


def find_leaks(
    sets: Sequence[ShardSet],
    *,
    near: int = MAX_DISTANCE,
    advance: Callable[[], None] = lambda: None,
) -> Iterator[Leak]:
    """Every pair of identical images in two different sets; each image is decoded once.

    Args:
        sets: sets with images, at least two.
        near: bits of 256 in which perceptual hashes may differ.
        advance: called after every image.

    Raises:
        InputError: a set has no images, or one of them cannot be decoded.
    """
    prints = [_fingerprints(data, advance) for data in sets]
    for a, b in combinations(range(len(sets)), 2):
        exact = set(_same_bytes(prints[a], prints[b]))
        for i, j in sorted(exact):
            yield Leak(a, prints[a].ids[i], b, prints[b].ids[j], None)
        for i, j, distance in _same_picture(prints[a], prints[b], near):
            if (i, j) not in exact:
                yield Leak(a, prints[a].ids[i], b, prints[b].ids[j], distance)


def image_digests(data: ShardSet) -> dict[str, str]:
    """SHA-256 of the bytes of each image by its id; reads images only where a row has none.

    Raises:
        InputError: such an image cannot be read.
    """
    digests = dict(data.image_digests())
    if None in digests.values():
        for sample in data.read_ahead(data.samples(), lambda s: digests[s.id] is None):
            if digests[sample.id] is None:
                digests[sample.id] = hashlib.sha256(data.image_bytes(sample)).hexdigest()
    return {key: digest for key, digest in digests.items() if digest is not None}


def perceptual_hash(gray: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """256 bits of a picture (H, W).

    Each states whether a cell of a 16 x 17 thumbnail is brighter than its left neighbor.

    The difference hash of N. Krawetz ("Kind of Like That", 2013) at twice its side.
    """
    import cv2

    small = cv2.resize(gray.astype(np.float32), (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA)
    bits: NDArray[np.bool_] = (small[:, 1:] > small[:, :-1]).reshape(-1)
    return bits


def _fingerprints(data: ShardSet, advance: Callable[[], None]) -> _Fingerprints:
    import cv2

    ids, digests, signs = [], [], []
    for sample in data.read_ahead(data.samples()):
        content = data.image_bytes(sample)
        half_size = decode(
            content,
            cv2.IMREAD_REDUCED_GRAYSCALE_2,
            file=sample.file_name,
            record=f"image {sample.id} of {data.path}",
            hint="replace the image and convert again",
        )
        signs.append(np.where(perceptual_hash(half_size), np.float32(1), np.float32(-1)))
        ids.append(sample.id)
        digests.append(sample.image.sha256 or hashlib.sha256(content).hexdigest())
        advance()
    return _Fingerprints(ids, digests, np.reshape(signs, (len(ids), BITS)))


def _same_bytes(a: _Fingerprints, b: _Fingerprints) -> Iterator[tuple[int, int]]:
    indices: defaultdict[str, list[int]] = defaultdict(list)
    for i, digest in enumerate(a.sha256):
        indices[digest].append(i)
    for j, digest in enumerate(b.sha256):
        for i in indices.get(digest, ()):
            yield i, j


def _same_picture(a: _Fingerprints, b: _Fingerprints, near: int) -> Iterator[tuple[int, int, int]]:
    """Pairs within `near` bits; the Hamming distance of sign vectors is (256 - product) / 2."""
    for left, right in product(range(0, len(a.ids), _BLOCK), range(0, len(b.ids), _BLOCK)):
        distance = (BITS - a.signs[left : left + _BLOCK] @ b.signs[right : right + _BLOCK].T) / 2
        for i, j in zip(*np.nonzero(distance <= near), strict=True):
            yield left + int(i), right + int(j), int(distance[i, j])
