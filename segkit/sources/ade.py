"""ADE20K SceneParsing (ADEChallengeData2016): 150 classes in index PNGs, and 100 thing classes in
instance PNGs.

`--instances` joins both into panoptic labels. The instance PNG has the thing's number among the 100
in red (counted from 1) and the instance in green; those pixels become instances. Pixels of a thing
class that no instance covers keep their class as one crowd segment: known to be that class, not
known to be how many. (Published recipes turn them into void.) Areas and boxes are counted after the
join.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.sources.class_info import read_class_info
from segkit.sources.image_files import Picture
from segkit.sources.label_maps import read_ids, read_indices
from segkit.sources.ledger import AnnotationError, Defect, ImageError, Tally
from segkit.sources.semantic_masks import IndexMaskSource, SemanticMasks, pair
from segkit.sources.source import Record
from segkit.taxonomy import load_taxonomy

SPLITS = ("training", "validation")
_VOID = frozenset({0})
_HEADER = {"ignore": sorted(_VOID)}
_SHIFT = 8  # a joined map holds a class (1-255), or red and green of an instance above these bits
_FULL_RELEASE = ("index_ade20k.pkl", "images/ADE", "objects.txt")
_SCENE_PARSING = "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"


@dataclass(frozen=True)
class _Joined:
    semantic: NDArray[Any]
    instances: NDArray[np.uint32]
    joined: NDArray[np.uint32]
    """(H, W): class of the semantic map, or number of the instance."""
    hidden: tuple[int, ...]
    """Classes of the semantic map whose last pixel lies under instances of other classes."""


@dataclass(frozen=True)
class AdePanoptic(IndexMaskSource):
    """SceneParsing with its instances: panoptic labels."""

    instances: Path = Path()
    """Folder of the instance PNGs."""

    def fingerprint(self) -> dict[str, Any]:
        """As the semantic source's, and the folder of instances."""
        return {**super().fingerprint(), "instances": str(self.instances.resolve())}

    def load(self, record: Record) -> tuple[_Joined, Sequence[str]]:
        """Both maps joined; input are the instances and what of each class they do not cover
        themselves."""
        where = f"image {record.id}"
        semantic = read_indices(self._mask(record), None, record=where)
        if semantic.dtype != np.uint8:
            raise ImageError(
                "unreadable-mask", "no 8-bit PNG", file=self.masks / record.data, record=where
            )
        size = (semantic.shape[1], semantic.shape[0])
        instances = read_ids(self.instances / record.data, size, record=where) & np.uint32(0xFFFF)
        covered = instances & np.uint32(0xFF) > 0
        joined = np.where(covered, instances << np.uint32(_SHIFT), semantic.astype(np.uint32))
        own = np.bincount(
            semantic[semantic != self._classes()[instances & np.uint32(0xFF)]], minlength=256
        )
        present = [int(index) for index in np.flatnonzero(own) if index not in self.ignore]
        left = set(np.unique(joined).tolist())
        numbers = sorted(value for value in left if value >> _SHIFT)
        content = _Joined(
            semantic, instances, joined, tuple(index for index in present if index not in left)
        )
        return content, [
            *map(self._class_name, present),
            *(self._instance_name(number) for number in numbers),
        ]

    def sample(
        self, record: Record, content: _Joined, picture: Picture | None, tally: Tally
    ) -> Sample:
        """Instances, stuff, and what is left of thing classes as crowds."""
        height, width = content.semantic.shape
        self._check_size(record, picture, width, height)
        for index in content.hidden:
            what, name = (
                "instances of other classes cover the whole region",
                self._class_name(index),
            )
            tally.drop(
                Defect("covered-by-instance", what, str(self.masks / record.data), record.id, name)
            )
        self._compare(content, tally)
        regions = rle.regions(content.joined)
        segments, void = [], []
        for number, region in regions.items():
            if number in self.ignore:
                void.append(number)
                continue
            try:
                segments.append(self._joined_segment(number, region))
            except AnnotationError as refusal:
                void.append(number)
                name = self._instance_name(number) if number >> _SHIFT else self._class_name(number)
                where = str((self.instances if number >> _SHIFT else self.masks) / record.data)
                tally.drop(
                    Defect(
                        refusal.code,
                        str(refusal),
                        where,
                        f"image {record.id}",
                        name,
                        {"index": number},
                    )
                )
        counts = rle.encode(np.isin(content.joined, void)) if void else None
        return Sample(record.id, record.file_name, width, height, tuple(segments), void=counts)

    def _joined_segment(self, number: int, region: rle.Region) -> Segment:
        red, green = number >> _SHIFT & 0xFF, number >> 2 * _SHIFT
        class_id = int(self._classes()[red]) if red else number
        if class_id not in self.taxonomy.by_id:
            what = f"thing {red} of {len(self._things())}" if red else f"index {number}"
            raise AnnotationError(
                "unknown-category", f"{region.area} pixels of {what}, which is not in the list"
            )
        kind = self.taxonomy.by_id[class_id].kind
        return Segment(
            class_id=class_id,
            kind=kind,
            box=region.box,
            mask=region.counts,
            area=float(region.area),
            is_crowd=kind == "thing" and not red,
            mask_from="human",
            source_id=f"{red}:{green}" if red else str(number),
        )

    def _compare(self, content: _Joined, tally: Tally) -> None:
        red = content.instances & np.uint32(0xFF)
        differs = (red > 0) & (self._classes()[red] != content.semantic)
        for number in np.unique(content.instances[differs]).tolist():
            tally.warn("instance-class-differs", self._instance_name(number << _SHIFT))

    def _things(self) -> list[int]:
        return [category.id for category in self.taxonomy.categories if category.kind == "thing"]

    def _classes(self) -> NDArray[np.int64]:
        """Red -> class id: the 100 things are the things of the 150 in their order; 0 where there
        is none."""
        table = np.zeros(256, np.int64)
        things = self._things()
        table[1 : len(things) + 1] = things
        return table

    def _instance_name(self, number: int) -> str:
        red = number >> _SHIFT & 0xFF
        class_id = int(self._classes()[red])
        return self._class_name(class_id) if class_id else f"thing {red}"


