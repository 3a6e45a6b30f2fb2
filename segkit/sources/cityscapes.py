"""Converts Cityscapes (gtFine): the 19 classes of its benchmarks, as semantic or panoptic labels.

In `*_instanceIds.png` a value below 1000 is a class, any other is class x 1000 + instance. A thing
class without an instance number marks a group of objects: a crowd segment, as in Cityscapes' own
panoptic files. The classes that the benchmarks exclude (ids 0-6, 9, 10, ...) are void.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError, plural
from segkit.file_names import require_utf8
from segkit.masks import rle
from segkit.sample import Sample
from segkit.sources.image_files import Picture
from segkit.sources.index_masks import IndexMaskSource, void_mask
from segkit.sources.label_maps import read_indices
from segkit.sources.ledger import Defect, Tally
from segkit.sources.semantic_masks import SemanticMasks
from segkit.sources.source import Record, RecordContent
from segkit.storage import StrPath, location
from segkit.taxonomy import load_taxonomy

_CLASSES = 34  # ids 0-33
_INSTANCES = 1000
_IMAGE, _LABELS, _NUMBERS = "_leftImg8bit.png", "_gtFine_labelIds.png", "_gtFine_instanceIds.png"


class _Frames(IndexMaskSource):
    def records(self, tally: Tally) -> Iterator[Record]:
        """Yield frames under Cityscapes' ids, such as `aachen_000000_000019`."""
        ids: set[str] = set()
        for record in super().records(tally):
            frame = Path(record.file_name).name.removesuffix(_IMAGE)
            if frame in ids:
                message = "a frame of another city has the same name"
                file = str(self.images / record.file_name)
                tally.images_in += 1
                tally.drop_image(Defect("duplicate-id", message, file, f"image {frame}"), ())
                continue
            ids.add(frame)
            yield replace(record, id=frame)


class CityscapesSemantic(_Frames, SemanticMasks):
    """Label ids: one region per class and image."""


@dataclass(frozen=True)
class CityscapesPanoptic(_Frames):
    """Instance ids: one segment per thing, groups of things as crowds."""

    def load(self, record: Record) -> RecordContent:
        """Return the map of instance ids, and the class name of each that is not void."""
        ids = read_indices(self._mask_path(record), None, record=f"image {record.id}")
        ids = ids.astype(np.int32)
        classes = [_class_id(number) for number in np.unique(ids).tolist()]
        names = [self._class_name(index) for index in classes if index not in self.ignore]
        return RecordContent(ids, names)

    def sample(
        self, record: Record, content: NDArray[Any], picture: Picture | None, tally: Tally
    ) -> Sample:
        """Build the sample: a segment for each instance, group and stuff class."""
        height, width = content.shape
        self._check_size(record, picture, width, height)
        regions = rle.regions(content)
        segments, void = [], []
        for number, region in regions.items():
            class_id = _class_id(number)
            if class_id in self.taxonomy.by_id:
                segment = self._segment(class_id, region)
                group = segment.kind == "thing" and number < _INSTANCES
                segments.append(replace(segment, is_crowd=group, source_id=str(number)))
                continue
            void.append(number)
            if class_id not in self.ignore:
                message = f"{plural(region.area, 'pixel')} of instance id {number}"
                class_name = self._class_name(class_id)
                data = {"id": number}
                tally.drop(self._defect(record, "unknown-category", message, class_name, data))
        counts = void_mask(content, void, regions)
        return Sample(record.id, record.file_name, width, height, tuple(segments), void=counts)


def open_cityscapes(
    root: StrPath, split: str, *, instances: bool = False
) -> CityscapesSemantic | CityscapesPanoptic:
    """Open one split of leftImg8bit and gtFine as a source.

    Args:
        root: folder that contains leftImg8bit and gtFine.
        split: train or val.
        instances: read the instance ids for panoptic labels.

    Raises:
        InputError: one of the folders does not exist or contains no frames.
    """
    root = location(root)
    images, masks = root / "leftImg8bit" / split, root / "gtFine" / split
    archives = {images: "leftImg8bit_trainvaltest.zip", masks: "gtFine_trainvaltest.zip"}
    for folder, archive in archives.items():
        if not folder.is_dir():
            hint = f"unpack {archive} there, or give another --split"
            raise InputError("no such folder", file=folder, hint=hint)
    taxonomy = load_taxonomy("cityscapes-19")
    ignore = frozenset(range(_CLASSES)) - taxonomy.by_id.keys()
    pairs, unpaired = _pair_frames(images, masks, _NUMBERS if instances else _LABELS)
    header = {"ignore": [0]}
    if not instances:
        return CityscapesSemantic(
            images, masks, taxonomy, ignore, pairs, unpaired, name="cityscapes", header=header
        )
    return CityscapesPanoptic(
        images,
        masks,
        taxonomy,
        ignore,
        pairs,
        unpaired,
        name="cityscapes",
        kind="panoptic",
        header=header,
    )


def _pair_frames(
    images: Path, masks: Path, mask_suffix: str
) -> tuple[tuple[tuple[str, str], ...], int]:
    """Pairs of frames and masks as in `pair_masks`, and the number of masks without a frame."""
    frames = sorted(path.relative_to(images).as_posix() for path in images.glob(f"*/*{_IMAGE}"))
    for frame in frames:
        require_utf8(frame)
    if not frames:
        raise InputError(f"contains no */*{_IMAGE}", file=images, hint="check the path")
    pairs = []
    for frame in frames:
        mask = frame.removesuffix(_IMAGE) + mask_suffix
        pairs.append((frame, mask if (masks / mask).is_file() else ""))
    mask_names = {path.relative_to(masks).as_posix() for path in masks.glob(f"*/*{mask_suffix}")}
    return tuple(pairs), len(mask_names - {mask for _, mask in pairs})


def _class_id(number: int) -> int:
    return number if number < _INSTANCES else number // _INSTANCES
