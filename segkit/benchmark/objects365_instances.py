"""DaTaSeg's Objects365 instance benchmark: 1,000 validation images with masks, in COCO format.

The file is `o365_instance_seg_val.json` of
google-research-datasets/DaTaSeg-Objects365-Instance-Segmentation (CC BY 4.0); the images are in the
folders of the archives of objects365.org.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from segkit.errors import InputError
from segkit.metrics.evaluate import EvalResult, evaluate
from segkit.metrics.objects import IouType
from segkit.metrics.output import origin
from segkit.metrics.predictions import Predictions
from segkit.metrics.task_metrics import EvalOptions
from segkit.sample import Sample, Segment
from segkit.shards.reader import ShardSet
from segkit.sources import engine
from segkit.sources.coco_instances import Annotation
from segkit.sources.coco_json import read_coco
from segkit.sources.image_files import Picture, find_image
from segkit.sources.ledger import AnnotationError, ImageError, Tally
from segkit.sources.objects365 import Objects365, reject_version_1
from segkit.sources.source import Record
from segkit.taxonomy import Taxonomy

IMAGES, MASKS = 1_000, 12_836
"""Size of the published file."""
FREQUENCIES = {"rare": (0, 10), "common": (11, 100), "frequent": (101, 10**9)}
"""Training images with a class (both ends belong to the group): LVIS's limits."""
_BOX_FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


@dataclass(frozen=True)
class FileCheck:
    """A file compared with the published one."""

    images: int
    masks: int
    categories: int
    differences: tuple[str, ...]
    """In words; empty for the published file."""
    missing_images: tuple[str, ...] = ()
    """File names that no known folder layout holds; empty where images are not needed."""


@dataclass(frozen=True)
class GroundTruth:
    """The benchmark's ground truth."""

    check: FileCheck
    shards: ShardSet
    dropped: dict[str, int]
    """Annotations that the conversion dropped, by reason."""


@dataclass(frozen=True)
class _MaskedObjects365(Objects365):
    """The benchmark's file; annotations without a mask, such as skipped crowds, are dropped."""

    boxes_only: bool = False

    def segment(self, raw: bytes, width: int, height: int, name: str, tally: Tally) -> Segment:
        """As for any instances file; AnnotationError where there is no mask."""
        if not _has_mask(raw):
            raise AnnotationError("missing-mask", "a box without a mask")
        return super().segment(raw, width, height, name, tally)

    def sample(self, record: Record, content: Any, picture: Picture | None, tally: Tally) -> Sample:
        """As for any instances file, but that a box without a mask counts as not there.

        The benchmark leaves such boxes out on purpose, so that no class is less than exhaustive and
        COCO's rules hold, not LVIS's.
        """
        sample = super().sample(record, content, picture, tally)
        return replace(sample, exhaustive=True, not_exhaustive=())


def _has_mask(raw: bytes) -> bool:
    """Whether an annotation has a segmentation that can be read and is not empty."""
    try:
        return bool(msgspec.json.decode(msgspec.json.decode(raw, type=Annotation).segmentation))
    except msgspec.DecodeError:
        return False


def open_annotations(annotations: Path, images: Path) -> Objects365:
    """The benchmark file as a source with masks.

    Raises:
        InputError: the file cannot be read, or has the classes of Objects365 v1.
    """
    file = read_coco(annotations, "instances")
    reject_version_1(file)
    return _MaskedObjects365(file, images)


def check_file(source: Objects365, *, find_images: bool) -> FileCheck:
    """Compare the images, masks and categories of a file with the published one's.

    Args:
        source: the file.
        find_images: also check that its images are there.

    Raises:
        InputError: no annotation has a mask.
    """
    records = list(source.records(Tally()))
    annotations = [raw for record in records for raw, *_ in source.load(record).content]
    masks, categories = sum(map(_has_mask, annotations)), len(source.taxonomy.categories)
    if not masks:
        hint = "give o365_instance_seg_val.json: Objects365's own files have boxes only"
        raise InputError("no annotation has a mask", file=source.annotations, hint=hint)
    missing = tuple(r.file_name for r in records if find_images and not _has_image(source, r))
    differences = []
    for count, published, noun in ((len(records), IMAGES, "images"), (masks, MASKS, "masks")):
        if count != published:
            kind = "a subset" if count < published else "more than the benchmark"
            differences.append(
                f"{count:,} {noun} where the published file has {published:,}: {kind}"
            )
    if masks < len(annotations):
        differences.append(f"{len(annotations) - masks:,} annotations have no mask: left out")
    if source.taxonomy.name != "objects365-v2":  # the name of the list with exactly its classes
        differences.append(f"{categories} categories that are not the 365 of Objects365 v2")
    return FileCheck(len(records), masks, categories, tuple(differences), missing)


