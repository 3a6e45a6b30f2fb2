import numpy as np
import pytest

from segkit.metrics import bootstrap
from segkit.metrics.evaluate import evaluate
from segkit.metrics.task_metrics import EvalOptions

from .files import figures, sets, shard_set

KEYS = {"panoptic": ("all", "pq"), "semantic": ("miou",), "instance": ("ap",)}


@pytest.mark.parametrize("task", KEYS)
def test_headline_figures_equal_those_of_the_evaluation_and_of_the_set_of_drawn_images(
    tmp_path, task
):
    truth, predictions = sets(tmp_path, images=6, kind=task)
    result = evaluate(truth, predictions, task, EvalOptions(detections=True, boundary=True))
    name = {"panoptic": "pq", "semantic": "miou", "instance": "ap"}[task]

    def headline(metrics):
        for key in KEYS[task]:
            metrics = metrics[key]
        return metrics

    assert result.headline()[name] == pytest.approx(headline(result.metrics), abs=1e-7)
    if task != "semantic":
        assert result.headline()[f"boundary {name}"] == pytest.approx(
            headline(result.metrics["boundary"]), abs=1e-7
        )
    drawn = [1, 3, 4]
    images = [s for i, s in enumerate(truth.samples()) if i in drawn]
    part = shard_set(tmp_path / "part", images, truth.taxonomy, task)
    predicted = [s for i, s in enumerate(predictions.samples()) if i in drawn]
    expected = headline(figures(part, predicted, task))
    weights = np.isin(np.arange(6), drawn).astype(float)
    assert result.headline(weights)[name] == pytest.approx(expected, abs=1e-7)


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    rng = np.random.default_rng(0)
    values = rng.normal(50, 10, 400)

    def mean(weights):
        return {"mean": float((values * weights).sum() / weights.sum())}

    result = bootstrap.compute_intervals(mean, 400, 1000)
    low, high = result["intervals"]["mean"]
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15)
    assert result == bootstrap.compute_intervals(mean, 400, 1000)


def test_a_paired_comparison_sees_a_small_difference_under_large_spread():
    rng = np.random.default_rng(1)
    hard = rng.normal(50, 20, 300)
    better = hard + 1 + rng.normal(0, 2, 300)

    def mean(values):
        return lambda w: {"x": float(np.average(values, weights=w))}

    row = bootstrap.compute_differences(mean(hard), mean(better), 300, 500)["figures"]["x"]
    assert row["difference"] == pytest.approx(row["b"] - row["a"]) and row["b_better"] == 1
    assert 0 < row["interval"][0] < row["difference"] < row["interval"][1] < 2
    same = bootstrap.compute_differences(mean(hard), mean(hard), 300, 50)["figures"]["x"]
    assert same["interval"] == [0, 0] and same["b_better"] == 0.5


def test_undefined_figures_are_null():
    result = bootstrap.compute_intervals(lambda w: {"x": float("nan")}, 3, 5)
    assert result["intervals"]["x"] == [None, None]
    compared = bootstrap.compute_differences(
        lambda w: {"x": float("nan")}, lambda w: {"x": 1.0}, 3, 5
    )["figures"]["x"]
    assert compared["a"] is None and compared["difference"] is None and compared["b_better"] is None
