"""Tables of an evaluation's figures."""

import json
import re
from collections import Counter
from dataclasses import replace

import pytest

from segkit.taxonomy import Taxonomy
from tests.metrics.files import sets, shard_set
from tests.metrics.scenes import taxonomy

from .test_eval import options, show


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_the_tables_show_the_interval_of_each_headline_figure(tmp_path, task):
    truth, predictions = sets(tmp_path, images=8, kind=task)
    screen, _ = show(*options(truth, task, tmp_path, predictions), "--bootstrap", 20)
    intervals = json.loads((tmp_path / "metrics.json").read_text())["bootstrap"]["intervals"]
    assert len(intervals) >= 3
    for low, high in intervals.values():
        assert f"{low:.2f} to {high:.2f}" in screen


def test_the_tables_show_names_instead_of_keys(tmp_path):
    truth, predictions = sets(tmp_path, images=4, kind="instance")
    arguments = (*options(truth, "instance", tmp_path / "out"), "--bootstrap", 5)
    screen, _ = show(*arguments, "--predictions", predictions.path, "--boundary")
    page = (tmp_path / "out" / "report.html").read_text()
    compared, _ = show(*arguments, "--compare", predictions.path, truth.path)
    for text, names in (
        (screen, ("AP", "AP50", "AP small", "AR100", "boundary AP large", "boundary AR100")),
        (page, ("AP", "AP75", "AP small", "boundary AP50")),
        (compared, ("AP", "AP50", "AP75")),
    ):
        assert all(re.search(rf"(│ |>){name}( +│|<)", text) for name in names)
        assert not re.search(r"\b(ap|ar)(\d+|_\w+)?\b", text.replace(str(tmp_path), ""))


def test_a_figure_that_no_draw_defines_has_no_interval(tmp_path):
    truth, predictions = sets(tmp_path, images=3)
    categories = tuple(replace(c, kind="thing") for c in taxonomy().categories)
    things = Taxonomy("things", categories)
    truth, predictions = (
        shard_set(tmp_path / f"{shards.manifest.name}-things", list(shards.samples()), things)
        for shards in (truth, predictions)
    )
    screen, _ = show(*options(truth, "panoptic", tmp_path, predictions), "--bootstrap", 5)
    intervals = json.loads((tmp_path / "metrics.json").read_text())["bootstrap"]["intervals"]
    assert intervals["pq stuff"] == [None, None]
    assert "None" not in screen


def test_perfect_classes_are_not_listed_as_weak(tmp_path):
    truth, predictions = sets(tmp_path)
    screen, _ = show(*options(truth, "semantic", tmp_path / "out", truth))
    count = json.loads((tmp_path / "out" / "metrics.json").read_text())["classes_counted"]
    assert f"No weak class: {count} of {count} at 100" in screen and "Weakest" not in screen
    screen, _ = show(*options(truth, "semantic", tmp_path / "out", predictions))
    scores = json.loads((tmp_path / "out" / "metrics.json").read_text())["per_class"].values()
    weak = sum(score is not None and score < 100 for score in scores)
    assert weak > 0 and f"Weakest classes ({weak} of {count}" in screen


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_equally_weak_classes_are_listed_by_their_segments(tmp_path, task):
    truth, _ = sets(tmp_path, images=8, seed=2, kind=task)
    nothing = [replace(s, segments=()) for s in truth.samples()]
    predictions = shard_set(tmp_path / "nothing", nothing, truth.taxonomy, task)
    screen, _ = show(*options(truth, task, tmp_path / "out", predictions))
    listed = re.findall(r"│ (class \d) +│ +0\.00 ", screen.partition("Weakest classes")[2])
    count = Counter(segment.class_id for sample in truth.samples() for segment in sample.segments)
    categories = [c for c in truth.taxonomy.categories if task != "instance" or c.kind == "thing"]
    expected = [c.name for c in sorted(categories, key=lambda c: -count[c.id])]
    assert listed == expected != sorted(expected), "not in the order of the taxonomy"
