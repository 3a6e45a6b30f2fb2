"""Find images that two sets share: the same bytes, or the same picture scaled or re-encoded."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.arguments import check_number
from segkit.errors import InputError
from segkit.images.decode import decode
from segkit.images.orientation import orientation, turn
from segkit.shards.label_columns import read_images
from segkit.shards.reader import ShardSet

SIDE = 16
BITS = SIDE * SIDE
MAX_DISTANCE = 24
"""Bits of 256 in which the hashes of one picture may differ; `docs/shards.md` has the measurement
behind it, as behind `MAX_DIFFERENCE`."""
MAX_DIFFERENCE = 32
"""Levels of 256 by which the brightness of the most different tenth of the cells of two thumbnails
of one picture may differ: hashes state what is brighter, so those of flat pictures hold little."""
_TENTH = BITS // 10
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
    image: NDArray[np.intp]
    """(R,) index of the image of each row; a photo that its EXIF orientation turns has two rows: as
    its pixels are stored, and as viewers show it."""
    signs: NDArray[np.float32]
    """(R, 256) bits of the perceptual hashes as -1 and 1."""
    cells: NDArray[np.uint8]
    """(R, 256) brightness of the cells of a 16 x 16 thumbnail."""


def find_leaks(
    sets: Sequence[ShardSet],
    *,
    near: int = MAX_DISTANCE,
    advance: Callable[[], None] = lambda: None,
) -> Iterator[Leak]:
    """Every pair of identical images in two different sets; each image is decoded once.

    Args:
        sets: sets with images, at least two.
        near: bits of 256 in which perceptual hashes may differ; the brightness of thumbnails may
            always differ by `MAX_DIFFERENCE`.
        advance: called after every image.

    Raises:
        InputError: there is one set, a set has no images, or one of them cannot be decoded.
    """
    check_number(near, "near", 0, BITS)
    if len(sets) < 2:
        raise InputError("nothing to compare with one set", hint="give two or more")
    prints = [_fingerprints(data, advance) for data in sets]
    for a, b in combinations(range(len(sets)), 2):
        exact = set(_same_bytes(prints[a], prints[b]))
        for i, j in sorted(exact):
            yield Leak(a, prints[a].ids[i], b, prints[b].ids[j], None)
        for (i, j), distance in _same_picture(prints[a], prints[b], near).items():
            if (i, j) not in exact:
                yield Leak(a, prints[a].ids[i], b, prints[b].ids[j], distance)


def image_digests(data: ShardSet) -> dict[str, str]:
    """SHA-256 of the bytes of each image by its id; reads images only where a row has none.

    Raises:
        InputError: such an image cannot be read.
    """
    digests = dict(data.image_digests())
    if None in digests.values():
        for sample in data.read_ahead(read_images(data), lambda s: digests[s.id] is None):
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


def cell_differences(
    first: NDArray[np.uint8], second: NDArray[np.uint8]
) -> NDArray[np.floating[Any]]:
    """(P,) mean difference of the most different tenth of the cells of each pair of thumbnails.

    Args:
        first: (P, 256) brightness of the cells.
        second: as `first`.
    """
    differences = np.abs(first.astype(np.int16) - second)
    most = np.partition(differences, -_TENTH, axis=1)[:, -_TENTH:]
    means: NDArray[np.floating[Any]] = most.mean(axis=1)
    return means


def thumbnail_cells(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mean brightness of each of 16 x 16 cells of a picture (H, W)."""
    import cv2

    small = cv2.resize(gray.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(small.round().clip(0, 255), np.uint8).reshape(-1)


def _fingerprints(data: ShardSet, advance: Callable[[], None]) -> _Fingerprints:
    ids, digests, images, signs, cells = [], [], [], [], []
    for number, sample in enumerate(data.read_ahead(read_images(data))):
        content = data.image_bytes(sample)
        for gray in _pictures(content, sample.file_name, f"image {sample.id} of {data.path}"):
            images.append(number)
            signs.append(np.where(perceptual_hash(gray), np.float32(1), np.float32(-1)))
            cells.append(thumbnail_cells(gray))
        ids.append(sample.id)
        digests.append(sample.image.sha256 or hashlib.sha256(content).hexdigest())
        advance()
    rows = len(images), BITS
    thumbnails = np.reshape(np.array(cells, np.uint8), rows)
    return _Fingerprints(
        ids, digests, np.array(images, np.intp), np.reshape(signs, rows), thumbnails
    )


def _pictures(content: bytes, file: str, record: str) -> Iterator[NDArray[np.uint8]]:
    """The image at half its size (H, W), and turned by its EXIF orientation where it has one."""
    import cv2

    hint = "replace the image and convert again"
    try:
        flags = cv2.IMREAD_REDUCED_GRAYSCALE_2
        gray = decode(content, flags, file=file, record=record, hint=hint)
    except InputError:  # OpenCV cannot halve a side of one pixel
        gray = decode(content, cv2.IMREAD_GRAYSCALE, file=file, record=record, hint=hint)
    yield gray
    if (number := orientation(content)) != 1:
        yield np.asarray(turn(gray, number), np.uint8)


def _same_bytes(a: _Fingerprints, b: _Fingerprints) -> Iterator[tuple[int, int]]:
    indices: defaultdict[str, list[int]] = defaultdict(list)
    for i, digest in enumerate(a.sha256):
        indices[digest].append(i)
    for j, digest in enumerate(b.sha256):
        for i in indices.get(digest, ()):
            yield i, j


def _same_picture(a: _Fingerprints, b: _Fingerprints, near: int) -> dict[tuple[int, int], int]:
    """The pairs within `near` bits whose thumbnails agree too, and the bits that differ.

    The Hamming distance of sign vectors is (256 - product) / 2.
    """
    nearest = dict[tuple[int, int], int]()
    for left, right in product(range(0, len(a.image), _BLOCK), range(0, len(b.image), _BLOCK)):
        distance = (BITS - a.signs[left : left + _BLOCK] @ b.signs[right : right + _BLOCK].T) / 2
        rows, columns = np.nonzero(distance <= near)
        for start in range(0, len(rows), _BLOCK):
            i, j = rows[start : start + _BLOCK], columns[start : start + _BLOCK]
            differences = cell_differences(a.cells[left + i], b.cells[right + j])
            agree = differences <= MAX_DIFFERENCE
            i, j = i[agree], j[agree]
            pairs = zip(a.image[left + i].tolist(), b.image[right + j].tolist(), strict=True)
            for pair, bits in zip(pairs, distance[i, j].astype(int).tolist(), strict=True):
                nearest[pair] = min(bits, nearest.get(pair, BITS))
    return nearest