def _has_image(source: Objects365, record: Record) -> bool:
    try:
        find_image(source.images, record.candidates, record=record.id)
    except ImageError:
        return False
    return True


def convert_ground_truth(
    source: Objects365,
    check: FileCheck,
    out: Path,
    *,
    with_images: bool,
    on_progress: Callable[[int], None],
) -> GroundTruth:
    """Convert the file to a shard set, without missing images and annotations without a mask.

    Args:
        source: the file.
        check: its comparison with the published one.
        out: where the set is written.
        with_images: reference the images, for prediction.
        on_progress: called with the number of further images.

    Raises:
        InputError: no image of the file is there.
    """
    if with_images and len(check.missing_images) == check.images:
        paths = ", ".join(source.candidates(check.missing_images[0])[:4])
        hint = f"get the images of Objects365 v2 val from objects365.org (expected {paths}, ...)"
        raise InputError("none of the file's images was found", file=source.images, hint=hint)
    options = engine.ConvertOptions(
        name="objects365-benchmark",
        split="val",
        images_by="reference" if with_images else "none",
        on_error="skip",
        workers=1,
    )
    arguments = {"annotations": str(source.annotations), "images": str(source.images)}
    report = engine.convert(source, out, options, arguments=arguments, on_progress=on_progress)
    assert report.published is not None  # `convert` publishes or raises
    return GroundTruth(check, report.published, report.ledger.annotations.dropped)


def evaluate_objects365(
    truth: GroundTruth,
    predictions: ShardSet | Predictions,
    evaluator: str = "hotcoco",
    training: ShardSet | None = None,
) -> dict[str, Any]:
    """Mask AP by size and class frequency, and box AP of the same predictions.

    Args:
        truth: the benchmark.
        predictions: in its classes.
        evaluator: of COCO AP.
        training: the set whose images decide how frequent a class is; None takes the benchmark's.

    Raises:
        InputError: as of `check_training_set`.
    """
    shards = truth.shards
    if training is not None:
        check_training_set(shards.taxonomy, training)
    counted = shards if training is None else training
    statistics = counted.manifest.statistics.classes
    frequency = {name: statistics[name].images for name in shards.taxonomy.unique_names.values()}

    def evaluate_by(iou_type: IouType) -> EvalResult:
        return evaluate(shards, predictions, "instance", EvalOptions(evaluator, iou_type))

    masks, boxes = evaluate_by("mask").metrics, evaluate_by("box").metrics
    box_figures = {key: boxes[key] for key in _BOX_FIGURES}
    return {
        **masks,
        **_ap_by_frequency(frequency, masks["per_class"]),
        "frequency_from": origin(counted),
        "box": box_figures | _ap_by_frequency(frequency, boxes["per_class"]),
        "file": asdict(truth.check),
        "dropped_annotations": truth.dropped,
    }


def check_training_set(taxonomy: Taxonomy, training: ShardSet) -> None:
    """Raise InputError where a set lacks a class of the benchmark, which is this taxonomy."""
    classes = training.manifest.statistics.classes
    for name in taxonomy.unique_names.values():
        if name not in classes:
            hint = "give the Objects365 training set, converted by `segkit convert objects365`"
            raise InputError(f"has no class {name!r}", file=training.path, hint=hint)


def _ap_by_frequency(
    frequency: Mapping[str, int], per_class: Mapping[str, float | None]
) -> dict[str, float | None]:
    """Mean AP of the classes of each group of `FREQUENCIES`."""
    figures: dict[str, float | None] = {}
    for group, (low, high) in FREQUENCIES.items():
        in_group = [ap for name, ap in per_class.items() if low <= frequency[name] <= high]
        defined = [ap for ap in in_group if ap is not None]
        figures[f"ap_{group}"] = float(np.mean(defined)) if defined else None
    return figures
