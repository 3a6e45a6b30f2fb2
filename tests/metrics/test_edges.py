"""Edge cases of every task against panopticapi's rules, dense confusion and pycocotools."""

from dataclasses import replace

import numpy as np
import pytest

from segkit.errors import InputError
from segkit.metrics.evaluate import evaluate
from segkit.metrics.instance import EVALUATORS
from segkit.sample import Sample
from segkit.shards.validate import validate

from .files import sets, shard_set
from .scenes import dense_confusion, sample, taxonomy
from .test_instance import KEYS, figures, reference
from .test_panoptic import assert_equal
from .test_semantic import semantic_iou

NAMES, MANY = taxonomy(), taxonomy(things=365, stuff=0)
HALVES = np.repeat([[1] * 30 + [2] * 30], 40, axis=0)
EMPTY = Sample("1", "1.jpg", 60, 40)


def prediction(ids, classes, names=NAMES):
    image = sample(ids, classes, names)
    segments = tuple(replace(s, score=0.9 - i / 10) for i, s in enumerate(image.segments))
    return replace(image, segments=segments)


def one_pixel():
    ids = np.zeros((40, 60), int)
    ids[7, 9], ids[0, 0], ids[39, 59] = 1, 2, 3
    return ids


def half():
    """Of the first segment, exactly half is predicted; of the second, all."""
    ids = HALVES.copy()
    ids[:20, :30] = 0
    return ids


def scattered():
    """Five of 365 classes; two are predicted as another."""
    ids = np.arange(2400).reshape(40, 60) // 480 + 1
    true = {1: 2, 2: 702, 3: 1402, 4: 2102, 5: 2550}
    return [(sample(ids, true, MANY), prediction(ids, true | {2: 709, 5: 2}, MANY))], MANY


CASES = {
    "no predictions": lambda: ([(sample(HALVES, {1: 2, 2: 9}, NAMES), EMPTY)], NAMES),
    "no ground truth": lambda: ([(EMPTY, prediction(HALVES, {1: 2, 2: 9}))], NAMES),
    "neither": lambda: ([(EMPTY, EMPTY)], NAMES),
    "all crowd": lambda: (
        [(sample(HALVES, {1: 2, 2: 9}, NAMES, crowds=(1, 2)), prediction(HALVES, {1: 2, 2: 9}))],
        NAMES,
    ),
    "one class all crowd": lambda: (
        [(sample(HALVES, {1: 2, 2: 9}, NAMES, crowds=(1,)), prediction(HALVES, {1: 2, 2: 9}))],
        NAMES,
    ),
    "half of it": lambda: (
        [(sample(HALVES, {1: 2, 2: 9}, NAMES), prediction(half(), {1: 2, 2: 9}))],
        NAMES,
    ),
    "one pixel": lambda: (
        [
            (
                sample(one_pixel(), {1: 2, 2: 2, 3: 9}, NAMES),
                prediction(one_pixel(), {1: 2, 2: 9, 3: 9}),
            )
        ],
        NAMES,
    ),
    "365 classes, most absent": scattered,
}


@pytest.mark.parametrize("case", CASES)
def test_panoptic(case):
    assert_equal(*CASES[case]())


@pytest.mark.parametrize("case", CASES)
def test_semantic(case):
    pairs, names = CASES[case]()
    np.testing.assert_array_equal(
        semantic_iou(pairs, names).confusion(), dense_confusion(pairs, names)
    )


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("case", CASES)
def test_instance(case, evaluator):
    pairs, names = CASES[case]()
    ours = figures(pairs, names, evaluator)
    objects = any(not s.is_crowd for truth, _ in pairs for s in truth.segments)
    if any(p.segments for _, p in pairs):
        expected = reference(pairs, names)
    else:  # which pycocotools cannot load: 0 where there is an object
        expected = [
            0.0 if objects and key not in ("ap_large", "ar_large", "ap_small", "ar_small") else None
            for key in KEYS
        ]
    assert [ours[key] for key in KEYS] == [
        None if v is None else pytest.approx(v, abs=1e-10) for v in expected
    ]
    if not objects:
        assert set(expected) == {None}


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_unknown_classes_are_refused_in_memory_and_in_sets(tmp_path, task):
    truth, predicted = sets(tmp_path, kind=task)
    samples = list(predicted.samples())
    odd = [
        replace(samples[0], segments=(replace(samples[0].segments[0], class_id=999),)),
        *samples[1:],
    ]
    for predictions in (odd, shard_set(tmp_path / "odd", odd, truth.taxonomy, task)):
        with pytest.raises(
            InputError,
            match=r"(predictions|/odd/v1): image 100: category 999 is not in the vocabulary",
        ):
            evaluate(truth, predictions, task)


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_unknown_classes_of_the_ground_truth_are_damage_that_validate_lists(tmp_path, task):
    truth, predictions = sets(tmp_path, kind=task)
    samples = list(truth.samples())
    segments = (replace(samples[0].segments[0], class_id=999), *samples[0].segments[1:])
    samples[0] = replace(samples[0], segments=segments)
    damaged = shard_set(tmp_path / "damaged", samples, truth.taxonomy, task)
    line = r"/damaged/v1.*: image 100: .* 999 is not in the .*; `segkit validate` lists the damage"
    for guess in (predictions, list(predictions.samples())):
        with pytest.raises(InputError, match=line):
            evaluate(damaged, guess, task)
    assert any("999" in str(violation) for violation in validate(damaged.path))


def test_scores_that_are_not_numbers_are_refused_in_memory_and_in_sets(tmp_path):
    truth, predicted = sets(tmp_path, kind="instance")
    samples = list(predicted.samples())
    bad = replace(
        samples[1], segments=tuple(replace(s, score=float("nan")) for s in samples[1].segments)
    )
    for predictions in (
        [bad],
        shard_set(tmp_path / "bad", [samples[0], bad, *samples[2:]], truth.taxonomy, "instance"),
    ):
        with pytest.raises(
            InputError, match=r"(predictions|/bad/v1): image 101: score nan; scores are numbers"
        ):
            evaluate(truth, predictions, "instance")
