"""Converts Pascal VOC segmentation: SegmentationClass as semantic, SegmentationObject as instances.

Index 255, the border of objects, is void. Index 0 is background, where all 20 classes were
annotated: neither void nor, unless it is asked for, a segment.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit import parse
from segkit.errors import InputError, short
from segkit.file_names import is_unsafe
from segkit.masks import rle
from segkit.sample import Sample
from segkit.sources.image_files import Picture
from segkit.sources.index_masks import IndexMaskSource
from segkit.sources.label_maps import read_indices
from segkit.sources.ledger import Tally
from segkit.sources.semantic_masks import SemanticMasks
from segkit.sources.source import Record, RecordContent
from segkit.storage import StrPath, location
from segkit.taxonomy import Category, Taxonomy, load_taxonomy

_BACKGROUND, _BORDER = 0, 255
_MAX_NAME = 250
"""Characters of a name without its extension; file systems allow 255 bytes."""


class VocSemantic(SemanticMasks):
    """One region per class and image."""

    def sample(
        self, record: Record, content: NDArray[Any], picture: Picture | None, tally: Tally
    ) -> Sample:
        """Build the sample: a segment for each class; the border and unknown indices are void."""
        sample = super().sample(record, content, picture, tally)
        return _with_void(sample, ~np.isin(content, [_BACKGROUND, *self.taxonomy.by_id]))


@dataclass(frozen=True)
class VocInstances(IndexMaskSource):
    """One segment per object, of the class that most of its pixels have in the class map."""

    objects: Path = Path()
    """Folder of the object PNGs."""

    def fingerprint(self) -> dict[str, Any]:
        """Return the fingerprint of the masks, and the folder of objects."""
        return {**super().fingerprint(), "objects": str(self.objects.resolve())}

    def load(self, record: Record) -> RecordContent:
        """Return the object map with the class of each object, and the class names."""
        name = f"image {record.id}"
        classes = read_indices(self._mask_path(record), None, record=name)
        size = (classes.shape[1], classes.shape[0])
        objects = read_indices(self.objects / record.data, size, record=name)
        object_classes = {
            number: int(np.bincount(classes[objects == number]).argmax())
            for number in np.unique(objects).tolist()
            if number not in (_BACKGROUND, _BORDER)
        }
        names = [self._class_name(index) for index in object_classes.values()]
        return RecordContent((objects, object_classes), names)

    def sample(self, record: Record, content: Any, picture: Picture | None, tally: Tally) -> Sample:
        """Build the sample: a segment for each object; the border and dropped objects are void."""
        objects, object_classes = content
        height, width = objects.shape
        self._check_size(record, picture, width, height)
        segments, void = [], [_BORDER]
        for number, region in rle.regions(objects).items():
            index = object_classes.get(number)
            if index is None:
                continue
            if index in self.taxonomy.by_id:
                segments.append(replace(self._segment(index, region), source_id=str(number)))
                continue
            void.append(number)
            message = f"object {number} covers pixels of index {index}"
            class_name, data = self._class_name(index), {"object": number}
            tally.drop(
                self._defect(
                    record, "unknown-category", message, class_name, data, folder=self.objects
                )
            )
        sample = Sample(record.id, record.file_name, width, height, tuple(segments))
        return _with_void(sample, np.isin(objects, void))


def open_voc(
    root: StrPath, split: str, *, instances: bool = False, background: bool = False
) -> VocSemantic | VocInstances:
    """Open one split of a VOC2012 folder as a source.

    Args:
        root: folder VOC2012.
        split: train, val or trainval: a list of ImageSets/Segmentation.
        instances: take the objects of SegmentationObject.
        background: make background the 21st class, as the challenge's own mean IoU does; without
            it, the pixels of background do not count in training and evaluation of class maps.

    Raises:
        InputError: a folder or the list of images does not exist, or both options are given.
    """
    root = location(root)
    if instances and background:
        raise InputError("background is no object", hint="leave out --instances or --background")
    images, masks = root / "JPEGImages", root / "SegmentationClass"
    objects = root / "SegmentationObject"
    stems = _read_split(root / "ImageSets" / "Segmentation" / f"{split}.txt")
    for folder in (images, masks, *([objects] if instances else [])):
        if not folder.is_dir():
            hint = "give the folder VOC2012 with its segmentations"
            raise InputError("no such folder", file=folder, hint=hint)
    taxonomy, ignore = load_taxonomy("voc-20"), frozenset({_BACKGROUND, _BORDER})
    if background:
        everything_else = Category(_BACKGROUND, "background", "stuff")
        taxonomy = Taxonomy("voc-21", (everything_else, *taxonomy.categories))
        ignore = frozenset({_BORDER})
    pairs = tuple((f"{stem}.jpg", f"{stem}.png") for stem in stems)
    header: dict[str, Any] = {"ignore": [_BORDER]}
    if not instances:
        if not background:
            header["background"] = _BACKGROUND  # of pixels that have no segment and are not void
        return VocSemantic(images, masks, taxonomy, ignore, pairs, name="voc", header=header)
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


def _read_split(path: Path) -> list[str]:
    """The sorted stems of a list of images."""
    hint = "give the folder VOC2012 and --split train, val or trainval"
    stems = sorted({line for _, line in parse.read_lines(path, hint=hint)})
    for stem in stems:
        if is_unsafe(stem) or "/" in stem or len(stem) > _MAX_NAME:
            message = f"invalid image name {short(repr(stem))}"
            raise InputError(message, file=path, hint="download the list again")
    return stems


def _with_void(sample: Sample, void: NDArray[np.bool_]) -> Sample:
    """The sample with these void pixels, which are known also where there are none."""
    return replace(sample, void=rle.encode(void))
