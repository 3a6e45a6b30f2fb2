"""The base of all sources of index PNGs: images and their masks, paired by name."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.images.check import IMAGE_EXTENSIONS
from segkit.masks import rle
from segkit.sample import Segment
from segkit.shards.manifest import SetKind
from segkit.sources.file_claims import PossibleFiles, match_files
from segkit.sources.image_files import Picture, visible_files
from segkit.sources.ledger import Defect, ImageError, Tally
from segkit.sources.source import ImageName, Record
from segkit.taxonomy import Taxonomy

UNKNOWN_COLOR = 1 << 24
"""Indices from here on are colors that no class has: this plus R + 256 G + 65536 B."""


@dataclass(frozen=True)
class IndexMaskSource:
    """Images and their index PNGs; the base of all semantic sources."""

    images: Path
    masks: Path
    taxonomy: Taxonomy
    ignore: frozenset[int] = frozenset()
    """Indices that mean "no label": their pixels are void."""
    pairs: tuple[tuple[str, str], ...] = ()
    """(image, mask) as paths relative to their folders, in order; "" for a missing mask."""
    unpaired: int = 0
    """Number of masks without an image."""
    passed_over: tuple[tuple[str, int], ...] = ()
    """(extension, number) of the files in the folders that are not images or masks."""
    conflicts: Mapping[str, str] = field(default_factory=dict)
    """Image without a mask -> why the mask with its name in another folder is not taken."""
    name: str = "semantic"
    kind: SetKind = "semantic"
    header: dict[str, Any] = field(default_factory=dict)
    labels: dict[int, str] = field(init=False)
    """Class id -> the name under which the ledger counts it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", self.taxonomy.unique_names)

    @property
    def annotations(self) -> Path:
        """The folder of masks."""
        return self.masks

    def fingerprint(self) -> dict[str, Any]:
        """Return the folders and the ignored indices; records hold the names of the files."""
        return {
            "source": self.name,
            "folders": [str(self.images.resolve()), str(self.masks.resolve())],
            "ignore": sorted(self.ignore),
        }

    def records(self, tally: Tally) -> Iterator[Record]:
        """Yield images in the order of `pairs`, under the ids that are their paths' stems."""
        tally.image_warnings["mask-without-image"] += self.unpaired
        if self.passed_over:
            tally.image_warnings["passed-over"] += sum(number for _, number in self.passed_over)
            listed = ", ".join(f"{extension} {number}" for extension, number in self.passed_over)
            tally.notes.append(
                f"files in the folders that are neither images nor masks were passed over: "
                f"{listed}; save them as JPEG or PNG if they belong to the dataset"
            )
        keys: set[str] = set()
        for image, mask in self.pairs:
            key = image.rsplit(".", 1)[0]
            if key in keys:
                message = "the name of another image differs only in its extension"
                file = str(self.images / image)
                tally.images_in += 1
                tally.drop_image(Defect("duplicate-id", message, file, f"image {key}"), ())
                continue
            keys.add(key)
            conflict = self.conflicts.get(image, "")
            yield Record(key, image, (image,), mask, listed=True, conflict=conflict)

    def image_names(self) -> Iterator[ImageName]:
        """Yield nothing: images are listed."""
        return iter(())

    def _mask_path(self, record: Record) -> Path:
        if not record.data:
            message = "no mask has the name of the image"
            if record.conflict:
                message = f"no mask has the path of the image, and {record.conflict}"
            raise ImageError("missing-mask", message, file=self.masks, record=f"image {record.id}")
        return self.masks / str(record.data)

    def _check_size(self, record: Record, picture: Picture | None, width: int, height: int) -> None:
        if picture is None or (picture.width, picture.height) == (width, height):
            return
        message = (
            f"the mask has {width} x {height} pixels, its image {picture.width} x {picture.height}"
        )
        file = self.masks / record.data
        raise ImageError("size-mismatch", message, file=file, record=f"image {record.id}")

    def _segment(self, index: int, region: rle.Region) -> Segment:
        return Segment(
            class_id=index,
            kind=self.taxonomy.by_id[index].kind,
            box=region.box,
            mask=region.counts,
            area=float(region.area),
            mask_from="human",
            source_id=str(index),
        )

    def _defect(
        self,
        record: Record,
        code: str,
        message: str,
        class_name: str,
        data: Any = None,
        *,
        folder: Path | None = None,
        hint: str | None = None,
    ) -> Defect:
        """Build the defect of a region; `folder` holds the mask, by default the folder of masks."""
        file = str((folder or self.masks) / record.data)
        return Defect(code, message, file, f"image {record.id}", class_name, data, hint)

    def _class_name(self, index: int) -> str:
        """The name under which the ledger counts an index."""
        if index >= UNKNOWN_COLOR:
            return f"color {color_text(index)}"
        return self.labels.get(index, f"category {index}")


