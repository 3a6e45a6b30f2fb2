"""Any data set of label PNGs: a folder of images, a folder of masks of the same names, and a list
of labels.

Masks are index PNGs (grey or palette), or RGB PNGs where the labels file gives every class a color.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.images.check import IMAGE_EXTENSIONS
from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.shards.manifest import SetKind
from segkit.shards.writer import class_labels
from segkit.sources.categories import build_taxonomy
from segkit.sources.image_files import Picture
from segkit.sources.label_maps import read_ids, read_indices
from segkit.sources.labels_file import read_labels
from segkit.sources.ledger import Defect, ImageError, Tally
from segkit.sources.source import Record
from segkit.taxonomy import Taxonomy

_COLOR = 1 << 24  # indices from here on are colors that the labels file does not know


@dataclass(frozen=True)
class IndexMaskSource:
    """Images and their index PNGs, paired; what semantic sources have in common."""

    images: Path
    masks: Path
    taxonomy: Taxonomy
    ignore: frozenset[int] = frozenset()
    """Indices that mean "no label": their pixels are void."""
    pairs: tuple[tuple[str, str], ...] = ()
    """(image, mask) as paths relative to their folders, in order; a blank mask is missing."""
    unpaired: int = 0
    """Masks without an image."""
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
        return {
            "source": self.name,
            "folders": folders,
            "ignore": sorted(self.ignore),
            "pairs": self.pairs,
        }

    def records(self, tally: Tally) -> Iterator[Record]:
        """Images sorted by name."""
        tally.image_warnings["mask-without-image"] += self.unpaired
        seen: set[str] = set()
        for image, mask in self.pairs:
            key = image.rsplit(".", 1)[0]
            if key in seen:
                what = "another image has the same name but for its extension"
                tally.images_in += 1
                tally.drop_image(
                    Defect("duplicate-id", what, str(self.images / image), f"image {key}"), ()
                )
                continue
            seen.add(key)
            yield Record(key, image, (image,), mask, listed=True)

    def _mask(self, record: Record) -> Path:
        if not record.data:
            what = "there is no mask of the image's name"
            raise ImageError("missing-mask", what, file=self.masks, record=f"image {record.id}")
        return self.masks / str(record.data)

    def _check_size(self, record: Record, picture: Picture | None, width: int, height: int) -> None:
        if picture is not None and (picture.width, picture.height) != (width, height):
            what = f"the mask has {width} x {height} pixels, its image {picture.width} x {picture.height}"
            raise ImageError(
                "size-mismatch", what, file=self.masks / record.data, record=f"image {record.id}"
            )

    def _segment(self, index: int, region: rle.Region) -> Segment:
        kind, area = self.taxonomy.by_id[index].kind, float(region.area)
        return Segment(
            index, kind, region.box, region.counts, area, mask_from="human", source_id=str(index)
        )

    def _class_name(self, index: int) -> str:
        if index >= _COLOR:
            red, green, blue = index & 0xFF, index >> 8 & 0xFF, index >> 16 & 0xFF
            return f"colour {red} {green} {blue}"
        return self.labels.get(index, f"category {index}")


@dataclass(frozen=True)
class SemanticMasks(IndexMaskSource):
    """A semantic data set: one region per class and image."""

    colors: Mapping[int, int] = field(default_factory=dict)
    """R + 256 G + 65536 B -> index, where masks are RGB PNGs; empty where they are index PNGs."""
    labels_file: Path | None = None
    """The user's list of classes; None where a data set's own list is taken."""

    def fingerprint(self) -> dict[str, Any]:
        """As every label map's, and the colors."""
        return {**super().fingerprint(), "colours": sorted(self.colors.items())}

    def load(self, record: Record) -> tuple[NDArray[Any], Sequence[str]]:
        """The index map, and the class name of each index in it that is not ignored."""
        path, where = self._mask(record), f"image {record.id}"
        indices = (
            self._by_color(path, where) if self.colors else read_indices(path, None, record=where)
        )
        present = (
            np.unique(indices) if self.colors else np.flatnonzero(np.bincount(indices.reshape(-1)))
        )
        return indices, [
            self._class_name(index) for index in present.tolist() if index not in self.ignore
        ]

    def sample(
        self, record: Record, content: NDArray[Any], picture: Picture | None, tally: Tally
    ) -> Sample:
        """A segment for each class in the image; ignored and unknown indices are void."""
        height, width = content.shape
        self._check_size(record, picture, width, height)
        regions = rle.regions(content)
        void = [
            index for index in regions if index not in self.taxonomy.by_id or index in self.ignore
        ]
        for index in void:
            if index not in self.ignore:
                tally.drop(self._unknown(index, regions[index].area, record))
        segments = [
            self._segment(index, region) for index, region in regions.items() if index not in void
        ]
        counts = (
            rle.encode(np.isin(content, void))
            if len(void) > 1
            else regions[void[0]].counts
            if void
            else None
        )
        return Sample(record.id, record.file_name, width, height, tuple(segments), void=counts)

    def _by_color(self, path: Path, where: str) -> NDArray[np.int64]:
        colors, places = np.unique(read_ids(path, None, record=where), return_inverse=True)
        indices = np.array([self.colors.get(color, _COLOR + color) for color in colors.tolist()])
        return indices[places.reshape(-1)].reshape(places.shape)

    def _unknown(self, index: int, area: int, record: Record) -> Defect:
        file, name = str(self.masks / record.data), self._class_name(index)
        what = f"{area} pixels of {name if index >= _COLOR else f'index {index}'}, which is not in the labels"
        data = {"index": index, "pixels": area}
        return Defect(
            "unknown-category", what, file, f"image {record.id}", name, data, self._mend(index)
        )

    def _mend(self, index: int) -> str | None:
        """How the user gives a class to an index that has none."""
        if self.labels_file is None:
            return None
        if index >= _COLOR:
            return f"add the colour to --labels {self.labels_file}; if it means void, --ignore the index of that line"
        return f"add index {index} to --labels {self.labels_file}, or give --ignore {index} if it means void"