def open_ade(
    root: Path, split: str, *, instances: bool = False, classes: Path | None = None
) -> SemanticMasks | AdePanoptic:
    """The source of one split of ADEChallengeData2016, or of a set in its layout with classes of
    its own.

    Args:
        root: folder with `images` and `annotations`.
        split: one of `SPLITS`.
        instances: join the instance PNGs.
        classes: table in the form of objectInfo150.csv; ADE20K's 150 classes if None.

    Raises:
        InputError: another split, or the folder is not SceneParsing's (the full ADE20K release is
            told apart).
    """
    if split not in SPLITS:
        raise InputError(
            f"unknown split {split!r}", file=root, hint=f"give --split {' or '.join(SPLITS)}"
        )
    refuse_full_release(root)
    images, masks = root / "images" / split, root / "annotations" / split
    taxonomy = load_taxonomy("ade20k-150") if classes is None else read_class_info(classes)
    pairs, unpaired = pair(images, masks)
    if not instances:
        return SemanticMasks(
            images, masks, taxonomy, _VOID, pairs, unpaired, name="ade", header=_HEADER
        )
    folder = root / "annotations_instance" / split
    if not folder.is_dir():
        hint = "get annotations_instance.tar of the places challenge, or leave --instances out"
        raise InputError("no such folder of instances", file=folder, hint=hint)
    return AdePanoptic(
        images,
        masks,
        taxonomy,
        _VOID,
        pairs,
        unpaired,
        name="ade",
        kind="panoptic",
        header=_HEADER,
        instances=folder,
    )


def refuse_full_release(root: Path) -> None:
    """Raise InputError where `root` holds ADE20K's full release, or neither release."""
    if (root / "images").is_dir() and (root / "annotations").is_dir():
        return
    found = [
        name
        for name in _FULL_RELEASE
        if (root / name).exists() or list(root.glob(f"ADE20K_*/{name}"))
    ]
    if found or any(root.glob("**/*_seg.png")):
        what = "is the full ADE20K release (thousands of open class names, *_seg.png), not SceneParsing's 150 classes"
        raise InputError(what, file=root, hint=f"get {_SCENE_PARSING}")
    what = "has no folders images/ and annotations/ of ADEChallengeData2016"
    raise InputError(what, file=root, hint=f"check the path, or get {_SCENE_PARSING}")
