"""Predictions by image, whatever holds them: samples in memory, shard sets, or other files."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Protocol

from segkit import parse
from segkit.errors import InputError, plural, short_list
from segkit.metrics import coco_predictions
from segkit.metrics.class_lists import ClassList, list_beside, list_of_categories
from segkit.metrics.class_mapping import ClassMap
from segkit.metrics.png_predictions import PngPredictions, png_names
from segkit.metrics.prediction_ids import (
    images_by_coco_id,
    images_by_file,
    images_by_name,
    images_of_set,
)
from segkit.metrics.sides import PREDICTIONS
from segkit.sample import Sample
from segkit.shards.manifest import Task
from segkit.shards.reader import ShardSet
from segkit.shards.versions import MANIFEST, versions
from segkit.storage import list_names, location
from segkit.taxonomy import Taxonomy

_MASKS_HINT = "leave --prediction-masks out"


class Predictions(Protocol):
    """What an evaluation needs of predictions."""

    @property
    def file(self) -> object:
        """The file, folder or version that errors name."""
        ...

    def ids(self) -> list[str]:
        """Ids of all images that have a prediction."""
        ...

    def get(self, image: Sample) -> Sample | None:
        """The prediction for an image of the ground truth, in its classes; None without one."""
        ...


class SamplePredictions:
    """Predictions in memory."""

    file = PREDICTIONS

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = list(samples)
        self._by_id = {sample.id: sample for sample in self._samples}

    def ids(self) -> list[str]:
        """Ids in the order of the samples; an id that occurs twice is listed twice."""
        return [sample.id for sample in self._samples]

    def get(self, image: Sample) -> Sample | None:
        """The sample of the same id."""
        return self._by_id.get(image.id)


class SetPredictions:
    """A prediction shard set, its images and classes mapped to those of the ground truth.

    Samples are streamed as long as images are asked for in the set's order, and looked up by their
    place otherwise.
    """

    def __init__(self, shards: ShardSet, truth: ShardSet, *, as_written: bool = False) -> None:
        """Open the predictions.

        Args:
            shards: the prediction set.
            truth: the ground truth.
            as_written: keep the classes of the predictions.

        Raises:
            InputError: the classes have no word in common.
        """
        self.shards = shards
        self.file = shards.path
        try:
            self.class_map = ClassMap.from_taxonomies(shards.taxonomy, truth.taxonomy)
        except InputError as error:
            raise error.in_file(shards.path) from None
        self._truth, self._target = truth, truth.taxonomy
        self._is_identity = as_written or self.class_map.is_identity
        self._ids = images_of_set(shards, truth)
        self._place = {image: place for place, image in enumerate(self._ids)}
        self._stream: Iterator[Sample] = shards.samples(check_masks=True)
        self._next = 0

    def ids(self) -> list[str]:
        """The images of the ground truth, in the set's order; see `images_of_set`."""
        return self._ids

    def is_aligned(self, truth: ShardSet) -> bool:
        """Whether this set has the ground truth's classes and its ids in the same order."""
        same_classes = self.shards.taxonomy.categories == self._target.categories
        return same_classes and list(self.shards.image_ids()) == list(truth.image_ids())

    def as_written(self) -> "SetPredictions":
        """The same predictions in their own classes, those without a class of the truth too."""
        return SetPredictions(self.shards, self._truth, as_written=True)

    def get(self, image: Sample) -> Sample | None:
        """The sample of the image, its classes mapped."""
        place = self._place.get(image.id)
        if place is None:
            return None
        if place == 0 and self._next > 0:  # a second pass
            self._stream, self._next = self.shards.samples(check_masks=True), 0
        if place == self._next:
            self._next += 1
            sample = next(self._stream)
        else:
            sample = self.shards.sample(place, check_masks=True)
        if sample.id != image.id:
            sample = replace(sample, id=image.id)
        if self._is_identity:
            return sample
        return self.class_map.map_sample(sample, self._target)


class MappedPredictions:
    """Predictions in a file with its own classes, mapped to those of the ground truth."""

    def __init__(self, predictions: Predictions, class_map: ClassMap, target: Taxonomy) -> None:
        self.file = predictions.file
        self.class_map = class_map
        self._predictions, self._target = predictions, target

    def ids(self) -> list[str]:
        """Ids of the images, in the order of the file."""
        return self._predictions.ids()

    def as_written(self) -> Predictions:
        """The same predictions in their own classes, those without a class of the truth too."""
        return self._predictions

    def get(self, image: Sample) -> Sample | None:
        """The prediction for an image, its classes mapped."""
        sample = self._predictions.get(image)
        return None if sample is None else self.class_map.map_sample(sample, self._target)


class CommonPredictions:
    """Predictions without those of images that the ground truth lacks."""

    def __init__(self, predictions: Predictions, truth: ShardSet) -> None:
        self.file = predictions.file
        self._predictions = predictions
        known = set(truth.image_ids())
        self._ids = [image for image in predictions.ids() if image in known]

    def ids(self) -> list[str]:
        """Ids of the images on both sides."""
        return self._ids

    def get(self, image: Sample) -> Sample | None:
        """The prediction of the same id."""
        return self._predictions.get(image)


