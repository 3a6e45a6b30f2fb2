"""Any data set of index PNGs: a folder of images, a folder of masks of the same names, and a list of labels.

A labels file has one class a line, as `name` (indices count up from `first_label`) or, if every line starts with an
integer, as `index name`; blank lines and lines that start with `#` are passed over.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.manifest import SetKind
from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.shards.writer import class_labels
from segkit.sources.base import Record
from segkit.sources.images import Picture
from segkit.sources.labelmaps import read_indices
from segkit.sources.ledger import Defect, Defective, Tally
from segkit.sources.vocabularies import NativeCategory, taxonomy_of
from segkit.taxonomy import Taxonomy

IMAGE_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm"})
_LINE = re.compile(r"(\d+)[\s:,;]+(\S.*)")


@dataclass(frozen=True)
class IndexMaps:
    """Images and their index PNGs, paired; what semantic sources have in common."""

    images: Path
    masks: Path
    taxonomy: Taxonomy
    ignore: frozenset[int] = frozenset()
    """Indices that mean "no label": their pixels are void."""
    pairs: tuple[tuple[str, str], ...] = ()
    """(image, mask) as paths relative to their folders, in order; a blank mask is missing."""
    name: str = "semantic"
    kind: SetKind = "semantic"
    header: dict[str, Any] = field(default_factory=dict)
    labels: dict[int, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", class_labels(self.taxonomy))

    @property
    def annotations(self) -> Path:
        """The folder of masks."""
        return self.masks

    def fingerprint(self) -> dict[str, Any]:
        """Folders, names, classes and ignored indices."""
        folders = [str(self.images.resolve()), str(self.masks.resolve())]
        return {"source": self.name, "folders": folders, "ignore": sorted(self.ignore), "pairs": self.pairs}

    def records(self, tally: Tally) -> Iterator[Record]:
        """Images sorted by name."""
        seen: set[str] = set()
        for image, mask in self.pairs:
            key = image.rsplit(".", 1)[0]
            if key in seen:
                what = "another image has the same name but for its extension"
                tally.images_in += 1
                tally.drop_image(Defect("duplicate-id", what, str(self.images / image), f"image {key}"), ())
                continue
            seen.add(key)
            yield Record(key, image, (image,), mask)

    def _indices(self, record: Record) -> NDArray[Any]:
        where = f"image {record.id}"
        if not record.data:
            what = "there is no mask of the image's name"
            raise Defective("missing-mask", what, file=self.masks, record=where)
        return read_indices(self.masks / record.data, None, record=where)

    def _check_size(self, record: Record, picture: Picture | None, width: int, height: int) -> None:
        if picture is not None and (picture.width, picture.height) != (width, height):
            what = f"the mask has {width} x {height} pixels, its image {picture.width} x {picture.height}"
            raise Defective("size-mismatch", what, file=self.masks / record.data, record=f"image {record.id}")

    def _class_name(self, index: int) -> str:
        return self.labels.get(index, f"category {index}")


@dataclass(frozen=True)
class Semantic(IndexMaps):
    """A semantic data set: one region per class and image."""

    def load(self, record: Record) -> tuple[NDArray[Any], Sequence[str]]:
        """The index map, and the class name of each index in it that is not ignored."""
        indices = self._indices(record)
        present = np.flatnonzero(np.bincount(indices.reshape(-1))).tolist()
        return indices, [self._class_name(index) for index in present if index not in self.ignore]

    def sample(self, record: Record, content: NDArray[Any], picture: Picture | None, tally: Tally) -> Sample:
        """A segment for each class in the image; ignored and unknown indices are void."""
        height, width = content.shape
        self._check_size(record, picture, width, height)
        regions = rle.regions(content)
        void = [index for index in regions if index not in self.taxonomy.by_id or index in self.ignore]
        for index in void:
            if index not in self.ignore:
                tally.drop(self._unknown(index, regions[index].area, record))
        segments = [self._segment(index, region) for index, region in regions.items() if index not in void]
        counts = rle.encode(np.isin(content, void)) if len(void) > 1 else regions[void[0]].counts if void else None
        return Sample(record.id, record.file_name, width, height, tuple(segments), void=counts)

    def _segment(self, index: int, region: rle.Region) -> Segment:
        kind = self.taxonomy.by_id[index].kind
        area = float(region.area)
        return Segment(index, kind, region.box, region.counts, area, mask_from="human", source_id=str(index))

    def _unknown(self, index: int, area: int, record: Record) -> Defect:
        what = f"{area} pixels of index {index}, which is not in the labels (void? then --ignore {index})"
        file, name = str(self.masks / record.data), self._class_name(index)
        return Defect("unknown-category", what, file, f"image {record.id}", name, {"index": index, "pixels": area})


def open_semantic(
    images: Path, masks: Path, labels: Path, *, ignore: Sequence[int] = (), first_label: int | None = None
) -> Semantic:
    """The source of two folders and a labels file.

    Args:
        images: folder of images; folders within it are searched.
        masks: folder of PNGs, each with its image's relative path (or else file name) and the extension .png.
        labels: one class a line; see the module.
        ignore: indices without a label.
        first_label: index of the first line of a list of plain names; 0 if None.

    Raises:
        InputError: a folder is missing or empty, or the labels file cannot be read.
    """
    natives = read_labels(labels, first_label)
    taxonomy = taxonomy_of(natives, default="stuff", file=labels, name=labels.stem)
    void = frozenset(ignore)
    taxonomy = Taxonomy(taxonomy.name, tuple(c for c in taxonomy.categories if c.id not in void))
    return Semantic(images, masks, taxonomy, void, pair(images, masks), header={"ignore": sorted(void)})


def read_labels(path: Path, first_label: int | None = None) -> list[NativeCategory]:
    """The classes of a labels file; InputError where it cannot be read or mixes its two forms."""
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", file=path, mend="give a UTF-8 text file") from error
    lines = [line for line in lines if line and not line.startswith("#")]
    matches = [_LINE.fullmatch(line) for line in lines]
    if lines and all(matches):
        if first_label is not None:
            mend = "leave --first-label out"
            raise InputError("gives every class its own index", file=path, mend=mend)
        return [NativeCategory(int(match[1]), match[2]) for match in matches if match]
    return [NativeCategory(index, line) for index, line in enumerate(lines, start=first_label or 0)]


def pair(images: Path, masks: Path) -> tuple[tuple[str, str], ...]:
    """Each image and its mask as relative paths, sorted by image; a blank mask where there is none."""
    pictures = _files(images, IMAGE_EXTENSIONS)
    maps = _files(masks, frozenset({".png"}))
    by_path = {path.rsplit(".", 1)[0]: path for path in maps}
    by_name: dict[str, str] = {}
    for path in maps:
        by_name[Path(path).stem] = "" if Path(path).stem in by_name else path  # ambiguous: no match by name
    return tuple(
        (image, by_path.get(image.rsplit(".", 1)[0]) or by_name.get(Path(image).stem, "")) for image in pictures
    )


def _files(folder: Path, extensions: frozenset[str]) -> list[str]:
    if not folder.is_dir():
        raise InputError("no such folder", file=folder, mend="check the path")
    found = (path for path in folder.rglob("*") if path.suffix.lower() in extensions)
    names = sorted(path.relative_to(folder).as_posix() for path in found)
    if not names:
        raise InputError(f"holds no file of {', '.join(sorted(extensions))}", file=folder, mend="check the path")
    return names
