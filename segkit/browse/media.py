"""Write the images and class maps of a set as files: FiftyOne reads neither tars nor Parquet."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit import storage
from segkit.atomic import new_cache_file
from segkit.cache import cache_root
from segkit.errors import SegkitError
from segkit.file_names import is_digest
from segkit.images.orientation import orientation, without_orientation
from segkit.masks import rle
from segkit.sample import Sample
from segkit.shards.reader import ShardSet
from segkit.taxonomy import Taxonomy

_SHOWN = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM")
"""First bytes of JPEG, PNG, GIF and BMP."""
_MAX_NAME = 200
"""Bytes of a file name; file systems allow 255, and some names get an extension."""


def media_root() -> Path:
    """Return the folder of all extracted files: `browse` in $SEGKIT_CACHE (~/.cache/segkit)."""
    return cache_root() / "browse"


def image_file(shards: ShardSet, sample: Sample, root: Path) -> Path:
    """Return a file with the sample's image: the user's file if the set refers to one, else a copy.

    A copy has no EXIF orientation, by which the App would turn the pixels that the labels fit.

    Copies under `root` are named by the digest of their bytes, so the versions and layers of a set
    share them. An image that the set refers to by URL is copied too. Formats that browsers do not
    show, such as TIFF, become PNGs.
    """
    ref, digest = sample.image, sample.image.sha256
    if ref.tar is None and ref.path is not None:
        source = shards.locations.image(ref.path)
        if not storage.is_remote(source):
            data = shards.image_bytes(sample)  # the file may have changed since the conversion
            if orientation(data) == 1 and _is_shown(data):
                return source
    name = _file_name(sample)
    if digest and is_digest(digest):
        file = root / "images" / digest[:16] / name
        if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == digest:
            return file
    data = without_orientation(shards.image_bytes(sample))
    folder = root / "images" / hashlib.sha256(data).hexdigest()[:16]
    if not _is_shown(data):
        pixels = cv2.cvtColor(shards.image(sample), cv2.COLOR_RGB2BGR)
        png = folder / f"{name}.png"
        return _write(png, lambda draft: cv2.imwrite(str(draft), pixels))
    return _write(folder / name, lambda draft: bool(draft.write_bytes(data)))


def _is_shown(data: bytes) -> bool:
    """Whether browsers show an image that begins like this; they do not show TIFF, for example."""
    return data.startswith(_SHOWN) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def _file_name(sample: Sample) -> str:
    """Return the last part of the image's name, or a made-up one if it cannot name a file."""
    name = PurePosixPath(sample.file_name).name
    if name in ("", ".", "..") or "\0" in name or len(os.fsencode(name)) > _MAX_NAME:
        suffix = PurePosixPath(name).suffix[:8].replace("\0", "")
        return f"{hashlib.sha256(sample.file_name.encode()).hexdigest()[:16]}{suffix}"
    return name


def class_map_file(shards: ShardSet, sample: Sample, root: Path) -> Path:
    """Return a PNG of the sample's class map under `root`.

    It is written at every load: to check that the file of an earlier one is intact takes as long.
    """
    version = hashlib.sha256(shards.manifest.digest.encode()).hexdigest()[:16]
    name = quote(sample.id, safe="")
    if len(name) > _MAX_NAME:
        name = hashlib.sha256(sample.id.encode()).hexdigest()
    pixels = class_map(sample, shards.taxonomy)
    file = root / "class_maps" / version / f"{name}.png"
    return _write(file, lambda draft: cv2.imwrite(str(draft), pixels))


def class_map(sample: Sample, taxonomy: Taxonomy) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Paint a sample's masks as a map of taxonomy index + 1; 0 where no segment has a mask.

    Class ids cannot be the values, because FiftyOne hides 0 and CamVid has a class 0.

    Returns:
        (H, W) uint8, or uint16 from 256 classes on.
    """
    layers = [
        (taxonomy.index[s.class_id] + 1, s.mask) for s in sample.segments if s.mask is not None
    ]
    painted = rle.paint(layers, sample.height, sample.width)
    return painted.astype(np.uint8) if len(taxonomy.categories) < 256 else painted.astype(np.uint16)


def _write(file: Path, write: Callable[[Path], bool]) -> Path:
    with new_cache_file(file) as draft:
        if not write(draft):
            raise SegkitError(f"{file}: could not be written")
    return file
