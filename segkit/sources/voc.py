"""Pascal VOC segmentation: SegmentationClass as index maps, or SegmentationObject as instances.

Index 255 (the border of objects) is void. Index 0 is background: no segment and not void, since all
20 classes were looked for there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.masks import rle
from segkit.sample import Sample
from segkit.sources.image_files import Picture, is_unsafe
from segkit.sources.label_maps import read_indices
from segkit.sources.ledger import Defect, Tally
from segkit.sources.semantic_masks import IndexMaskSource, SemanticMasks
from segkit.sources.source import Record
from segkit.taxonomy import load_taxonomy

_BACKGROUND, _BORDER = 0, 255


class VocSemantic(SemanticMasks):
    """One region per class and image."""

    def sample(
        self, record: Record, content: NDArray[Any], picture: Picture | None, tally: Tally
    ) -> Sample:
        """A segment for each class; only the border is void."""
        sample = super().sample(record, content, picture, tally)
        return _with_border_as_void(sample, content)


@dataclass(frozen=True)
class VocInstances(IndexMaskSource):
    """One segment per object; its class is that of its pixels in the class map."""

    objects: Path = Path()
    """Folder of the object PNGs."""

    def fingerprint(self) -> dict[str, Any]:
        """As every label map's, and the folder of objects."""
        return {**super().fingerprint(), "objects": str(self.objects.resolve())}

    def load(self, record: Record) -> tuple[Any, Sequence[str]]:
        """The map of objects, and the class name of each."""
        where = f"image {record.id}"
        classes = read_indices(self._mask(record), None, record=where)
        size = (classes.shape[1], classes.shape[0])
        objects = read_indices(self.objects / record.data, size, record=where)
        owners = {
            number: int(np.bincount(classes[objects == number]).argmax())
            for number in np.unique(objects).tolist()
            if number not in (_BACKGROUND, _BORDER)
        }
        return (objects, owners), [self._class_name(index) for index in owners.values()]

    def sample(self, record: Record, content: Any, picture: Picture | None, tally: Tally) -> Sample:
        """A segment for each object."""
        objects, owners = content
        height, width = objects.shape
        self._check_size(record, picture, width, height)
        segments = []
        for number, region in rle.regions(objects).items():
            index = owners.get(number)
            if index is not None and index in self.taxonomy.by_id:
                segments.append(replace(self._segment(index, region), source_id=str(number)))
            elif index is not None:
                what, name = (
                    f"object {number} lies on pixels of index {index}",
                    self._class_name(index),
                )
                file = str(self.objects / record.data)
                tally.drop(
                    Defect(
                        "unknown-category",
                        what,
                        file,
                        f"image {record.id}",
                        name,
                        {"object": number},
                    )
                )
        sample = Sample(record.id, record.file_name, width, height, tuple(segments))
        return _with_border_as_void(sample, objects)


def _with_border_as_void(sample: Sample, indices: NDArray[Any]) -> Sample:
    border = indices == _BORDER
    return replace(sample, void=rle.encode(border) if border.any() else None)


def open_voc(root: Path, split: str, *, instances: bool = False) -> VocSemantic | VocInstances:
    """The source of one list (train, val, trainval) of a VOC2012 folder.

    Raises:
        InputError: a folder or the list of images is not there.
    """
    listed = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    images, masks, objects = (
        root / "JPEGImages",
        root / "SegmentationClass",
        root / "SegmentationObject",
    )
    try:
        stems = sorted(set(listed.read_text("utf-8").split()))
    except (OSError, UnicodeDecodeError) as error:
        hint = "give the folder VOC2012 and --split train, val or trainval"
        raise InputError(f"cannot be read ({error})", file=listed, hint=hint) from error
    for stem in stems:
        if is_unsafe(stem) or "/" in stem:
            raise InputError(
                f"{stem!r} is no image of the set", file=listed, hint="get the list again"
            )
    for folder in (images, masks, *([objects] if instances else [])):
        if not folder.is_dir():
            raise InputError(
                "no such folder", file=folder, hint="give the folder VOC2012 with its segmentations"
            )
    taxonomy, ignore = load_taxonomy("voc-20"), frozenset({_BACKGROUND, _BORDER})
    pairs = tuple((f"{stem}.jpg", f"{stem}.png") for stem in stems)
    header = {"ignore": [_BORDER]}
    if instances:
        return VocInstances(
            images,
            masks,
            taxonomy,
            ignore,
            pairs,
            name="voc",
            kind="instance",
            header=header,
            objects=objects,
        )
    return VocSemantic(images, masks, taxonomy, ignore, pairs, name="voc", header=header)
