"""Converts semantic datasets: a folder of images, a folder of masks, and a list of labels.

Masks are index PNGs (gray or palette); where the labels file gives every class a color, they are
RGB PNGs, or palette PNGs whose palette has these colors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import plural
from segkit.masks import rle
from segkit.sample import Sample
from segkit.sources.categories import build_taxonomy
from segkit.sources.image_files import Picture
from segkit.sources.index_masks import (
    UNKNOWN_COLOR,
    IndexMaskSource,
    color_text,
    pair_masks,
    void_mask,
)
from segkit.sources.label_maps import read_colors, read_indices
from segkit.sources.labels_file import read_labels
from segkit.sources.ledger import Tally
from segkit.sources.source import Record, RecordContent
from segkit.storage import StrPath, location


@dataclass(frozen=True)
class SemanticMasks(IndexMaskSource):
    """A semantic dataset: one region per class and image."""

    colors: Mapping[int, int] = field(default_factory=dict)
    """R + 256 G + 65536 B -> index, where masks show colors; empty where they are index PNGs."""
    labels_file: Path | None = None
    """The user's list of classes; None for a dataset that brings its own."""

    def fingerprint(self) -> dict[str, Any]:
        """Return the fingerprint of the masks, and the colors."""
        return {**super().fingerprint(), "colors": sorted(self.colors.items())}

    def load(self, record: Record) -> RecordContent:
        """Return the index map, and the class name of each index in it that is not ignored."""
        path, name = self._mask_path(record), f"image {record.id}"
        if self.colors:
            indices = self._read_colors(path, name)
            present = np.unique(indices)
        else:
            indices = read_indices(path, None, record=name)
            present = np.flatnonzero(np.bincount(indices.reshape(-1)))
        names = [self._class_name(index) for index in present.tolist() if index not in self.ignore]
        return RecordContent(indices, names)

    def sample(
        self, record: Record, content: NDArray[Any], picture: Picture | None, tally: Tally
    ) -> Sample:
        """Build the sample: a segment for each class; ignored and unknown indices are void."""
        height, width = content.shape
        self._check_size(record, picture, width, height)
        regions = rle.regions(content)
        segments, void = [], []
        for index, region in regions.items():
            if index in self.taxonomy.by_id and index not in self.ignore:
                segments.append(self._segment(index, region))
                continue
            void.append(index)
            if index not in self.ignore:
                self._drop_unknown(record, index, region.area, tally)
        counts = void_mask(content, void, regions)
        return Sample(record.id, record.file_name, width, height, tuple(segments), void=counts)

    def _read_colors(self, path: Path, name: str) -> NDArray[np.int64]:
        """(H, W) indices of a mask of colors."""
        colors, places = np.unique(read_colors(path, record=name), return_inverse=True)
        indices = np.array(
            [self.colors.get(color, UNKNOWN_COLOR + color) for color in colors.tolist()]
        )
        return indices[places.reshape(-1)].reshape(places.shape)

    def _drop_unknown(self, record: Record, index: int, area: int, tally: Tally) -> None:
        colored = index >= UNKNOWN_COLOR
        label = f"color {color_text(index)}" if colored else f"index {index}"
        message = f"{plural(area, 'pixel')} of {label}, which is not in the labels"
        data = {"index": index, "pixels": area}
        tally.drop(
            self._defect(
                record,
                "unknown-category",
                message,
                self._class_name(index),
                data,
                hint=self._unknown_hint(index),
            )
        )

    def _unknown_hint(self, index: int) -> str | None:
        if self.labels_file is None:
            return None
        if index >= UNKNOWN_COLOR:
            return (
                f"add the color to {self.labels_file}; if it means void, also give the index of "
                "that line to `segkit convert semantic --ignore INDEX`"
            )
        return (
            f"add index {index} to {self.labels_file}, "
            f"or give `segkit convert semantic --ignore {index}` if it means void"
        )


def open_semantic(
    images: StrPath,
    masks: StrPath,
    labels: StrPath,
    *,
    ignore: Sequence[int] = (),
    first_label: int | None = None,
) -> SemanticMasks:
    """Open two folders and a labels file as a source.

    Args:
        images: folder of images; its subfolders are searched.
        masks: folder of PNGs, each with the relative path of its image, or else its file name, and
            the extension .png. A mask of that name belongs to no other image.
        labels: one class a line; see `labels_file`.
        ignore: indices without a label.
        first_label: index of the first line of a list of plain names; 0 if None.

    Raises:
        InputError: a folder is missing or empty, or the labels file cannot be read.
    """
    images, masks, labels = location(images), location(masks), location(labels)
    label_list, void = read_labels(labels, first_label), frozenset(ignore)
    natives = [native for native in label_list.categories if native.id not in void]
    taxonomy = build_taxonomy(natives, default="stuff", file=labels, name=labels.stem)
    pairing = pair_masks(images, masks)
    return SemanticMasks(
        images,
        masks,
        taxonomy,
        void,
        pairing.pairs,
        pairing.unpaired,
        pairing.passed_over,
        pairing.conflicts,
        header={"ignore": sorted(void)},
        colors=label_list.colors,
        labels_file=labels,
    )
