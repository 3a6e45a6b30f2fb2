"""One whole evaluation: figures, intervals and splits in one object, and the comparison of two
predictions."""

from collections.abc import Sequence
from typing import Any

from segkit.errors import InputError
from segkit.metrics import bootstrap
from segkit.metrics.box_prompt_iou import BoxPromptIoU
from segkit.metrics.evaluate import BATCH, EvalOptions, Measured, measure, pairs
from segkit.metrics.predictions import Predictions
from segkit.metrics.zero_shot import zero_shot
from segkit.shards.manifest import Task
from segkit.shards.reader import ShardSet


def score_set(
    truth: ShardSet,
    predictions: Predictions,
    task: Task,
    options: EvalOptions,
    *,
    samples: int = 0,
    unseen: Sequence[str] = (),
    given_boxes: bool = False,
) -> Measured:
    """Everything that metrics.json holds of one evaluation.

    Args:
        truth: ground truth.
        predictions: predictions for its images.
        task: what to score.
        options: how; with `samples`, instances need `details`.
        samples: draws of the images for bootstrap intervals; 0 for none.
        unseen: classes that training has not seen, for zero-shot figures.
        given_boxes: the predictions are masks for the true boxes: also tell their IoU by size and
            class.
    """
    measured = measure(truth, predictions, task, options)
    if samples and measured.image_ids:
        figures = bootstrap.figures_of(measured, truth.taxonomy)
        measured.metrics["bootstrap"] = bootstrap.intervals(
            figures, len(measured.image_ids), samples
        )
    if unseen:
        measured.metrics["zero_shot"] = zero_shot(measured.metrics["per_class"], unseen, task)
    if given_boxes:
        metric = BoxPromptIoU(truth.taxonomy)
        for images, predicted in pairs(truth, predictions, BATCH):
            metric.update(images, predicted)
        measured.metrics["given_boxes"] = metric.compute()
    return measured


def compare_sets(
    truth: ShardSet,
    first: Predictions,
    second: Predictions,
    task: Task,
    options: EvalOptions,
    *,
    samples: int,
) -> dict[str, Any]:
    """Headline figures of two predictions for the same images, and how sure their difference is.

    Raises:
        InputError: the ground truth holds no image.
    """
    if not len(truth):
        raise InputError(
            "the set holds no image", file=truth.path, hint="compare on a set with images"
        )
    a, b = (
        bootstrap.figures_of(measure(truth, p, task, options), truth.taxonomy)
        for p in (first, second)
    )
    return {"task": task, "images": len(truth), **bootstrap.compare(a, b, len(truth), samples)}
