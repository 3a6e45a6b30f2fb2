"""Rank the images of a set: which to look at first."""

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.metrics.evaluate import evaluate_images
from segkit.report.preview import predicted_images
from segkit.sample import Sample
from segkit.shards.reader import ShardSet


def worst_and_best(scores: NDArray[np.float64], count: int) -> tuple[list[int], list[int]]:
    """Return the indices of the worst images, worst first, and of the best, best first.

    No image is in both lists, and none has a NaN score.

    Args:
        scores: (I,) scores of the images, NaN where an image has none.
        count: the most indices in a list.
    """
    order = np.argsort(scores, kind="stable")
    order = order[~np.isnan(scores[order])]
    half = min(count, (len(order) + 1) // 2)
    best = order[half:][::-1][:count]
    return order[:half].tolist(), best.tolist()


def worst_images(
    shards: ShardSet, count: int, predictions: ShardSet | None
) -> list[tuple[int, str]]:
    """Return the index and a caption of the worst images, worst first.

    With predictions, the images that have one are ranked by how well it agrees with the set, in the
    figure of its task; without, by the mean score of their segments.

    Raises:
        InputError: nothing gives the images a score, or no image has a prediction.
    """
    if predictions is not None:
        images = predicted_images(shards, predictions)
        result = evaluate_images(shards, predictions)
        ids = list(result.image_ids)
        scores, figure = result.image_scores()
    else:
        images = list(range(len(shards)))
        means = {sample.id: _mean_score(sample) for sample in shards.samples()}
        ids, scores, figure = list(means), np.array(list(means.values())), "mean score"
    scored = [index for index in images if not np.isnan(scores[index])]
    order = sorted(scored, key=lambda index: float(scores[index]))
    if not order:
        if predictions is not None:
            message, hint = "no image has a segment to score", "leave --worst out"
            raise InputError(message, file=shards.path, hint=hint)
        hint = "give --predictions SET to rank the images by their predictions"
        raise InputError("no segment has a score", file=shards.path, hint=hint)
    return [(index, f"{ids[index]}: {figure} {scores[index]:.1f}") for index in order[:count]]


def _mean_score(sample: Sample) -> float:
    """In percent; NaN if no segment has a score."""
    known = [segment.score for segment in sample.segments if segment.score is not None]
    return 100 * sum(known) / len(known) if known else float("nan")
