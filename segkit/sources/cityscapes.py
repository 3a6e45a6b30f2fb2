"""Cityscapes (gtFine): the 19 classes of its benchmarks, as index maps or, with instances, as
panoptic labels.

In `*_instanceIds.png` a value below 1000 is a class, any other is class x 1000 + instance. A thing
class without an instance number marks a group of objects: a crowd segment, as in Cityscapes' own
panoptic files. The classes that the benchmarks leave out (ids 0-6, 9, 10, ...) are void.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.masks import rle
from segkit.sample import Sample
from segkit.sources.image_files import Picture
from segkit.sources.label_maps import read_indices
from segkit.sources.ledger import Defect, Tally
from segkit.sources.semantic_masks import IndexMaskSource, SemanticMasks
from segkit.sources.source import Record
from segkit.taxonomy import load_taxonomy

_CLASSES = 34  # ids 0-33
_INSTANCES = 1000
_IMAGE, _LABELS, _NUMBERS = "_leftImg8bit.png", "_gtFine_labelIds.png", "_gtFine_instanceIds.png"


class _Frames(IndexMaskSource):
    def records(self, tally: Tally) -> Iterator[Record]:
        """Frames under the ids that Cityscapes gives them, such as `aachen_000000_000019`."""
        for record in super().records(tally):
            yield replace(record, id=Path(record.file_name).name.removesuffix(_IMAGE))


class CityscapesSemantic(_Frames, SemanticMasks):
    """Label ids: one region per class and image."""


@dataclass(frozen=True)
class CityscapesPanoptic(_Frames):
    """Instance ids: things one by one, groups of them as crowds."""

    def load(self, record: Record) -> tuple[NDArray[Any], Sequence[str]]:
        """The map of instance ids, and the class name of each that is not void."""
        numbers = read_indices(self._mask(record), None, record=f"image {record.id}").astype(
            np.int32
        )
        classes = [_class(number) for number in np.unique(numbers).tolist()]
        return numbers, [self._class_name(index) for index in classes if index not in self.ignore]

    def sample(
        self, record: Record, content: NDArray[Any], picture: Picture | None, tally: Tally
    ) -> Sample:
        """A segment for each instance, group and stuff class."""
        height, width = content.shape
        self._check_size(record, picture, width, height)
        segments, void = [], []
        for number, region in rle.regions(content).items():
            if _class(number) in self.taxonomy.by_id:
                segment = self._segment(_class(number), region)
                group = segment.kind == "thing" and number < _INSTANCES
                segments.append(replace(segment, is_crowd=group, source_id=str(number)))
                continue
            void.append(number)
            if _class(number) not in self.ignore:
                what, name = (
                    f"{region.area} pixels of instance id {number}",
                    self._class_name(_class(number)),
                )
                file = str(self.masks / record.data)
                tally.drop(
                    Defect(
                        "unknown-category", what, file, f"image {record.id}", name, {"id": number}
                    )
                )
        counts = rle.encode(np.isin(content, void)) if void else None
        return Sample(record.id, record.file_name, width, height, tuple(segments), void=counts)


def open_cityscapes(
    root: Path, split: str, *, instances: bool = False
) -> CityscapesSemantic | CityscapesPanoptic:
    """The source of one split (train, val) of leftImg8bit and gtFine.

    Raises:
        InputError: one of the folders is not there, or holds no frames.
    """
    images, masks = root / "leftImg8bit" / split, root / "gtFine" / split
    for folder, archive in (
        (images, "leftImg8bit_trainvaltest.zip"),
        (masks, "gtFine_trainvaltest.zip"),
    ):
        if not folder.is_dir():
            raise InputError(
                "no such folder",
                file=folder,
                hint=f"unpack {archive} there, or give another --split",
            )
    taxonomy = load_taxonomy("cityscapes-19")
    ignore = frozenset(range(_CLASSES)) - taxonomy.by_id.keys()
    wanted = _NUMBERS if instances else _LABELS
    frames = sorted(path.relative_to(images).as_posix() for path in images.glob(f"*/*{_IMAGE}"))
    if not frames:
        raise InputError(f"holds no */*{_IMAGE}", file=images, hint="check the path")
    pairs = tuple((frame, _there(masks, frame.removesuffix(_IMAGE) + wanted)) for frame in frames)
    unpaired = len(
        {path.relative_to(masks).as_posix() for path in masks.glob(f"*/*{wanted}")}
        - {m for _, m in pairs}
    )
    header = {"ignore": [0]}
    if instances:
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
    return CityscapesSemantic(
        images, masks, taxonomy, ignore, pairs, unpaired, name="cityscapes", header=header
    )


def _there(folder: Path, name: str) -> str:
    return name if (folder / name).is_file() else ""


def _class(number: int) -> int:
    return number if number < _INSTANCES else number // _INSTANCES
