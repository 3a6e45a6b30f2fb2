import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.errors import InputError
from segkit.metrics.instance import EVALUATORS, MAX_DETS, mask_areas
from segkit.sample import Sample

from .scenes import disturbed, random_sample, records, sample, segment, taxonomy

KEYS = (
    "ap",
    "ap50",
    "ap75",
    "ap_small",
    "ap_medium",
    "ap_large",
    "ar1",
    "ar10",
    "ar100",
    "ar_small",
    "ar_medium",
    "ar_large",
)


def instance_ap(pairs, names, evaluator="hotcoco", iou_type="mask", max_dets=MAX_DETS, batch=3):
    """The metric after an update with all pairs, all classes taken for things."""
    metric = EVALUATORS[evaluator](names.names, iou_type, max_dets)
    for first in range(0, len(pairs), batch):
        truths, predictions = zip(*pairs[first : first + batch], strict=True)
        metric.update(*records(truths, predictions, names.index, iou_type, first + 1))
    return metric


def figures(*arguments, **options):
    return instance_ap(*arguments, **options).compute()


def reference(pairs, names, iou_type="mask"):
    """The twelve figures as a user of pycocotools gets them: dictionaries, loadRes, summarize."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, results = COCO(), []
    annotations = []
    for number, (t, p) in enumerate(pairs, 1):
        size = [t.height, t.width]
        for s in t.segments:
            row = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": s.class_id,
                "area": s.area,
            }
            row |= {
                "iscrowd": int(s.is_crowd),
                "bbox": list(s.box),
                "segmentation": {"size": size, "counts": s.mask},
            }
            annotations.append(row)
        for s in p.segments:
            shape = (
                {"bbox": list(s.box)}
                if iou_type == "box"
                else {"segmentation": {"size": size, "counts": s.mask}}
            )
            results.append(
                {"image_id": number, "category_id": s.class_id, "score": s.score, **shape}
            )
    images = [{"id": n, "width": t.width, "height": t.height} for n, (t, _) in enumerate(pairs, 1)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.dataset = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": c.id} for c in names.categories],
        }
        truth.createIndex()
        evaluator = COCOeval(
            truth, truth.loadRes(results), "segm" if iou_type == "mask" else "bbox"
        )
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [None if value == -1 else 100 * value for value in evaluator.stats]


def random_pairs(seed, images, height=70, width=90):
    rng, names = np.random.default_rng(seed), taxonomy()
    truths = [random_sample(rng, names, str(i), height, width, crowd=0.3) for i in range(images)]
    return [(t, disturbed(rng, t, names)) for t in truths], names


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6), images=st.integers(2, 7), iou_type=st.sampled_from(["mask", "box"])
)
def test_all_twelve_figures_equal_those_of_pycocotools_to_the_bit(seed, images, iou_type):
    pairs, names = random_pairs(seed, images)
    if not any(p.segments for _, p in pairs):
        return
    expected = reference(pairs, names, iou_type)
    for evaluator in ("hotcoco", "pycocotools"):
        result = figures(pairs, names, evaluator, iou_type)
        assert [result[key] for key in KEYS] == expected
    close = figures(pairs, names, "faster-coco-eval", iou_type)
    for key, value in zip(KEYS, expected, strict=True):
        assert close[key] == (None if value is None else pytest.approx(value, abs=1e-10))


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_no_predictions_give_zero_and_no_ground_truth_gives_null(evaluator):
    names = taxonomy()
    full = sample(np.ones((40, 50), int), {1: 2}, names)
    empty = Sample("1", "1.jpg", 50, 40)
    missed = figures([(full, empty)], names, evaluator)
    assert (
        missed["ap"] == 0
        and missed["per_class"]["class 0"] == 0
        and missed["per_class"]["class 1"] is None
    )
    invented = figures([(empty, full)], names, evaluator)
    assert (
        invented["ap"] is None
        and invented["ar100"] is None
        and set(invented["per_class"].values()) == {None}
    )


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_the_first_annotation_counts(evaluator):
    """pycocotools takes annotation id 0 for "no match"; our records are numbered from 1."""
    names = taxonomy()
    full = sample(np.ones((40, 50), int), {1: 2}, names)
    assert figures([(full, full)], names, evaluator)["ap"] == pytest.approx(100)


def test_mask_records_carry_no_box_and_size_classes_are_of_mask_areas():
    names = taxonomy()
    mask = np.eye(120, dtype=bool)  # 120 pixels in a box of 14,400
    truth = Sample("1", "1.jpg", 120, 120, (segment(mask, 2),))
    predicted = records([truth], [truth], names.index, "mask")[1]
    assert "bbox" not in predicted.results[0] and mask_areas(predicted.results) == [120]
    # an unmatched thin detection far from the truth is small; by its box it would be large and
    # count there
    off = Sample(
        "1", "1.jpg", 120, 120, (segment(mask[::-1], 2, score=0.9), segment(mask, 2, score=0.5))
    )
    for evaluator in EVALUATORS:
        result = figures([(truth, off)], names, evaluator)
        assert result["ap_small"] == pytest.approx(50, abs=1) and result["ap_large"] is None


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_custom_max_dets_limit_each_class_of_each_image(evaluator):
    names = taxonomy()
    halves = np.repeat([[1] * 20 + [2] * 20 + [3] * 20], 30, axis=0)
    truth = sample(halves, {1: 2, 2: 2, 3: 9}, names)
    scored = replace(
        truth, segments=tuple(replace(s, score=0.5 + i / 10) for i, s in enumerate(truth.segments))
    )
    result = figures([(truth, scored)], names, evaluator, max_dets=(1, 2))
    assert result["ar2"] == pytest.approx(100)
    assert result["ar1"] == pytest.approx(100 * (0.5 + 1) / 2)
    assert result["ap"] == pytest.approx(100)


def test_ignored_ground_truth_forgives_as_crowd_does():
    names = taxonomy()
    truth = sample(np.repeat([[1] * 30 + [2] * 30], 40, axis=0), {1: 2, 2: 2}, names, ignored=(2,))
    prediction = sample(np.repeat([[1] * 30 + [2] * 30], 40, axis=0), {2: 2, 1: 2}, names)
    for evaluator in EVALUATORS:
        assert figures([(truth, prediction)], names, evaluator)["ap"] == pytest.approx(100)


def test_a_score_that_is_not_a_number_is_refused():
    names = taxonomy()
    truth = sample(np.ones((4, 5), int), {1: 2}, names, image="im9")
    bad = replace(truth, segments=(replace(truth.segments[0], score=float("nan")),))
    with pytest.raises(InputError, match=r"image im9: score nan"):
        figures([(truth, bad)], names)


def test_ground_truth_without_masks_is_refused_with_a_hint():
    names = taxonomy()
    truth = sample(np.ones((4, 5), int), {1: 2}, names, image="im9")
    box = replace(truth, segments=(replace(truth.segments[0], mask=None, mask_from=None),))
    with pytest.raises(
        InputError, match=r"image im9: a segment has a box but no mask.*pseudolabel"
    ):
        figures([(box, truth)], names)
    assert figures([(box, truth)], names, iou_type="box")["ap"] == pytest.approx(100)
    predicted = records([truth], [box], names.index, "mask")[1]
    assert predicted.results == [] and predicted.without_mask == 1


def test_365_classes_with_most_absent():
    names = taxonomy(things=365, stuff=0)
    full = np.ones((40, 50), int)
    pairs = [
        (sample(full, {1: 7 * k + 2}, names), sample(full, {1: 7 * k + 2}, names))
        for k in (0, 100, 364)
    ]
    pairs[1] = (pairs[1][0], sample(full, {1: 2}, names))
    result = figures(pairs, names)
    assert sum(value is not None for value in result["per_class"].values()) == 3
    assert result["ap"] == pytest.approx(200 / 3)
    assert result == figures(pairs, names, "pycocotools")


def test_the_result_does_not_depend_on_the_batches():
    pairs, names = random_pairs(11, 7)
    first, second = (figures(pairs, names, batch=size) for size in (1, 7))
    assert first == second


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_an_iou_of_exactly_one_half_matches_and_crowds_are_not_ground_truth(evaluator):
    names = taxonomy()
    full = np.zeros((40, 60), bool)
    full[:, :40] = True
    half = full.copy()
    half[:, 20:] = False
    truth = Sample("1", "1.jpg", 60, 40, (segment(full, 2),))
    prediction = Sample("1", "1.jpg", 60, 40, (segment(half, 2, score=0.9),))
    metrics = figures([(truth, prediction)], names, evaluator)
    assert metrics["ap50"] == pytest.approx(100) and metrics["ap"] == pytest.approx(10)
    crowd = Sample("1", "1.jpg", 60, 40, (segment(full, 2, is_crowd=True),))
    assert figures([(crowd, prediction)], names, evaluator)["ap"] is None
