"""Evaluate during training: metrics of a data set, and a picture of the first predictions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from segkit import distributed
from segkit.images.contact_sheet import Column, contact_sheet
from segkit.images.draw import overlay, save_png
from segkit.inference.outputs import predict_samples
from segkit.inference.pipeline import predict_images
from segkit.metrics.evaluate import evaluate
from segkit.model.dataseg import DataSeg
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.schema import InferenceConfig
from segkit.sample import Sample
from segkit.shards.manifest import TASKS, Task
from segkit.shards.reader import ShardSet
from segkit.shards.shard import rows_per_shard
from segkit.training.sharding import is_sharded, reshard

ROWS = 6
"""Images in a picture: always the first of the set, so that pictures can be compared."""


def evaluate_set(
    model: DataSeg,
    embeddings: ClassEmbeddings,
    data: ShardSet,
    config: InferenceConfig,
    picture: Path,
) -> dict[str, Any] | None:
    """Evaluate a model on all images of a set, in the task of the set's labels.

    Every process must call it: each predicts its share of the images, and the first one computes
    the metrics. They do not depend on the number of processes, since parts of the set and nothing
    else decide which images share a batch.

    Args:
        model: in evaluation mode; sharded or not.
        embeddings: of the set's classes, on the model's device.
        data: a set whose segments have masks.
        config: image size and thresholds.
        picture: PNG to write: image, ground truth and prediction of the first images.

    Returns:
        The object of `metrics.json` in the first process, None in the others.
    """
    task = TASKS[data.manifest.kind]
    predicted = _predict_parts(model, embeddings, data, task, config)
    if distributed.rank() > 0:
        for _ in predicted:
            pass
        return None
    first: list[Sample] = []

    def predictions() -> Iterator[Sample]:
        for sample in predicted:
            if len(first) < ROWS:
                first.append(sample)
            yield sample

    metrics = evaluate(data, predictions(), task).metrics
    _draw(data, first, picture)
    return metrics


def _predict_parts(
    model: DataSeg, embeddings: ClassEmbeddings, data: ShardSet, task: Task, config: InferenceConfig
) -> Iterator[Sample]:
    """Predict the parts of a set in turn, one in each process; yield all in the first process."""
    rows, world = rows_per_shard(len(data)), distributed.world_size()
    steady = SteadyModel(model, embeddings, task, config) if is_sharded(model) else None
    for turn in range(0, len(data), rows * world):
        start = turn + rows * distributed.rank()
        part = range(start, min(start + rows, len(data)))
        samples = (data.sample(row) for row in part)
        predicted = list(
            predict_samples(
                steady or model, embeddings, data.taxonomy, data, task, config, samples=samples
            )
        )
        if steady is not None:
            steady.wait_for_others()
        yield from distributed.gather_object(predicted)
    if steady is not None:
        reshard(model)


class SteadyModel:
    """A sharded model that all processes run equally often, as they gather its layers together.

    Before each forward pass the processes exchange whether any of them has a batch left; those
    without one run an empty image instead.
    """

    def __init__(
        self, model: DataSeg, embeddings: ClassEmbeddings, task: Task, config: InferenceConfig
    ) -> None:
        self._model, self._embeddings, self._task = model, embeddings, task
        self._inference = config
        self.config = model.config

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model on a batch of this process."""
        distributed.any_process(True)
        return self._model(*args, **kwargs)

    def wait_for_others(self) -> None:
        """Run the model on an empty image until no process has a batch left."""
        size = self._inference.image_size
        empty = np.zeros((size, size, 3), np.uint8)
        while distributed.any_process(False):
            images = [(None, empty)]
            list(
                predict_images(
                    self._model,
                    self._embeddings,
                    images,
                    lambda item: item,
                    self._task,
                    self._inference,
                )
            )


def _draw(data: ShardSet, predicted: list[Sample], picture: Path) -> None:
    if not predicted:
        return
    images = [data.image(sample) for sample in predicted]
    truth = [data.sample(row, check_masks=True) for row in range(len(predicted))]
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
