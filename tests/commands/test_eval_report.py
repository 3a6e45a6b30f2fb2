"""What an evaluation writes and says beside its figures: the report and its notes."""

import html
import json
import re
from dataclasses import replace

import jsonschema
import numpy as np
import pytest

from segkit.commands.app import app
from tests.metrics import scenes
from tests.metrics.files import sets, shard_set

from .test_eval import headline, metrics_schema, options, run_json, runner, show


@pytest.mark.parametrize(
    ("task", "crowds", "words"),
    [
        ("instance", (1, 2, 3), "no segment of the ground truth counts (3 crowds)"),
        ("panoptic", (1, 2, 3), "no segment of the ground truth counts (3 crowds)"),
        ("panoptic", (1, 2), "1 false positive lies in several crowds of the class"),
        ("instance", (), "1 of 1 image has no prediction; their segments count as missed"),
        ("instance", (), "1 prediction has a box but no mask and is left out"),
    ],
)
def test_the_report_has_the_notes_of_the_screen(tmp_path, task, crowds, words):
    names = scenes.taxonomy()
    classes = {1: 2, 2: 2, 3: 2}
    image = scenes.sample(np.array([[1, 1, 1, 2, 2, 2, 3, 3]]), classes, names, crowds=crowds)
    truth = shard_set(tmp_path / "truth", [image], names, task)
    segments = scenes.sample(np.array([[1, 1, 1, 0, 0, 0, 2, 2]]), classes, names).segments
    segments = tuple(replace(s, score=0.5, mask_from="prediction") for s in segments)
    if "a box but no mask" in words:
        segments = (replace(segments[0], mask=None, mask_from=None), segments[1])
    rows = [] if "no prediction" in words else [replace(image, segments=segments)]
    predictions = shard_set(tmp_path / "predictions", rows, names, task)
    arguments = options(truth, task, tmp_path / "out", predictions)
    result = runner.invoke(app, ["eval", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    page = html.unescape((tmp_path / "out" / "report.html").read_text())
    assert words in " ".join(result.stderr.split()) and words in page
    printed = re.findall(r"^note: (.*)$", result.stderr, re.MULTILINE)
    assert re.findall(r"<li>(.*?)</li>", page.partition('"notes"')[2], re.DOTALL) == printed


def test_the_figures_are_written_before_the_report_is_drawn(tmp_path, monkeypatch):
    truth, predictions = sets(tmp_path)
    out = tmp_path / "out"
    arguments = options(truth, "panoptic", out, predictions)
    expected = run_json(*arguments)
    (out / "metrics.json").unlink()

    def report(*_):
        raise MemoryError

    monkeypatch.setattr("segkit.report.build.report", report)
    result = runner.invoke(app, ["eval", *map(str, arguments)])
    assert isinstance(result.exception, MemoryError)
    assert json.loads((out / "metrics.json").read_text()) == expected
    assert not (out / "report.html").exists(), "the report of an earlier evaluation"


def test_the_note_on_missing_masks_leaves_crowds_out_and_agrees_with_its_count(tmp_path):
    truth, _ = sets(tmp_path, kind="instance")
    things = {category.id for category in truth.taxonomy.categories if category.kind == "thing"}

    def stripped(name, *crowd):
        """The truth as predictions.

        In the first images, the first thing has no mask and may be a crowd.
        """
        samples = list(truth.samples())
        for number, is_crowd in enumerate(crowd):
            segments = list(samples[number].segments)
            at = next(i for i, s in enumerate(segments) if s.class_id in things)
            segments[at] = replace(
                segments[at], mask=None, mask_from=None, score=0.5, is_crowd=is_crowd
            )
            samples[number] = replace(samples[number], segments=tuple(segments))
        return shard_set(tmp_path / name, samples, truth.taxonomy, "instance")

    def notes(predictions):
        return show(*options(truth, "instance", tmp_path, predictions))[1]

    assert "no mask" not in notes(stripped("crowd", True))
    assert "note: 1 prediction has a box but no mask" in notes(stripped("both", True, False))


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_intervals_boundaries_and_unseen_classes_fit_the_schema_and_the_report(tmp_path, task):
    truth, predictions = sets(tmp_path, images=8, kind=task)
    unseen = tmp_path / "unseen.txt"
    unseen.write_text("class 1\n\n")
    arguments = options(truth, task, tmp_path / "out", predictions)
    more = {
        "panoptic": ("--boundary",),
        "semantic": (),
        "instance": ("--boundary", "--max-dets", 5),
    }[task]
    result = run_json(*arguments, "--bootstrap", 50, "--unseen", unseen, *more)
    jsonschema.Draft202012Validator(metrics_schema()).validate(result)
    name, value = {"panoptic": "pq", "semantic": "miou", "instance": "ap"}[task], headline(result)
    low, high = result["bootstrap"]["intervals"][name]
    assert 0 <= low < high <= 100 and low - 15 < value < high + 15
    row = result["per_class"]["class 1"]
    assert result["zero_shot"]["unseen"] == (row["pq"] if task == "panoptic" else row)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "zero-shot" in page and f"{low:.2f} - {high:.2f}" in page
    assert ("Boundaries" in page) == ("boundary" in result) == (task != "semantic")
    if task == "instance":
        assert result["max_dets"] == [1, 5] and "ar5" in result and "missed" in page
