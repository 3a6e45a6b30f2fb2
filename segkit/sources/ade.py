"""Converts ADE20K SceneParsing: 150 classes in index PNGs, and 100 thing classes in instance PNGs.

With instances, the two become panoptic labels. An instance PNG codes the number of the thing among
the 100 in red (from 1) and the instance in green; those pixels become instances. Pixels of a thing
class that no instance covers keep their class as one crowd segment: the class is known, the number
of objects is not. (Published recipes make them void.) Areas and boxes are counted after the join.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError, plural
from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.sources.class_info import read_class_info
from segkit.sources.image_files import Picture
from segkit.sources.index_masks import IndexMaskSource, pair_masks, void_mask
from segkit.sources.label_maps import read_ids, read_indices
from segkit.sources.ledger import AnnotationError, ImageError, Tally
from segkit.sources.semantic_masks import SemanticMasks
from segkit.sources.source import Record, RecordContent
from segkit.storage import StrPath, location
from segkit.taxonomy import load_taxonomy

SPLITS = ("training", "validation")
_VOID = frozenset({0})
_HEADER = {"ignore": sorted(_VOID)}
_SHIFT = 8
"""A joined map holds a class (1-255), or red and green of an instance above this many bits."""
_RED = np.uint32(0xFF)
_RED_AND_GREEN = np.uint32(0xFFFF)
_FULL_RELEASE = ("index_ade20k.pkl", "images/ADE", "objects.txt")
_SCENE_PARSING = "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"


@dataclass(frozen=True)
class _Content:
    semantic: NDArray[Any]
    """(H, W) classes."""
    instances: NDArray[np.uint32]
    """(H, W): red + 256 green of the instance PNG."""
    joined: NDArray[np.uint32]
    """(H, W): class of the semantic map, or code of the instance."""
    hidden: tuple[int, ...]
    """Classes of the semantic map that instances of other classes cover to the last pixel."""


@dataclass(frozen=True)
class AdePanoptic(IndexMaskSource):
    """SceneParsing with its instances: panoptic labels."""

    instances: Path = Path()
    """Folder of the instance PNGs."""

    def fingerprint(self) -> dict[str, Any]:
        """Return the fingerprint of the masks, and the folder of instances."""
        return {**super().fingerprint(), "instances": str(self.instances.resolve())}

    def load(self, record: Record) -> RecordContent:
        """Return both maps joined, and the class name of each input.

        Inputs are the instances, and the regions of the semantic map that are not instances of
        their own class.
        """
        name = f"image {record.id}"
        semantic = read_indices(self._mask_path(record), None, record=name)
        if semantic.dtype != np.uint8:
            file = self.masks / record.data
            raise ImageError("unreadable-mask", "not an 8-bit PNG", file=file, record=name)
        size = (semantic.shape[1], semantic.shape[0])
        instances = read_ids(self.instances / record.data, size, record=name) & _RED_AND_GREEN
        red = instances & _RED
        joined = np.where(red > 0, instances << np.uint32(_SHIFT), semantic.astype(np.uint32))
        uncovered = semantic[semantic != self._class_by_red()[red]]  # by instances of its class
        counts = np.bincount(uncovered, minlength=256)
        present = [int(index) for index in np.flatnonzero(counts) if index not in self.ignore]
        values = set(np.unique(joined).tolist())
        codes = sorted(value for value in values if value >> _SHIFT)
        hidden = tuple(index for index in present if index not in values)
        names = [*map(self._class_name, present), *map(self._instance_class, codes)]
        return RecordContent(_Content(semantic, instances, joined, hidden), names)

    def sample(
        self, record: Record, content: _Content, picture: Picture | None, tally: Tally
    ) -> Sample:
        """Build the sample: instances, stuff, and the rest of thing classes as crowds."""
        height, width = content.semantic.shape
        self._check_size(record, picture, width, height)
        for index in content.hidden:
            message = "instances of other classes cover the entire region"
            class_name = self._class_name(index)
            tally.drop(self._defect(record, "covered-by-instance", message, class_name))
        self._warn_of_differences(content, tally)
        regions = rle.regions(content.joined)
        segments, void = [], []
        for value, region in regions.items():
            if value in self.ignore:
                void.append(value)
                continue
            try:
                segments.append(self._joined_segment(value, region))
            except AnnotationError as error:
                void.append(value)
                instance = value >> _SHIFT
                class_name = self._instance_class(value) if instance else self._class_name(value)
                folder = self.instances if instance else self.masks
                data = {"index": value}
                tally.drop(
                    self._defect(record, error.code, str(error), class_name, data, folder=folder)
                )
        counts = void_mask(content.joined, void, regions)
        return Sample(record.id, record.file_name, width, height, tuple(segments), void=counts)

    def _joined_segment(self, value: int, region: rle.Region) -> Segment:
        """Build the segment of a value of the joined map."""
        red, green = value >> _SHIFT & 0xFF, value >> 2 * _SHIFT
        class_id = int(self._class_by_red()[red]) if red else value
        if class_id not in self.taxonomy.by_id:
            label = f"thing {red} of {len(self._things())}" if red else f"index {value}"
            message = f"{plural(region.area, 'pixel')} of {label}, which is not in the list"
            raise AnnotationError("unknown-category", message)
        kind = self.taxonomy.by_id[class_id].kind
        return Segment(
            class_id=class_id,
            kind=kind,
            box=region.box,
            mask=region.counts,
            area=float(region.area),
            is_crowd=kind == "thing" and not red,
            mask_from="human",
            source_id=f"{red}:{green}" if red else str(value),
        )

    def _warn_of_differences(self, content: _Content, tally: Tally) -> None:
        """Count the instances that cover pixels of another class in the semantic map."""
        red = content.instances & _RED
        differs = (red > 0) & (self._class_by_red()[red] != content.semantic)
        for instance in np.unique(content.instances[differs]).tolist():
            tally.warn("instance-class-differs", self._instance_class(instance << _SHIFT))

    def _things(self) -> list[int]:
        return [category.id for category in self.taxonomy.categories if category.kind == "thing"]

    def _class_by_red(self) -> NDArray[np.int64]:
        """(256,) class id of each red value, 0 where there is none.

        The 100 things are the things among the 150 classes, in their order.
        """
        classes = np.zeros(256, np.int64)
        things = self._things()
        classes[1 : len(things) + 1] = things
        return classes

    def _instance_class(self, code: int) -> str:
        """The class name of an instance in the joined map."""
        red = code >> _SHIFT & 0xFF
        class_id = int(self._class_by_red()[red])
        return self._class_name(class_id) if class_id else f"thing {red}"


def open_ade(
    root: StrPath, split: str, *, instances: bool = False, classes: StrPath | None = None
) -> SemanticMasks | AdePanoptic:
    """Open one split of ADEChallengeData2016, or of a dataset in its layout, as a source.

    Args:
        root: folder with `images` and `annotations`.
        split: one of `SPLITS`.
        instances: join the instance PNGs.
        classes: table in the form of objectInfo150.csv; ADE20K's 150 classes if None.

    Raises:
        InputError: the split is unknown, or the folder is not SceneParsing's (the message says so
            if it is the full ADE20K release).
    """
    root = location(root)
    classes = None if classes is None else location(classes)
    if split not in SPLITS:
        hint = f"give --split {' or '.join(SPLITS)}"
        raise InputError(f"unknown split {split!r}", file=root, hint=hint)
    check_scene_parsing(root)
    images, masks = root / "images" / split, root / "annotations" / split
    taxonomy = load_taxonomy("ade20k-150") if classes is None else read_class_info(classes)
    pairing = pair_masks(images, masks)
    listed = (pairing.pairs, pairing.unpaired, pairing.passed_over, pairing.conflicts)
    if not instances:
        return SemanticMasks(images, masks, taxonomy, _VOID, *listed, name="ade", header=_HEADER)
    folder = root / "annotations_instance" / split
    if not folder.is_dir():
        hint = "get annotations_instance.tar of the places challenge, or omit --instances"
        raise InputError("no such folder of instances", file=folder, hint=hint)
    return AdePanoptic(
        images,
        masks,
        taxonomy,
        _VOID,
        *listed,
        name="ade",
        kind="panoptic",
        header=_HEADER,
        instances=folder,
    )


def check_scene_parsing(root: Path) -> None:
    """Raise InputError if `root` contains ADE20K's full release, or neither release."""
    if (root / "images").is_dir() and (root / "annotations").is_dir():
        return
    hint = f"get {_SCENE_PARSING}"
    full_release = any(
        (root / name).exists() or any(root.glob(f"ADE20K_*/{name}")) for name in _FULL_RELEASE
    )
    if full_release or any(root.glob("**/*_seg.png")):
        message = (
            "is the full ADE20K release (thousands of open class names, *_seg.png), "
            "not SceneParsing's 150 classes"
        )
        raise InputError(message, file=root, hint=hint)
    message = "does not contain the folders images/ and annotations/ of ADEChallengeData2016"
    raise InputError(message, file=root, hint=f"check the path, or {hint}")
