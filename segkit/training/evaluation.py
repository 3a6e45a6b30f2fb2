"""Evaluation while training: metrics of a data set, and a picture of what the model sees in it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segkit.data.mix import TASKS
from segkit.images.contact_sheet import Column, contact_sheet
from segkit.images.draw import overlay, save_png
from segkit.inference.outputs import predict_samples
from segkit.metrics.evaluate import evaluate
from segkit.model.dataseg import DataSeg
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.schema import InferenceConfig
from segkit.sample import Sample
from segkit.shards.reader import ShardSet

ROWS = 6
"""Images in the picture: the first of the set, so that the pictures of a run can be compared."""


def evaluate_set(
    model: DataSeg, table: ClassEmbeddings, data: ShardSet, config: InferenceConfig, picture: Path
) -> dict[str, Any]:
    """Metrics of `model` on all images of `data`, by the task that its labels allow.

    Args:
        model: in evaluation mode.
        table: the set's classes, on the model's device.
        data: any set whose segments have masks.
        config: image size and thresholds.
        picture: PNG to write: image, ground truth and prediction of the first images.

    Returns:
        The object that `metrics.json` holds.
    """
    task = TASKS[data.manifest.kind]
    shown: list[Sample] = []

    def predictions() -> Iterator[Sample]:
        for sample in predict_samples(model, table, data.taxonomy, data, task, config):
            if len(shown) < ROWS:
                shown.append(sample)
            yield sample

    metrics = evaluate(data, predictions(), task).metrics
    _draw(data, shown, picture)
    return metrics


def headline(metrics: dict[str, Any]) -> tuple[str, float | None]:
    """Name and value (0-100, higher is better; None where nothing could be measured) of what a set
    is judged by."""
    if "all" in metrics:
        return "PQ", metrics["all"]["pq"]
    return ("mIoU", metrics["miou"]) if "miou" in metrics else ("mask AP", metrics["ap"])


def _draw(data: ShardSet, predicted: list[Sample], picture: Path) -> None:
    if not predicted:
        return
    images = [data.image(sample) for sample in predicted]
    truth = [data.sample(row) for row in range(len(predicted))]
    columns = (
        Column("image", tuple(images)),
        Column("ground truth", _overlays(data, images, truth)),
        Column("prediction", _overlays(data, images, predicted)),
    )
    picture.parent.mkdir(exist_ok=True)
    save_png(contact_sheet([sample.id for sample in predicted], columns), picture)


def _overlays(data: ShardSet, images: list[Any], samples: list[Sample]) -> tuple[Any, ...]:
    pairs = zip(images, samples, strict=True)
    return tuple(overlay(image, sample.segments, data.taxonomy) for image, sample in pairs)
