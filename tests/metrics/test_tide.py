import numpy as np
import pytest

from segkit.metrics import tide as errors
from segkit.metrics.evaluate import EvalOptions, measure
from segkit.sample import Sample

from .files import shard_set
from .scenes import records, segment, taxonomy

FRAME = (40, 100)


def box(x, width, class_id=2, score=None):
    mask = np.zeros(FRAME, bool)
    mask[5:35, x : x + width] = True
    return segment(mask, class_id, score=score)


def breakdown(truths, found, max_dets=(1, 10, 100)):
    names = taxonomy()
    batch = records(
        [Sample("1", "1", 100, 40, tuple(truths))],
        [Sample("1", "1", 100, 40, tuple(found))],
        names.index,
        "mask",
        1,
    )
    return errors.breakdown([batch], names.names, "mask", max_dets)


def counts(truths, found):
    return {
        name: row["count"]
        for name, row in breakdown(truths, found)["errors"].items()
        if row["count"]
    }


def test_each_kind_of_error_is_told_from_the_others():
    there = [box(0, 20)]
    assert counts(there, [box(0, 20, score=0.9)]) == {}
    assert counts(there, [box(0, 20, 9, score=0.9)]) == {"classification": 1}
    assert counts(there, [box(10, 20, score=0.9)]) == {"localisation": 1}
    assert counts(there, [box(10, 20, 9, score=0.9)]).keys() >= {"classification and localisation"}
    assert counts(there, [box(0, 20, score=0.9), box(0, 19, score=0.8)]) == {"duplicate": 1}
    assert counts(there, [box(0, 20, score=0.8), box(60, 20, score=0.9)]) == {"background": 1}
    assert counts(there, []) == {"missed": 1}


def test_a_mended_error_gains_what_it_cost():
    found = breakdown([box(0, 20)], [box(0, 20, score=0.5), box(60, 20, score=0.9)])["errors"]
    # one hit behind one false alarm: AP50 is 0.5, and 1 without the alarm
    assert round(found["background"]["gain"], 6) == 50 and found["missed"]["gain"] == 0


def test_confusion_lists_pairs_of_classes_by_number():
    truths = [box(0, 20), box(30, 20), box(60, 20, 16)]
    found = [box(0, 20, 9, 0.9), box(30, 20, 9, 0.8), box(60, 20, 2, 0.7)]
    assert breakdown(truths, found)["confusion"] == [
        {"true": "class 0", "predicted": "class 1", "count": 2},
        {"true": "class 2", "predicted": "class 0", "count": 1},
    ]


def test_detections_that_do_not_count_are_no_errors():
    truths, found = (
        [box(0, 20)],
        [box(0, 20, score=0.9), box(60, 20, score=0.8), box(80, 20, score=0.7)],
    )
    assert breakdown(truths, found)["errors"]["background"]["count"] == 2
    assert breakdown(truths, found, (1, 2))["errors"]["background"]["count"] == 1
    assert breakdown(truths, found, (1,))["errors"]["background"]["count"] == 0


@pytest.mark.parametrize(("exhaustive", "count", "ap50"), [(True, 1, 50), (False, 0, 100)])
def test_where_labels_are_not_exhaustive_nothing_lies_on_background(
    tmp_path, exhaustive, count, ap50
):
    truth = Sample("1", "1.jpg", 100, 40, (box(0, 20),), annotated=(2,), exhaustive=exhaustive)
    found = Sample("1", "1.jpg", 100, 40, (box(0, 20, score=0.5), box(60, 20, score=0.9)))
    ground = shard_set(tmp_path / "truth", [truth], taxonomy(), "instance")
    metrics = measure(ground, [found], "instance", EvalOptions(errors=True)).metrics
    assert metrics["ap50"] == pytest.approx(ap50)
    assert metrics["errors"]["background"] == {"count": count, "gain": pytest.approx(100 - ap50)}
