"""The report of a labeling of a set in which some boxes had a mask before."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.errors import InputError
from segkit.report.labeled_boxes import HiddenTruth, read_boxes
from segkit.sample import Sample, Segment
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_layer
from tests.report.test_labeling import named_sets


def test_masks_of_an_earlier_teacher_are_left_out(tmp_path: Path) -> None:
    """GrabCut's confident masks stay; the report of the ellipses is that of the other boxes."""
    truth, boxes = named_sets(tmp_path)

    def first_masked() -> Iterator[Sample]:
        for sample in boxes.samples():
            first = replace(true_first(truth, sample.id), mask_from="pseudo", score=0.125)
            yield replace(sample, segments=(first, *sample.segments[1:]))

    header = replace(Header.from_set(boxes, "test"), kind="instance")
    data = write_layer(tmp_path / "first", boxes, first_masked(), header)
    command = ["pseudolabel", "--teacher", "ellipse", "--data", str(data.path), "--json"]
    command += ["--truth", str(truth.path), "--out", str(tmp_path / "second")]
    result = CliRunner().invoke(app, command)
    output = json.loads(result.stdout)
    layer, hidden = ShardSet.open(tmp_path / "second"), HiddenTruth(truth)
    rows = read_boxes(layer, hidden, data)
    assert len(rows.area) == output["masked"] == output["iou"]["masked"] > 0
    assert output["already_masked"] == len(boxes) and (rows.segment > 0).all()
    assert output["scores"]["0.0"] > 0.125, "the earlier teacher's scores are not these"
    assert output["iou"]["mean_iou"] == pytest.approx(rows.iou.mean()) and rows.iou.max() < 1
    assert f"{len(rows.area):,} boxes in {len(layer)} images" in Path(output["report"]).read_text()
    everything = read_boxes(layer, hidden)
    assert len(everything.area) == len(rows.area) + len(boxes) and everything.iou.max() == 1


def test_truth_of_boxes_that_have_a_mask_is_refused(tmp_path: Path) -> None:
    truth, boxes = named_sets(tmp_path)
    header = Header.from_set(truth, "test")

    def first_only() -> Iterator[Sample]:
        for sample in truth.samples():
            yield replace(sample, segments=sample.segments[:1])

    few = write_layer(tmp_path / "few", truth, first_only(), header)
    masked = (
        replace(sample, segments=(true_first(truth, sample.id), *sample.segments[1:]))
        for sample in boxes.samples()
    )
    data = write_layer(tmp_path / "masked", boxes, masked, replace(header, kind="instance"))
    with pytest.raises(InputError, match="no object has the image id and the annotation id"):
        HiddenTruth(few).check(data)


def true_first(truth: ShardSet, image_id: str) -> Segment:
    """The first segment of an image in a set with true masks."""
    return next(sample for sample in truth.samples() if sample.id == image_id).segments[0]