def color_text(index: int) -> str:
    """Return a color that no class has as "R G B"."""
    red, green, blue = index & 0xFF, index >> 8 & 0xFF, index >> 16 & 0xFF
    return f"{red} {green} {blue}"


def void_mask(
    indices: NDArray[Any], void: list[int], regions: dict[int, rle.Region]
) -> bytes | None:
    """Return the counts of the pixels that carry no label, or None if there are none.

    Args:
        indices: (H, W) map.
        void: indices in the map that mean no label.
        regions: the map's regions by index.
    """
    if not void:
        return None
    if len(void) == 1:
        return regions[void[0]].counts
    return rle.encode(np.isin(indices, void))


@dataclass(frozen=True)
class Pairing:
    """The images and masks of two folders."""

    pairs: tuple[tuple[str, str], ...]
    """(image, mask) as relative paths, sorted by image; "" for a missing mask."""
    unpaired: int
    """Number of masks without an image."""
    passed_over: tuple[tuple[str, int], ...]
    """(extension, number) of the other files, hidden ones not counted."""
    conflicts: Mapping[str, str]
    """Image without a mask -> why the mask with its name in another folder is not taken."""


def pair_masks(images: Path, masks: Path) -> Pairing:
    """Pair the images of a folder with their masks.

    A mask has the relative path of its image, except for the extension; otherwise it is the only
    mask with the file name of the image, if it can be the mask of no other image.

    Raises:
        InputError: a folder does not exist or contains no image or mask.
    """
    passed_over: Counter[str] = Counter()
    image_names = _list_files(images, IMAGE_EXTENSIONS, passed_over)
    mask_names = _list_files(masks, frozenset({".png"}), passed_over)
    by_path = {path.rsplit(".", 1)[0]: path for path in mask_names}
    by_name: dict[str, str] = {}
    for path in mask_names:
        by_name[Path(path).stem] = "" if Path(path).stem in by_name else path
    possible = []
    for image in image_names:
        key = image.rsplit(".", 1)[0]
        fallback = by_name.get(Path(image).stem) or None
        possible.append(PossibleFiles(key, key, by_path.get(key), fallback))
    matches = dict(zip(image_names, match_files(possible), strict=True))
    pairs = tuple((image, match.file or "") for image, match in matches.items())
    unpaired = len(set(mask_names) - {mask for _, mask in pairs})
    conflicts = {image: match.conflict for image, match in matches.items() if match.conflict}
    return Pairing(pairs, unpaired, tuple(sorted(passed_over.items())), conflicts)


def _list_files(folder: Path, extensions: frozenset[str], passed_over: Counter[str]) -> list[str]:
    """Return the sorted relative paths of the files with an extension, without hidden files.

    Args:
        folder: its subfolders are searched, but not those that are links.
        extensions: in lower case.
        passed_over: receives the number of other files by extension.
    """
    if not folder.is_dir():
        raise InputError("no such folder", file=folder, hint="check the path")
    names: list[str] = []
    others: Counter[str] = Counter()
    for name in visible_files(folder):
        extension = PurePosixPath(name).suffix.lower()
        if extension in extensions:
            names.append(name)
        else:
            others[extension or "(no extension)"] += 1
    if not names:
        message = f"contains no file of {', '.join(sorted(extensions))}"
        if others:
            listed = ", ".join(f"{extension} {number}" for extension, number in others.items())
            message += f" (but {listed})"
        raise InputError(message, file=folder, hint="check the path")
    passed_over.update(others)
    return sorted(names)
