"""Predictions from wherever they lie, image by image: shard sets, COCO result lists, COCO panoptic
files."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from segkit.errors import InputError
from segkit.metrics import coco_files
from segkit.metrics.class_mapping import ClassMap, apply, class_map
from segkit.metrics.columns import image_ids, read_columns
from segkit.sample import Sample
from segkit.shards.reader import ShardSet
from segkit.storage import location
from segkit.taxonomy import Taxonomy


class Predictions(Protocol):
    """What the evaluation asks of predictions."""

    def ids(self) -> list[str]:
        """Ids of all images that have a prediction."""
        ...

    def of(self, truth: Sample) -> Sample | None:
        """The prediction for an image of the ground truth, in its classes; None where there is
        none."""
        ...


class Samples:
    """Predictions in memory."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = list(samples)
        self._by_id = {sample.id: sample for sample in self._samples}

    def ids(self) -> list[str]:
        """Ids, as often as they occur."""
        return [sample.id for sample in self._samples]

    def of(self, truth: Sample) -> Sample | None:
        """The sample of the same id."""
        return self._by_id.get(truth.id)


class SetPredictions:
    """A prediction shard set; streams where its images come in the order of the ground truth, looks
    up otherwise."""

    def __init__(self, shards: ShardSet, target: Taxonomy) -> None:
        self.shards = shards
        self.map: ClassMap = class_map(shards.taxonomy, target)
        self._target = target
        self._same_classes = shards.taxonomy.categories == target.categories
        self._identity = (
            all(key == value for key, value in self.map.ids.items()) and not self.map.unmapped
        )
        self._ids = image_ids(shards)
        self._index = {image: place for place, image in enumerate(self._ids)}
        self._stream: Iterator[Sample] = shards.samples()
        self._next = 0

    def ids(self) -> list[str]:
        """Ids in the set's order."""
        return self._ids

    def follows(self, truth: ShardSet) -> bool:
        """Whether this set has the images of the ground truth in the same order, and its
        classes."""
        return self._same_classes and self._ids == image_ids(truth)

    def of(self, truth: Sample) -> Sample | None:
        """The sample of the same id, its classes mapped."""
        place = self._index.get(truth.id)
        if place is None:
            return None
        if place == self._next:
            self._next += 1
            found = next(self._stream)
        else:
            found = self.shards.sample(place)
        return found if self._identity else apply(self.map, found, self._target)


def open_predictions(spec: str, truth: ShardSet, masks: Path | None = None) -> Predictions:
    """Open what `--predictions` names.

    Args:
        spec: a shard set (`DIR`, `DIR@v2`) or a JSON file.
        truth: the ground truth; its taxonomy gives the meaning of category ids in files.
        masks: folder of the PNGs of a COCO panoptic JSON; by default the folder of the JSON's stem
            beside it.

    Raises:
        InputError: the file is neither a list of results nor a panoptic JSON, or holds an
            impossible record.
    """
    path = location(spec)
    if path.is_file():
        content = coco_files.load(path)
        if isinstance(content, list):
            return coco_files.ResultList(path, content, truth.taxonomy)
        return coco_files.PanopticFiles(
            path, content, masks or path.with_suffix(""), truth.taxonomy, _by_name(truth)
        )
    if path.suffix == ".json":
        raise InputError("no such file", file=path, hint="check the path")
    return SetPredictions(ShardSet.open(spec), truth.taxonomy)


def check_images(predictions: Predictions, truth: ShardSet) -> int:
    """Count the images of the ground truth that have no prediction.

    Raises:
        InputError: predictions of images that the ground truth lacks, or two of the same image on
            either side; the line names them.
    """
    known, ids = image_ids(truth), predictions.ids()
    unknown = sorted(set(ids) - set(known))
    if unknown:
        message = f"{len(unknown)} images are not in the ground truth: {_some(unknown)}"
        hint = f"evaluate against the set that the predictions were made for (its ids: {_some(known[:3])})"
        raise InputError(message, file="predictions", hint=hint)
    if twice := _repeated(ids):
        raise InputError(
            f"images with two predictions: {_some(twice)}",
            file="predictions",
            hint="keep one of each",
        )
    if twice := _repeated(known):
        raise InputError(
            f"two images of the same id: {_some(twice)}",
            file=truth.path,
            hint="give images ids of their own",
        )
    return len(known) - len(ids)


def _by_name(truth: ShardSet) -> dict[str, str]:
    """Id of each image, by its id and, where that is no other one's id or stem, by the stem of its
    file."""
    names = [
        (image, Path(file).stem)
        for table in read_columns(truth, ["id", "file_name"])
        for image, file in zip(
            table.column("id").to_pylist(), table.column("file_name").to_pylist(), strict=True
        )
    ]
    times = Counter(stem for _, stem in names)
    return {stem: image for image, stem in names if times[stem] == 1} | {
        image: image for image, _ in names
    }


def _repeated(names: list[str]) -> list[str]:
    return [name for name, times in Counter(names).items() if times > 1]


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
