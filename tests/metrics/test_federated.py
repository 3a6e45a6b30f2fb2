from dataclasses import replace

import numpy as np
import pytest

from segkit.errors import InputError
from segkit.metrics.detections import DetectionMatches
from segkit.metrics.evaluate import evaluate
from segkit.metrics.objects import PredictedRecords, TrueRecords
from segkit.metrics.task_metrics import EvalOptions

from .files import figures, shard_set
from .scenes import records, updated
from .test_instance import random_pairs


def reference(pairs, names):
    """The rules of LVIS on top of COCO's matching.

    Classes that an image is not annotated for do not count, nor do unmatched detections where
    labels are not exhaustive.
    """
    pairs = [
        (
            t,
            replace(
                p,
                segments=tuple(
                    s for s in p.segments if t.annotated is None or s.class_id in t.annotated
                ),
            ),
        )
        for t, p in pairs
    ]
    truths, predictions = zip(*pairs, strict=True)
    batch = records(truths, predictions, names.index, "mask")
    metric = updated(DetectionMatches(len(names.categories), "mask", 300), [batch])
    rows = metric.rows
    for d, image in enumerate(rows.image):
        truth = truths[image]
        incomplete = truth.not_exhaustive or [s.class_id for s in truth.segments]
        if not truth.exhaustive and names.names[rows.label[d]] in {
            names.by_id[c].name for c in incomplete
        }:
            rows.ignored[d] |= ~rows.matched[d]
    return 100 * np.nanmean(metric.average_precision())


def federated_pairs(seed):
    """Images annotated for a few classes, exhaustively or not; the last is annotated for all."""
    pairs, names = random_pairs(seed, 6, 30, 40)
    names = replace(names, categories=tuple(replace(c, kind="thing") for c in names.categories))
    rng = np.random.default_rng(seed)
    limited = []
    for number, (truth, prediction) in enumerate(pairs):
        segments = tuple(replace(s, kind="thing", is_crowd=False) for s in truth.segments)
        truth = replace(truth, segments=segments)
        if number < 5:
            annotated = {s.class_id for s in segments} | {
                int(rng.choice([c.id for c in names.categories]))
            }
            truth = replace(
                truth, annotated=tuple(sorted(annotated)), exhaustive=bool(rng.random() < 0.4)
            )
            if not truth.exhaustive and rng.random() < 0.6:  # LVIS lists classes; a source may not
                truth = replace(
                    truth, not_exhaustive=tuple(c for c in truth.annotated if rng.random() < 0.5)
                )
        limited.append((truth, prediction))
    return limited, names


@pytest.mark.parametrize("seed", range(6))
def test_equals_brute_force(tmp_path, seed):
    limited, names = federated_pairs(seed)
    truth = shard_set(tmp_path / "truth", [t for t, _ in limited], names, "instance")
    predictions = [p for _, p in limited]
    metrics = figures(truth, predictions, "instance")
    assert metrics["protocol"] == "lvis" and metrics["max_dets"] == [300]
    assert metrics["ap"] == pytest.approx(reference(limited, names), abs=1e-7)
    with pytest.raises(InputError, match="pycocotools has no rules for images"):
        figures(truth, predictions, "instance", evaluator="pycocotools")
    with pytest.raises(InputError, match="--max-dets does nothing here: the rules of LVIS count"):
        figures(truth, predictions, "instance", max_dets=(1,))
    plain = shard_set(
        tmp_path / "plain",
        [replace(t, annotated=None, exhaustive=True, not_exhaustive=()) for t, _ in limited],
        names,
        "instance",
    )
    assert figures(plain, predictions, "instance")["protocol"] == "coco"


@pytest.mark.parametrize("seed", range(3))
def test_drawn_images_are_counted_by_the_same_rules(tmp_path, seed):
    limited, names = federated_pairs(seed)
    truth = shard_set(tmp_path / "truth", [t for t, _ in limited], names, "instance")
    options = EvalOptions(detections=True, boundary=True)
    result = evaluate(truth, [p for _, p in limited], "instance", options)
    headline = result.headline()
    for key in ("ap", "ap50", "ap75"):
        assert headline[key] == pytest.approx(result.metrics[key], abs=1e-7)  # hotcoco's
        assert headline[f"boundary {key}"] == pytest.approx(
            result.metrics["boundary"][key], abs=1e-7
        )
    assert headline["boundary ap"] <= headline["ap"]


def test_the_best_300_results_of_an_image_count_but_none_of_classes_without_annotation():
    result = {"image_id": 1, "category_id": 1, "score": 0.5}
    strangers = [result | {"category_id": 3, "score": 0.9}] * 299
    images = [{"id": 1, "neg_category_ids": [2], "not_exhaustive_category_ids": []}]
    truth = TrueRecords(["1"], images, [{"image_id": 1, "category_id": 1}])
    prediction = PredictedRecords([result, *strangers, result | {"score": 0.4}])
    assert prediction.counted(truth, 300).results == [result]
    negative = PredictedRecords([result | {"category_id": 2}])
    assert negative.counted(truth, 300).results == negative.results
