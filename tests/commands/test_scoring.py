"""What people see of an evaluation's figures."""

import json
import re
from collections import Counter
from dataclasses import replace

import pytest

from segkit.taxonomy import Taxonomy
from tests.metrics.files import sets, shard_set
from tests.metrics.scenes import taxonomy

from .test_eval import show


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_people_see_the_interval_of_each_headline_figure(tmp_path, task):
    truth, found = sets(tmp_path, images=8, kind=task)
    screen, _ = show(
        "--data", truth.path, "--predictions", found.path, "--task", task, "--out", tmp_path, "--bootstrap", 20
    )  # fmt: skip
    told = json.loads((tmp_path / "metrics.json").read_text())["bootstrap"]["intervals"]
    assert len(told) >= 3
    for low, high in told.values():
        assert f"{low:.2f} to {high:.2f}" in screen


def test_people_read_names_in_the_place_of_keys(tmp_path):
    truth, found = sets(tmp_path, images=4, kind="instance")
    options = (
        "--data",
        truth.path,
        "--task",
        "instance",
        "--out",
        tmp_path / "out",
        "--bootstrap",
        5,
    )
    screen, _ = show(*options, "--predictions", found.path, "--boundary")
    page = (tmp_path / "out" / "report.html").read_text()
    compared, _ = show(*options, "--compare", found.path, truth.path)
    for text, names in (
        (screen, ("AP", "AP50", "AP small", "AR100", "boundary AP large", "boundary AR100")),
        (page, ("AP", "AP75", "AP small", "boundary AP50")),
        (compared, ("AP", "AP50", "AP75")),
    ):
        assert all(re.search(rf"(│ |>){name}( +│|<)", text) for name in names)
        assert not re.search(r"\b(ap|ar)(\d+|_\w+)?\b", text.replace(str(tmp_path), ""))


def test_a_figure_that_no_draw_defines_has_no_interval(tmp_path):
    truth, found = sets(tmp_path, images=3)
    whole = taxonomy()
    things = Taxonomy("things", tuple(replace(c, kind="thing") for c in whole.categories))
    same = [
        shard_set(tmp_path / f"{one.manifest.name}-things", list(one.samples()), things) for one in (truth, found)
    ]  # fmt: skip
    screen, _ = show(
        "--data", same[0].path, "--predictions", same[1].path, "--task", "panoptic", "--out", tmp_path,
        "--bootstrap", 5,
    )  # fmt: skip
    assert json.loads((tmp_path / "metrics.json").read_text())["bootstrap"]["intervals"][
        "pq stuff"
    ] == [None, None]
    assert "None" not in screen


def test_perfect_classes_are_no_weak_ones(tmp_path):
    truth, found = sets(tmp_path)
    options = ("--data", truth.path, "--task", "semantic", "--out", tmp_path / "out")
    screen, _ = show(*options, "--predictions", truth.path)
    count = json.loads((tmp_path / "out" / "metrics.json").read_text())["classes_counted"]
    assert f"No weak class: {count} of {count} at 100" in screen and "Weakest" not in screen
    screen, _ = show(*options, "--predictions", found.path)
    scores = json.loads((tmp_path / "out" / "metrics.json").read_text())["per_class"].values()
    weak = sum(score is not None and score < 100 for score in scores)
    assert weak > 0 and f"Weakest classes ({weak} of {count}" in screen


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_of_equally_weak_classes_those_of_most_segments_come_first(tmp_path, task):
    truth, _ = sets(tmp_path, images=8, seed=2, kind=task)
    nothing = [replace(s, segments=()) for s in truth.samples()]
    found = shard_set(tmp_path / "nothing", nothing, truth.taxonomy, task)
    screen, _ = show(
        "--data", truth.path, "--predictions", found.path, "--task", task, "--out", tmp_path / "out"
    )
    listed = re.findall(r"│ (class \d) +│ +0\.00 ", screen.partition("Weakest classes")[2])
    count = Counter(segment.class_id for sample in truth.samples() for segment in sample.segments)
    categories = [c for c in truth.taxonomy.categories if task != "instance" or c.kind == "thing"]
    expected = [c.name for c in sorted(categories, key=lambda c: -count[c.id])]
    assert listed == expected != sorted(expected), "not in the order of the taxonomy"
