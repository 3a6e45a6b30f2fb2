"""Files for FiftyOne, which reads neither tars nor Parquet: images and class maps in a folder of
the cache."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit import storage
from segkit.errors import SegkitError
from segkit.masks import rle
from segkit.sample import Sample
from segkit.shards.reader import ShardSet
from segkit.storage import cache_root
from segkit.taxonomy import Taxonomy


def media_root() -> Path:
    """Folder of all extracted media: `browse` in $SEGKIT_CACHE (~/.cache/segkit)."""
    return cache_root() / "browse"


def image_file(shards: ShardSet, sample: Sample, root: Path) -> Path:
    """A file with the sample's image: the user's own where the set names one on this machine, else
    a copy under `root`.

    Copies lie under the digest of their bytes, so versions and layers of a set share them.
    """
    ref = sample.image
    if ref.tar is None and ref.path is not None:
        own = storage.join(shards.path, ref.path)
        if not storage.is_remote(own):
            return own.resolve()
    name = PurePosixPath(sample.file_name).name
    if ref.sha256:
        file = root / "images" / ref.sha256[:16] / name
        if file.is_file() and file.stat().st_size == ref.length:
            return file
    data = shards.image_bytes(sample)
    digest = ref.sha256 or hashlib.sha256(data).hexdigest()
    return _write(
        root / "images" / digest[:16] / name, lambda partial: bool(partial.write_bytes(data))
    )


def class_map_file(shards: ShardSet, sample: Sample, root: Path) -> Path:
    """A PNG of the sample's class map under `root`; written once per version."""
    digest = shards.manifest.digest[:16]
    file = root / "class_maps" / digest / f"{quote(sample.id, safe='')}.png"
    if file.is_file():
        return file
    pixels = class_map(sample, shards.taxonomy)
    return _write(file, lambda partial: bool(cv2.imwrite(str(partial), pixels)))


def class_map(sample: Sample, taxonomy: Taxonomy) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """(H, W) map of taxonomy index + 1, 0 where no segment has a mask; 16 bit only beyond 255
    classes.

    Class ids would not do: FiftyOne hides 0, and 0 is a class of CamVid.
    """
    layers = [
        (taxonomy.index[s.class_id] + 1, s.mask) for s in sample.segments if s.mask is not None
    ]
    painted = rle.paint(layers, sample.height, sample.width)
    return painted.astype(np.uint8) if len(taxonomy.categories) < 256 else painted.astype(np.uint16)


def _write(file: Path, write: Callable[[Path], bool]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{os.getpid()}.{file.name}")
    if not write(partial):
        raise SegkitError(f"{file}: could not be written")
    partial.replace(file)
    return file
