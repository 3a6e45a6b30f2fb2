"""Small scenes with dense masks, for brute-force comparison."""

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.taxonomy import Category, Taxonomy

TAXONOMY = Taxonomy(
    "scenes",
    (
        Category(5, "cat", "thing"),
        Category(9, "dog", "thing"),
        Category(2, "sky", "stuff"),
        Category(30, "sea", "stuff"),
    ),
)
Mask = NDArray[np.bool_]


def blobs(height: int, width: int, *, seed: int) -> Mask:
    """A random smooth mask with holes and several parts; neither empty nor full for usual sizes."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(max(2, height // 12), max(2, width // 12))).astype(np.float32)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) > 0


def disc(height: int, width: int, x: float, y: float, radius: float) -> Mask:
    rows, columns = np.mgrid[:height, :width] + 0.5
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


def segment(mask: Mask, class_id: int, /, **fields: object) -> Segment:
    """A segment of a dense mask (box and area from it); `fields` replace its values."""
    kind = TAXONOMY.by_id[class_id].kind
    counts = rle.encode(mask)
    values = {
        "box": rle.box(counts, *mask.shape),
        "mask": counts,
        "area": float(mask.sum()),
        "mask_from": "human",
    }
    return Segment(class_id, kind, **{**values, **fields})  # type: ignore[arg-type]


def instance_sample(
    identity: str, seed: int, *, height: int = 80, width: int = 100, boxes_only: bool = False
) -> Sample:
    """Overlapping discs of two classes."""
    rng = np.random.default_rng(seed)
    segments = []
    for _ in range(int(rng.integers(0, 6))):
        mask = disc(
            height, width, rng.uniform(0, width), rng.uniform(0, height), rng.uniform(6, 25)
        )
        hidden = {"mask": None, "mask_from": None} if boxes_only else {}
        segments.append(segment(mask, int(rng.choice([5, 9])), **hidden))
    return Sample(identity, f"{identity}.png", width, height, tuple(segments))


def panoptic_sample(identity: str, seed: int, *, height: int = 80, width: int = 100) -> Sample:
    """A sky in two parts, a sea, discs on them, and a void stripe."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((height, width), np.int64)
    ids[: height // 2, : width // 3], ids[: height // 2, width // 3 :], ids[height // 2 :] = 1, 2, 3
    discs = int(rng.integers(1, 5))
    for number in range(discs):
        ids[
            disc(height, width, rng.uniform(0, width), rng.uniform(0, height), rng.uniform(6, 25))
        ] = 10 + number
    ids[:, width - 7 :] = 0
    classes = {1: 2, 2: 2, 3: 30, **{10 + number: 5 + 4 * (number % 2) for number in range(discs)}}
    segments = [segment(ids == value, classes[value]) for value in np.unique(ids) if value]
    return Sample(
        identity, f"{identity}.png", width, height, tuple(segments), void=rle.encode(ids == 0)
    )


def picture(height: int = 80, width: int = 100, *, seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 10, width // 10, 3), np.uint8)
    return bytes(cv2.imencode(".png", cv2.resize(noise, (width, height)))[1].tobytes())