def open_predictions(
    spec: str, truth: ShardSet, masks: Path | None = None, *, task: Task | None = None
) -> Predictions:
    """Open the predictions that `--predictions` names.

    Args:
        spec: a shard set (`DIR`, `DIR@v2`), a JSON file, a folder of `segkit predict --native` or,
            for semantic figures, of index PNGs. Class ids mean the classes of the file's own list
            (`class_lists`), which are mapped as those of a set are, or else of the ground truth.
        truth: the ground truth.
        masks: folder of the PNGs of a COCO panoptic JSON; by default the folder of the JSON's stem
            beside it.
        task: what the predictions are evaluated for; None if that is not known.

    Raises:
        InputError: the file is neither a list of results nor a panoptic JSON, or holds an
            impossible record; no class that it lists is one of the ground truth; a folder of PNGs
            is given for another task; `masks` without a panoptic JSON.
    """
    path = location(spec)
    if path.is_dir() and not versions(path) and not (path / MANIFEST).is_file():
        if versions(path / "predictions"):
            hint = f"give the set in it, {path / 'predictions'}"
            raise InputError("is a folder that predict wrote", file=path, hint=hint)
        if (file := _file_of_native(path, task)) is not None:
            path = file
        elif png_names(folder := path / "masks" if (path / "masks").is_dir() else path):
            return _open_pngs(path, folder, truth, masks, task)
    content = coco_predictions.load(path) if parse.exists(path) else None
    if content is not None:
        return _open_coco(path, content, truth, masks)
    if masks is not None:
        raise _no_panoptic_file(path)
    if path.suffix == ".json":
        raise InputError("no such file", file=path, hint="check the path")
    return SetPredictions(ShardSet.open(spec), truth)


def _file_of_native(folder: Path, task: Task | None) -> Path | None:
    """The file of a folder that `segkit predict --native` wrote for the task, if it is a JSON."""
    if task not in ("instance", "panoptic"):
        return None
    pattern = "results.json" if task == "instance" else "panoptic_*.json"
    files = [name for name in list_names(folder) if fnmatch(name, pattern)]
    return folder / files[0] if len(files) == 1 else None


def _open_pngs(
    path: Path, folder: Path, truth: ShardSet, masks: Path | None, task: Task | None
) -> Predictions:
    if masks is not None:
        raise _no_panoptic_file(path)
    if task not in (None, "semantic"):
        raise _png_folder_error(path, task)

    def open_with(classes: ClassList | None) -> Predictions:
        return PngPredictions(folder, truth, images_by_name(truth), classes)

    return _mapped(list_beside(folder), truth, open_with)


def _open_coco(
    path: Path,
    content: "list[coco_predictions.Result] | coco_predictions.PanopticFile",
    truth: ShardSet,
    masks: Path | None,
) -> Predictions:
    if isinstance(content, list) and masks is not None:
        raise _no_panoptic_file(path)
    classes = None
    if not isinstance(content, list):
        classes = list_of_categories(path, content.categories)

    def open_with(listed: ClassList | None) -> Predictions:
        taxonomy, by_coco_id = (listed or truth).taxonomy, images_by_coco_id(truth)
        if isinstance(content, list):
            return coco_predictions.CocoResults(path, content, taxonomy, by_coco_id)
        folder, ids = masks or path.with_suffix(""), (images_by_file(truth), by_coco_id)
        return coco_predictions.CocoPanoptic(path, content, folder, taxonomy, *ids)

    return _mapped(classes or list_beside(path.parent), truth, open_with)


def _mapped(
    classes: ClassList | None, truth: ShardSet, open_with: Callable[[ClassList | None], Predictions]
) -> Predictions:
    """Predictions in the classes of a list, mapped; in the ground truth's where ids are equal."""
    class_map = None if classes is None else classes.map_to(truth.taxonomy)
    if class_map is None:
        return open_with(None)
    return MappedPredictions(open_with(classes), class_map, truth.taxonomy)


def as_predictions(
    predictions: Iterable[Sample] | ShardSet | Predictions, truth: ShardSet
) -> Predictions:
    """Predictions of any form in the classes of the ground truth."""
    if isinstance(predictions, ShardSet):
        return SetPredictions(predictions, truth)
    return SamplePredictions(predictions) if isinstance(predictions, Iterable) else predictions


def count_missing(predictions: Predictions, truth: ShardSet) -> int:
    """Count the images of the ground truth that have no prediction.

    Raises:
        InputError: predictions of images that the ground truth lacks, or two of the same image on
            either side; the message names them.
    """
    known, ids = list(truth.image_ids()), predictions.ids()
    unknown = sorted(set(ids) - set(known))
    if unknown:
        images = plural(len(unknown), "image is", "images are")
        message = f"{images} not in the ground truth: {short_list(unknown)}"
        hint = (
            "evaluate against the set that the predictions were made for "
            f"(its ids: {short_list(known[:3])})"
        )
        raise InputError(message, file=predictions.file, hint=hint)
    if repeated := _repeated(ids):
        message = f"images with two predictions: {short_list(repeated)}"
        raise InputError(message, file=predictions.file, hint="keep one prediction of each image")
    if repeated := _repeated(known):
        message = f"two images of the same id: {short_list(repeated)}"
        raise InputError(message, file=truth.path, hint="give every image its own id")
    return len(known) - len(ids)


def _no_panoptic_file(path: Path) -> InputError:
    message = "is no COCO panoptic JSON, whose PNGs could be elsewhere"
    return InputError(message, file=path, hint=_MASKS_HINT)


def _png_folder_error(folder: Path, task: Task | None) -> InputError:
    hint = (
        "give the COCO panoptic JSON that lists their segments, and this folder by"
        " `segkit eval --prediction-masks DIR`"
        if task == "panoptic"
        else "give COCO results, [{image_id, category_id, score, segmentation}, ...]"
    )
    message = f"a folder of PNGs has no {task} predictions (`segkit eval --task semantic` takes it)"
    return InputError(message, file=folder, hint=hint)


def _repeated(names: list[str]) -> list[str]:
    return [name for name, times in Counter(names).items() if times > 1]
