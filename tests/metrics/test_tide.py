import numpy as np
import pytest

from segkit.metrics.tide import TideErrors
from segkit.sample import Sample

from .files import figures, shard_set
from .scenes import records, segment, taxonomy, updated

FRAME = (40, 100)


def box(x, width, class_id=2, score=None):
    mask = np.zeros(FRAME, bool)
    mask[5:35, x : x + width] = True
    return segment(mask, class_id, score=score)


def tide(objects, detections, max_dets=(1, 10, 100)):
    names = taxonomy()
    images = [Sample("1", "1", 100, 40, tuple(segments)) for segments in (objects, detections)]
    batch = records(images[:1], images[1:], names.index, "mask")
    return updated(TideErrors(names.names, "mask", max_dets), [batch]).compute()


def counts(objects, detections):
    return {
        name: row["count"]
        for name, row in tide(objects, detections)["errors"].items()
        if row["count"]
    }


def test_each_type_of_error_is_recognized():
    objects = [box(0, 20)]
    assert counts(objects, [box(0, 20, score=0.9)]) == {}
    assert counts(objects, [box(0, 20, 9, score=0.9)]) == {"classification": 1}
    assert counts(objects, [box(10, 20, score=0.9)]) == {"localisation": 1}
    assert counts(objects, [box(10, 20, 9, score=0.9)]).keys() >= {
        "classification and localisation"
    }
    assert counts(objects, [box(0, 20, score=0.9), box(0, 19, score=0.8)]) == {"duplicate": 1}
    assert counts(objects, [box(0, 20, score=0.8), box(60, 20, score=0.9)]) == {"background": 1}
    assert counts(objects, []) == {"missed": 1}


def test_the_gain_of_an_error_is_the_ap_that_it_costs():
    detections = [box(0, 20, score=0.5), box(60, 20, score=0.9)]
    errors = tide([box(0, 20)], detections)["errors"]
    # a true positive behind a false one: AP50 is 0.5, and 1 without the false one
    assert round(errors["background"]["gain"], 6) == 50 and errors["missed"]["gain"] == 0


def test_confusion_lists_pairs_of_classes_by_number():
    objects = [box(0, 20), box(30, 20), box(60, 20, 16)]
    detections = [box(0, 20, 9, 0.9), box(30, 20, 9, 0.8), box(60, 20, 2, 0.7)]
    assert tide(objects, detections)["confusion"] == [
        {"true": "class 0", "predicted": "class 1", "count": 2},
        {"true": "class 2", "predicted": "class 0", "count": 1},
    ]


def test_detections_that_do_not_count_are_not_errors():
    objects = [box(0, 20)]
    detections = [box(0, 20, score=0.9), box(60, 20, score=0.8), box(80, 20, score=0.7)]
    assert tide(objects, detections)["errors"]["background"]["count"] == 2
    assert tide(objects, detections, (1, 2))["errors"]["background"]["count"] == 1
    assert tide(objects, detections, (1,))["errors"]["background"]["count"] == 0


@pytest.mark.parametrize(("exhaustive", "count", "ap50"), [(True, 1, 50), (False, 0, 100)])
def test_where_labels_are_not_exhaustive_nothing_is_on_background(
    tmp_path, exhaustive, count, ap50
):
    truth = Sample("1", "1.jpg", 100, 40, (box(0, 20),), annotated=(2,), exhaustive=exhaustive)
    prediction = Sample("1", "1.jpg", 100, 40, (box(0, 20, score=0.5), box(60, 20, score=0.9)))
    ground = shard_set(tmp_path / "truth", [truth], taxonomy(), "instance")
    metrics = figures(ground, [prediction], "instance", tide=True)
    assert metrics["ap50"] == pytest.approx(ap50)
    assert metrics["errors"]["background"] == {"count": count, "gain": pytest.approx(100 - ap50)}