def open_semantic(
    images: Path,
    masks: Path,
    labels: Path,
    *,
    ignore: Sequence[int] = (),
    first_label: int | None = None,
) -> SemanticMasks:
    """The source of two folders and a labels file.

    Args:
        images: folder of images; folders within it are searched.
        masks: folder of PNGs, each with its image's relative path (or else file name) and the
            extension .png.
        labels: one class a line; see `labels_file`.
        ignore: indices without a label.
        first_label: index of the first line of a list of plain names; 0 if None.

    Raises:
        InputError: a folder is missing or empty, or the labels file cannot be read.
    """
    listed, void = read_labels(labels, first_label), frozenset(ignore)
    natives = [native for native in listed.categories if native.id not in void]
    taxonomy = build_taxonomy(natives, default="stuff", file=labels, name=labels.stem)
    pairs, unpaired = pair(images, masks)
    header = {"ignore": sorted(void)}
    return SemanticMasks(
        images,
        masks,
        taxonomy,
        void,
        pairs,
        unpaired,
        header=header,
        colors=listed.colors,
        labels_file=labels,
    )


def pair(images: Path, masks: Path) -> tuple[tuple[tuple[str, str], ...], int]:
    """Each image and its mask as relative paths, sorted by image (a blank mask where there is
    none); masks left over.

    A mask has its image's path but for the extension; else it is the only mask of the image's name.
    """
    pictures = _files(images, IMAGE_EXTENSIONS)
    maps = _files(masks, frozenset({".png"}))
    by_path = {path.rsplit(".", 1)[0]: path for path in maps}
    by_name: dict[str, str] = {}
    for path in maps:
        by_name[Path(path).stem] = "" if Path(path).stem in by_name else path
    pairs = [
        (image, by_path.get(image.rsplit(".", 1)[0]) or by_name.get(Path(image).stem, ""))
        for image in pictures
    ]
    return tuple(pairs), len(set(maps) - {mask for _, mask in pairs})


def _files(folder: Path, extensions: frozenset[str]) -> list[str]:
    if not folder.is_dir():
        raise InputError("no such folder", file=folder, hint="check the path")
    found = (path for path in folder.rglob("*") if path.suffix.lower() in extensions)
    names = sorted(path.relative_to(folder).as_posix() for path in found)
    if not names:
        raise InputError(
            f"holds no file of {', '.join(sorted(extensions))}", file=folder, hint="check the path"
        )
    return names
