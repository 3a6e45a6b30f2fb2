"""The Objects365 instance benchmark of DaTaSeg: 1,000 validation images with masks, in COCO's
format.

File `o365_instance_seg_val.json` of
google-research-datasets/DaTaSeg-Objects365-Instance-Segmentation (CC BY 4.0); the images come from
objects365.org and lie in the folders of its archives.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from segkit.errors import InputError
from segkit.metrics.evaluate import EvalOptions, EvalResult, evaluate
from segkit.metrics.output import origin
from segkit.metrics.predictions import Predictions
from segkit.sample import Segment
from segkit.shards.reader import ShardSet
from segkit.sources import engine
from segkit.sources.coco_instances import Annotation
from segkit.sources.coco_json import read_coco
from segkit.sources.image_files import find_image
from segkit.sources.ledger import AnnotationError, ImageError, Tally
from segkit.sources.objects365 import Objects365, reject_version_1
from segkit.sources.source import Record

IMAGES, MASKS = 1_000, 12_836
FREQUENCIES = {"rare": (0, 10), "common": (11, 100), "frequent": (101, 10**9)}
"""Training images that show a class (both ends belong to the group): LVIS's limits."""


@dataclass(frozen=True)
class FileCheck:
    """How a file compares with the published one."""

    images: int
    masks: int
    categories: int
    differences: tuple[str, ...]
    """In words; empty for the published file."""
    missing_images: tuple[str, ...] = ()
    """File names that no known folder layout holds; not looked for where predictions are given."""


@dataclass(frozen=True)
class Truth:
    """The benchmark's ground truth."""

    check: FileCheck
    shards: ShardSet
    dropped: dict[str, int]
    """Annotations left out by the conversion, by reason."""


@dataclass(frozen=True)
class _Masked(Objects365):
    """The benchmark's file: what has no mask, such as the crowds that its raters skipped, is left
    out."""

    boxes_only: bool = False

    def segment(self, raw: bytes, width: int, height: int, name: str, tally: Tally) -> Segment:
        """As for any instances file; AnnotationError where there is no mask."""
        if not _has_mask(raw):
            raise AnnotationError("missing-mask", "a box without a mask")
        return super().segment(raw, width, height, name, tally)


def _has_mask(raw: bytes) -> bool:
    """Whether an annotation has a segmentation, and not an empty one; one that cannot be read has
    none."""
    try:
        return bool(msgspec.json.decode(msgspec.json.decode(raw, type=Annotation).segmentation))
    except msgspec.DecodeError:
        return False


def open_file(annotations: Path, images: Path) -> Objects365:
    """The benchmark file as a source with masks; InputError where it cannot be read or has the
    classes of v1."""
    file = read_coco(annotations, "instances")
    reject_version_1(file)
    return _Masked(file, images)


def check(source: Objects365, *, look_for_images: bool) -> FileCheck:
    """Compare a file with the published one: images, masks, categories; find its images."""
    records = list(source.records(Tally()))
    annotations = [raw for record in records for raw, *_ in source.load(record)[0]]
    masks = sum(map(_has_mask, annotations))
    missing = tuple(r.file_name for r in records if look_for_images and not _is_there(source, r))
    differences = []
    for count, expected, what in ((len(records), IMAGES, "images"), (masks, MASKS, "masks")):
        if count != expected:
            less = "a subset" if count < expected else "more than the benchmark"
            differences.append(
                f"{count:,} {what} where the published file has {expected:,}: {less}"
            )
    if masks < len(annotations):
        differences.append(f"{len(annotations) - masks:,} annotations have no mask: left out")
    if (
        source.taxonomy.name != "objects365-v2"
    ):  # which a list is called that has all its ids and names
        differences.append(
            f"{len(source.taxonomy.categories)} categories that are not the 365 of Objects365 v2"
        )
    return FileCheck(
        len(records), masks, len(source.taxonomy.categories), tuple(differences), missing
    )


def _is_there(source: Objects365, record: Record) -> bool:
    try:
        find_image(source.images, record.candidates, record=record.id)
    except ImageError:
        return False
    return True


def ground_truth(
    source: Objects365,
    checked: FileCheck,
    out: Path,
    *,
    with_images: bool,
    on_progress: Callable[[int], None],
) -> Truth:
    """The file as a shard set; images that are not there are left out, and so are annotations that
    hold no mask.

    Raises:
        InputError: no image of the file is there.
    """
    if with_images and len(checked.missing_images) == checked.images:
        tried = ", ".join(source.candidates(checked.missing_images[0])[:4])
        hint = f"get the images of Objects365 v2 val from objects365.org (looked for {tried}, ...)"
        raise InputError("none of the file's images is there", file=source.images, hint=hint)
    options = engine.ConvertOptions(
        name="objects365-benchmark", split="val", images_by="reference" if with_images else "none",
        on_error="skip", workers=1,
    )  # fmt: skip
    arguments = {"annotations": str(source.annotations), "images": str(source.images)}
    report = engine.convert(source, out, options, arguments=arguments, on_progress=on_progress)
    assert report.published is not None  # `convert` publishes or raises
    return Truth(checked, report.published, report.ledger.annotations.dropped)


def evaluate_objects365(
    truth: Truth,
    predictions: ShardSet | Predictions,
    evaluator: str = "hotcoco",
    training: ShardSet | None = None,
) -> dict[str, Any]:
    """Mask AP with sizes and class frequencies, and box AP of the same predictions.

    Args:
        truth: the benchmark.
        predictions: in its classes.
        evaluator: of COCO's AP.
        training: the set whose images tell how frequent a class is; None takes the benchmark's own.

    Raises:
        InputError: the training set lacks a class of the benchmark.
    """
    frequency = images_by_class(truth.shards, training or truth.shards)
    by_mask = evaluate(truth.shards, predictions, "instance", EvalOptions(evaluator, "mask"))
    by_box = evaluate(truth.shards, predictions, "instance", EvalOptions(evaluator, "box"))
    box = {
        key: by_box.metrics[key]
        for key in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    }
    return {
        **by_mask.metrics,
        **_by_frequency(frequency, by_mask),
        "frequency_from": origin(training or truth.shards),
        "box": box | _by_frequency(frequency, by_box),
        "file": asdict(truth.check),
        "dropped_annotations": truth.dropped,
    }


def images_by_class(truth: ShardSet, counted: ShardSet) -> dict[str, int]:
    """Images of a set that show each class of the ground truth; InputError where it does not know
    one of them."""
    classes = counted.manifest.statistics.classes
    for name in truth.manifest.statistics.classes:
        if name not in classes:
            hint = "give the Objects365 training set, converted by `segkit convert objects365`"
            raise InputError(f"has no class {name!r}", file=counted.path, hint=hint)
    return {name: classes[name].images for name in truth.manifest.statistics.classes}


def _by_frequency(frequency: Mapping[str, int], evaluation: EvalResult) -> dict[str, float | None]:
    """Mean AP of the classes of each group of `FREQUENCIES`."""
    result: dict[str, float | None] = {}
    for group, (low, high) in FREQUENCIES.items():
        values = [
            ap
            for name, ap in evaluation.metrics["per_class"].items()
            if low <= frequency[name] <= high
        ]
        defined = [value for value in values if value is not None]
        result[f"ap_{group}"] = float(np.mean(defined)) if defined else None
    return result
