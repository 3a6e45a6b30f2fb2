"""Semantic predictions in a folder of index PNGs, whose pixels are class ids."""

from collections.abc import Mapping
from pathlib import Path

from segkit.errors import InputError, plural
from segkit.masks import rle
from segkit.metrics.class_lists import ClassList
from segkit.metrics.prediction_ids import image_of_name
from segkit.sample import Sample, Segment
from segkit.shards.reader import ShardSet
from segkit.sources.image_files import visible_files
from segkit.sources.label_maps import read_indices
from segkit.sources.ledger import ImageError

_VOID = 255
"""The usual value of pixels without a class."""
_FREE_INDICES = {0, 2**16 - 1}
"""Values that `segkit predict --native` gives to such pixels where the usual one is a class."""


def png_names(folder: Path) -> list[str]:
    """The sorted names of all PNGs in a folder and its subfolders that are not hidden."""
    return sorted(name for name in visible_files(folder) if name.lower().endswith(".png"))


class PngPredictions:
    """A folder of index PNGs, each read when its image is asked for."""

    def __init__(
        self,
        folder: Path,
        truth: ShardSet,
        ids_by_name: Mapping[str, str],
        classes: ClassList | None = None,
    ) -> None:
        """List the folder.

        Args:
            folder: the PNGs; a name without its extension is the id of an image or, with or
                without folders, the name of its file.
            truth: ground truth. 255 and the indices that its source gives to void and background
                mean "no class" if no class has them.
            ids_by_name: image ids by the ids and file stems that names may be.
            classes: the classes that pixels are ids of; None for those of the ground truth.
        """
        self.file, self._taxonomy = folder, truth.taxonomy
        self._source = "the data"
        header = truth.manifest.source_header
        indices = {_VOID, *(header.get("ignore") or ()), header.get("background", _VOID)}
        if classes is not None:
            self._taxonomy, self._source = classes.taxonomy, str(classes.file)
            indices |= _FREE_INDICES
        self._void = indices - self._taxonomy.by_id.keys()
        self._names: dict[str, str] = {}
        self._ids: list[str] = []
        for name in png_names(folder):
            path = name.rpartition(".")[0]
            image = image_of_name(path, ids_by_name) or path
            self._ids.append(image)
            self._names[image] = name

    def ids(self) -> list[str]:
        """Ids of the images, in the order of the names."""
        return self._ids

    def get(self, image: Sample) -> Sample | None:
        """The regions of an image, one for each class.

        Raises:
            InputError: the PNG cannot be read or has another size than the image, or a pixel's
                value is neither a class nor void.
        """
        name = self._names.get(image.id)
        if name is None:
            return None
        path, size = self.file / name, (image.width, image.height)
        try:
            indices = read_indices(path, size, record=f"image {image.id}")
        except ImageError as error:
            defect = error.defect
            hint = "write one PNG of class ids for each image, at its size"
            raise InputError(
                defect.message, file=defect.file, record=defect.record, hint=hint
            ) from error
        segments = []
        for index, region in rle.regions(indices).items():
            category = self._taxonomy.by_id.get(index)
            if category is not None:
                shape = (region.box, region.counts, float(region.area))
                segments.append(Segment(index, category.kind, *shape, mask_from="prediction"))
            elif index not in self._void:
                pixels = plural(region.area, "pixel")
                message = f"{pixels} of {index}, which is no class id of {self._source}"
                hint = (
                    f"write the ids of {self._taxonomy.name}, or convert the PNGs with their own"
                    " labels (`segkit convert semantic`) and give that set"
                )
                raise InputError(message, file=path, record=f"image {image.id}", hint=hint)
        return Sample(image.id, image.file_name, image.width, image.height, tuple(segments))
