"""Class maps of images that are annotated for only some classes, against loops over pixels."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segkit.metrics import task_metrics
from segkit.metrics.evaluate import evaluate
from segkit.metrics.task_metrics import EvalOptions
from segkit.sample import Sample
from segkit.shards.manifest import Task
from segkit.shards.reader import ShardSet
from segkit.taxonomy import Taxonomy

from .files import figures, shard_set
from .scenes import disturbed, id_map, panopticapi, random_sample, taxonomy
from .test_task_metrics import Pretended

NOWHERE = 30
"""A class that no image is annotated for."""
IMAGES = 35


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Sample, Sample]]:
    """Images annotated for the classes that they show and one more, every fifth for nearly all."""
    rng, names = np.random.default_rng(1), taxonomy()
    rest = [c.id for c in names.categories if c.id != NOWHERE]
    result = []
    for number in range(IMAGES):
        truth = random_sample(rng, names, str(100 + number))
        prediction = disturbed(rng, truth, names)
        segments = tuple(s for s in truth.segments if s.class_id != NOWHERE)
        annotated = {s.class_id for s in segments} | {int(rng.choice(rest))}
        classes = tuple(rest) if number % 5 == 0 else tuple(sorted(annotated))
        result.append((replace(truth, segments=segments, annotated=classes), prediction))
    return result


def without_unannotated(pairs: list[tuple[Sample, Sample]]) -> list[tuple[Sample, Sample]]:
    return [
        (t, replace(p, segments=tuple(s for s in p.segments if s.class_id in (t.annotated or ()))))
        for t, p in pairs
    ]


def ious(pairs: list[tuple[Sample, Sample]], names: Taxonomy) -> dict[str, float | None]:
    """IoU of each class, one pixel after the other; None without a pixel on either side."""
    common: Counter[int] = Counter()
    either: Counter[int] = Counter()
    for truth, prediction in pairs:
        maps = [
            np.array([-1, *(s.class_id for s in side.segments)])[id_map(side)].reshape(-1).tolist()
            for side in (truth, prediction)
        ]
        for true, predicted in zip(*maps, strict=True):
            if true == -1:
                continue
            either[true] += 1
            common[true] += true == predicted
            if predicted in (truth.annotated or ()) and predicted != true:
                either[predicted] += 1
    return {
        c.name: 100 * common[c.id] / either[c.id] if either[c.id] else None
        for c in names.categories
    }


def stored(
    folder: Path, pairs: list[tuple[Sample, Sample]], kind: Task
) -> tuple[ShardSet, ShardSet]:
    names = taxonomy()
    truths, predictions = (list(side) for side in zip(*pairs, strict=True))
    return (
        shard_set(folder / "truth", truths, names, kind),
        shard_set(folder / "predicted", predictions, names, kind),
    )


def test_iou_leaves_predictions_of_unannotated_classes_out(tmp_path, pairs) -> None:
    names = taxonomy()
    truth, predictions = stored(tmp_path, pairs, "semantic")
    expected = ious(pairs, names)
    assert expected[names.by_id[NOWHERE].name] is None
    values = [value for value in expected.values() if value is not None]
    for source in (predictions, list(predictions.samples())):
        metrics = figures(truth, source, "semantic")
        assert metrics["per_class"] == pytest.approx(expected)
        assert metrics["miou"] == pytest.approx(np.mean(values))
        assert metrics["classes_counted"] == len(values) == len(names.categories) - 1


def test_pq_leaves_predictions_of_unannotated_classes_out(tmp_path, pairs) -> None:
    names = taxonomy()
    truth, predictions = stored(tmp_path, pairs, "panoptic")
    reference = panopticapi(without_unannotated(pairs), names)
    assert names.by_id[NOWHERE].name not in reference["per_class"]
    for source in (predictions, list(predictions.samples())):
        metrics = figures(truth, source, "panoptic")
        for group in ("all", "things", "stuff"):
            values = [metrics[group][key] / 100 for key in ("pq", "sq", "rq")]
            assert values == pytest.approx(reference[group])
        for name, row in metrics["per_class"].items():
            counts = reference["per_class"].get(name, (0, 0, 0, 0, 0, 0))[3:]
            assert (row["tp"], row["fp"], row["fn"]) == counts


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_every_figure_is_that_of_the_other_predictions(tmp_path, pairs, monkeypatch, task) -> None:
    """In one process and in several, with boundaries, intervals and groups of unseen classes."""
    monkeypatch.setattr(task_metrics, "rows_per_shard", lambda images: 10)
    truth, predictions = stored(tmp_path, pairs, task)
    _, annotated = stored(tmp_path / "annotated", without_unannotated(pairs), task)
    options = EvalOptions(bootstrap=5, boundary=task == "panoptic", unseen=("class 1", "class 4"))
    expected = evaluate(truth, annotated, task, options)
    groups = expected.metrics.pop("zero_shot")
    for workers in ({}, {"workers": Pretended()}):
        result = evaluate(truth, predictions, task, options, **workers)
        unseen = result.metrics.pop("zero_shot")
        assert result.metrics == expected.metrics
        assert {k: v for k, v in unseen.items() if k != "mask_recall"} == (
            {k: v for k, v in groups.items() if k != "mask_recall"}
        )
        np.testing.assert_array_equal(result.image_scores()[0], expected.image_scores()[0])
    assert figures(truth, predictions, task) != figures(
        shard_set(
            tmp_path / "all", [replace(t, annotated=None) for t, _ in pairs], taxonomy(), task
        ),
        predictions,
        task,
    )


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_images_annotated_for_every_class_have_the_figures_of_none_listed(
    tmp_path, pairs, task
) -> None:
    names = taxonomy()
    metrics = []
    for name, annotated in (("listed", tuple(names.by_id)), ("all", None)):
        listed = [(replace(t, annotated=annotated), p) for t, p in pairs]
        metrics.append(figures(*stored(tmp_path / name, listed, task), task))
    assert metrics[0] == metrics[1]
