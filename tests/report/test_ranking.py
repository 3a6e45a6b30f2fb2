from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segkit.errors import InputError
from segkit.metrics.evaluate import evaluate
from segkit.report.ranking import worst_and_best, worst_images
from segkit.shards.header import Header
from segkit.shards.writer import write_layer
from tests.metrics.files import sets


def test_no_image_is_both_worst_and_best() -> None:
    assert worst_and_best(np.array([5.0, np.nan, 1.0, 9.0, 7.0]), 2) == ([2, 0], [3, 4])
    assert worst_and_best(np.array([5.0, 1.0, 9.0]), 6) == ([1, 0], [2])
    assert worst_and_best(np.array([np.nan]), 6) == ([], [])


def test_the_worst_image_is_the_one_with_the_lowest_quality(tmp_path: Path) -> None:
    truth, predictions = sets(tmp_path, images=6, kind="panoptic")
    ranked = worst_images(truth, 3, predictions)
    metric = evaluate(truth, predictions, "panoptic").panoptic
    assert metric is not None
    scores = metric.per_image()
    assert ranked[0][0] == int(np.nanargmin(scores))
    ids = [sample.id for sample in truth.samples()]
    assert [text.split(":")[0] for _, text in ranked] == [ids[index] for index, _ in ranked]
    assert ranked[0][1].endswith(f"PQ {100 * np.nanmin(scores):.1f}")


def test_instances_are_ranked_by_the_iou_of_their_objects(tmp_path: Path) -> None:
    truth, predictions = sets(tmp_path, images=5, kind="instance")
    ranked = worst_images(truth, 5, predictions)
    shares = [float(text.rsplit(" ", 1)[1]) for _, text in ranked]
    assert len(ranked) == 5 and shares == sorted(shares)
    assert "mean IoU of objects" in ranked[0][1]


def test_without_predictions_the_lowest_mean_score_comes_first(tmp_path: Path) -> None:
    truth, _ = sets(tmp_path, images=4, kind="instance")
    with pytest.raises(InputError, match="no segment has a score; give --predictions"):
        worst_images(truth, 2, None)
    scores = (0.9, 0.2, 0.5, 0.7)
    samples = [
        replace(sample, segments=tuple(replace(s, score=score) for s in sample.segments))
        for sample, score in zip(truth.samples(), scores, strict=True)
    ]
    layer = write_layer(tmp_path / "layer", truth, samples, Header.from_set(truth, "predict", {}))
    assert [index for index, _ in worst_images(layer, 2, None)] == [1, 2]
