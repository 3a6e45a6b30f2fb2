from dataclasses import replace

import numpy as np
import pytest

from segkit.errors import InputError
from segkit.metrics import bootstrap, detections
from segkit.metrics.evaluate import EvalOptions, measure
from segkit.metrics.objects import Batch, searched

from .files import shard_set
from .scenes import records
from .test_instance import some_pairs


def reference(pairs, names):
    """The rules of LVIS on top of COCO's matching: what was not looked for, or not labeled in full,
    does not count."""
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
    truths, found = [t for t, _ in pairs], [p for _, p in pairs]
    rows = detections.match(records(truths, found, names.index, "mask", 1), "mask", 300)
    for d, image in enumerate(rows.image):
        truth = truths[image]
        left_open = truth.not_exhaustive or [s.class_id for s in truth.segments]
        if not truth.exhaustive and names.names[rows.label[d]] in {
            names.by_id[c].name for c in left_open
        }:
            rows.ignored[d] |= ~rows.matched[d]
    return 100 * np.nanmean(detections.average_precision(rows, len(names.categories)))


def federated_pairs(seed):
    """Images searched for some classes, exhaustively or not; the last one is searched for
    everything."""
    pairs, names = some_pairs(seed, 6, 30, 40)
    names = replace(names, categories=tuple(replace(c, kind="thing") for c in names.categories))
    rng = np.random.default_rng(seed)
    limited = []
    for number, (truth, found) in enumerate(pairs):
        segments = tuple(replace(s, kind="thing", is_crowd=False) for s in truth.segments)
        truth = replace(truth, segments=segments)
        if number < 5:
            annotated = {s.class_id for s in segments} | {
                int(rng.choice([c.id for c in names.categories]))
            }
            truth = replace(
                truth, annotated=tuple(sorted(annotated)), exhaustive=bool(rng.random() < 0.4)
            )
            if (
                not truth.exhaustive and rng.random() < 0.6
            ):  # LVIS lists classes; another source may not
                truth = replace(
                    truth, not_exhaustive=tuple(c for c in truth.annotated if rng.random() < 0.5)
                )
        limited.append((truth, found))
    return limited, names


@pytest.mark.parametrize("seed", range(6))
def test_equals_brute_force(tmp_path, seed):
    limited, names = federated_pairs(seed)
    truth = shard_set(tmp_path / "truth", [t for t, _ in limited], names, "instance")
    metrics = measure(truth, [p for _, p in limited], "instance").metrics
    assert metrics["protocol"] == "lvis" and metrics["max_dets"] == [300]
    assert metrics["ap"] == pytest.approx(reference(limited, names), abs=1e-7)
    with pytest.raises(InputError, match="pycocotools has no rules for images"):
        measure(truth, [p for _, p in limited], "instance", EvalOptions("pycocotools"))
    plain = shard_set(
        tmp_path / "plain",
        [replace(t, annotated=None, exhaustive=True, not_exhaustive=()) for t, _ in limited],
        names,
        "instance",
    )
    assert measure(plain, [p for _, p in limited], "instance").metrics["protocol"] == "coco"


@pytest.mark.parametrize("seed", range(3))
def test_what_is_drawn_is_counted_by_the_same_rules(tmp_path, seed):
    limited, names = federated_pairs(seed)
    truth = shard_set(tmp_path / "truth", [t for t, _ in limited], names, "instance")
    measured = measure(
        truth, [p for _, p in limited], "instance", EvalOptions(details=True, boundary=True)
    )
    figures = bootstrap.figures_of(measured, names)(None)
    for key in ("ap", "ap50", "ap75"):
        assert figures[key] == pytest.approx(measured.metrics[key], abs=1e-7)  # hotcoco's
        assert figures[f"boundary {key}"] == pytest.approx(
            measured.metrics["boundary"][key], abs=1e-7
        )
    assert figures["boundary ap"] <= figures["ap"]


def test_of_an_image_the_best_300_results_count_and_none_of_classes_that_were_not_looked_for():
    result = {"image_id": 1, "category_id": 1, "score": 0.5}
    strangers = [result | {"category_id": 3, "score": 0.9}] * 299
    images = [{"id": 1, "neg_category_ids": [2], "not_exhaustive_category_ids": []}]
    there = [{"image_id": 1, "category_id": 1}]
    batch = Batch(images, there, [result, *strangers, result | {"score": 0.4}])
    assert searched(batch, 300).results == [result]
    sought = Batch(images, there, [result | {"category_id": 2}])
    assert searched(sought, 300).results == sought.results
