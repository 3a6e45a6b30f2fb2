import numpy as np
import pytest

from segkit.errors import InputError
from segkit.metrics import bootstrap
from segkit.metrics.evaluate import EvalOptions, measure
from segkit.metrics.zero_shot import zero_shot

from .files import sets, shard_set

KEYS = {"panoptic": ("all", "pq"), "semantic": ("miou",), "instance": ("ap",)}


@pytest.mark.parametrize("task", KEYS)
def test_figures_of_all_images_are_those_of_the_evaluation_and_of_a_draw_those_of_the_drawn_set(
    tmp_path, task
):
    truth, found = sets(tmp_path, images=6, kind=task)
    measured = measure(truth, found, task, EvalOptions(details=True, boundary=True))
    figures = bootstrap.figures_of(measured, truth.taxonomy)
    name = {"panoptic": "pq", "semantic": "miou", "instance": "ap"}[task]

    def headline(metrics):
        for key in KEYS[task]:
            metrics = metrics[key]
        return metrics

    assert figures(None)[name] == pytest.approx(headline(measured.metrics), abs=1e-7)
    if task != "semantic":
        assert figures(None)[f"boundary {name}"] == pytest.approx(
            headline(measured.metrics["boundary"]), abs=1e-7
        )
    drawn = [1, 3, 4]
    chosen = [s for i, s in enumerate(truth.samples()) if i in drawn]
    part = shard_set(tmp_path / "part", chosen, truth.taxonomy, task)
    answers = [s for i, s in enumerate(found.samples()) if i in drawn]
    expected = headline(measure(part, answers, task).metrics)
    weights = np.isin(np.arange(6), drawn).astype(float)
    assert figures(weights)[name] == pytest.approx(expected, abs=1e-7)


def test_interval_of_a_mean_is_that_of_the_normal_distribution():
    rng = np.random.default_rng(0)
    values = rng.normal(50, 10, 400)
    found = bootstrap.intervals(lambda w: {"mean": float((values * w).sum() / w.sum())}, 400, 1000)
    low, high = found["intervals"]["mean"]
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15)
    assert found == bootstrap.intervals(
        lambda w: {"mean": float((values * w).sum() / w.sum())}, 400, 1000
    )


def test_a_paired_comparison_sees_a_small_difference_under_large_spread():
    rng = np.random.default_rng(1)
    hard = rng.normal(50, 20, 300)
    better = hard + 1 + rng.normal(0, 2, 300)

    def mean(values):
        return lambda w: {"x": float(np.average(values, weights=w))}

    found = bootstrap.compare(mean(hard), mean(better), 300, 500)["figures"]["x"]
    assert found["difference"] == pytest.approx(found["b"] - found["a"]) and found["b_better"] == 1
    assert 0 < found["interval"][0] < found["difference"] < found["interval"][1] < 2
    same = bootstrap.compare(mean(hard), mean(hard), 300, 50)["figures"]["x"]
    assert same["interval"] == [0, 0] and same["b_better"] == 0.5


def test_undefined_figures_are_null():
    found = bootstrap.intervals(lambda w: {"x": float("nan")}, 3, 5)
    assert found["intervals"]["x"] == [None, None]
    compared = bootstrap.compare(lambda w: {"x": float("nan")}, lambda w: {"x": 1.0}, 3, 5)[
        "figures"
    ]["x"]
    assert compared["a"] is None and compared["difference"] is None and compared["b_better"] is None


def test_seen_and_unseen_classes():
    per_class = {"a": 40.0, "b": 20.0, "c": 10.0, "d": None}
    found = zero_shot(per_class, ["c", "d"], "instance")
    assert (found["seen"], found["unseen"], found["harmonic"]) == (30, 10, 15)
    assert (found["seen_classes"], found["unseen_classes"], found["figure"]) == (2, 1, "ap")
    assert zero_shot({"a": {"pq": 0.0}, "b": {"pq": 0.0}}, ["b"], "panoptic")["harmonic"] == 0
    assert zero_shot(per_class, ["d"], "semantic")["harmonic"] is None
    with pytest.raises(InputError, match="unseen classes that the data does not have: x"):
        zero_shot(per_class, ["x"], "semantic")
