"""Evaluate during training: metrics of a data set, and a picture of the first predictions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segkit.images.contact_sheet import Column, contact_sheet
from segkit.images.draw import overlay, save_png
from segkit.inference.outputs import predict_samples
from segkit.metrics.evaluate import evaluate
from segkit.model.dataseg import DataSeg
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.schema import InferenceConfig
from segkit.sample import Sample
from segkit.shards.manifest import TASKS
from segkit.shards.reader import ShardSet

ROWS = 6
"""Images in a picture: always the first of the set, so that pictures can be compared."""


def evaluate_set(
    model: DataSeg,
    embeddings: ClassEmbeddings,
    data: ShardSet,
    config: InferenceConfig,
    picture: Path,
) -> dict[str, Any]:
    """Evaluate a model on all images of a set, in the task of the set's labels.

    Args:
        model: in evaluation mode.
        embeddings: of the set's classes, on the model's device.
        data: a set whose segments have masks.
        config: image size and thresholds.
        picture: PNG to write: image, ground truth and prediction of the first images.

    Returns:
        The object of `metrics.json`.
    """
    task = TASKS[data.manifest.kind]
    first: list[Sample] = []

    def predictions() -> Iterator[Sample]:
        for sample in predict_samples(model, embeddings, data.taxonomy, data, task, config):
            if len(first) < ROWS:
                first.append(sample)
            yield sample

    metrics = evaluate(data, predictions(), task).metrics
    _draw(data, first, picture)
    return metrics


def headline(metrics: dict[str, Any]) -> tuple[str, float | None]:
    """The figure that a set is judged by: its name, and its value in 0-100 or None if undefined."""
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
