"""COCO exports that are converted again."""

import contextlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO

from segkit.export.coco import export_instances, export_panoptic
from segkit.masks import rle
from segkit.sample import Segment
from segkit.shards.header import Header
from segkit.shards.writer import write_set
from segkit.sources.coco_instances import open_coco_instances
from segkit.sources.coco_panoptic import open_coco_panoptic
from segkit.sources.engine import ConvertOptions, convert
from tests.shards.conftest import picture, toy_sample
from tests.sources.builders import dry_run, samples

from .test_coco import OPTIONS, instances, panoptic

CONVERT = ConvertOptions(workers=1, split="val")


def test_masks_of_a_model_come_back_as_such(tmp_path):
    """Also a pseudo-mask that reaches a little beyond its box."""
    data, sample = instances(tmp_path / "set")
    mask = np.zeros((24, 32), bool)
    mask[5:16, 5:16] = True
    beyond = Segment(3, "thing", (5.5, 5.5, 10.0, 10.0), rle.encode(mask), 121.0)
    masks = [
        replace(beyond, mask_from="pseudo", score=0.0),
        replace(beyond, mask_from="pseudo", score=0.75),
        replace(beyond, box=(5.0, 5.0, 11.0, 11.0), mask_from="prediction", score=1.0),
        replace(beyond, mask=None, area=100.0, score=0.5),
    ]
    data = write_set(
        tmp_path / "models",
        [(replace(sample, segments=(sample.segments[1], *masks)), picture(1))],
        Header(kind="instance", **OPTIONS),
    )
    export_instances(data, tmp_path / "out")
    source = open_coco_instances(tmp_path / "out" / "instances_val.json", tmp_path)
    (back,) = samples(source)
    fields = ("mask_from", "score", "mask", "box", "area")
    for before, after in zip((sample.segments[1], *masks), back.segments, strict=True):
        assert [getattr(before, name) for name in fields] == [
            getattr(after, name) for name in fields
        ]
    without = open_coco_instances(source.file.path, source.images, boxes_only=True)
    scores = [segment.score for segment in samples(without)[0].segments]
    assert scores == [None, None, None, None, 0.5], "a score of a mask goes with the mask"


def test_panoptic_predictions_come_back_as_such(tmp_path):
    sample = toy_sample(1)
    predicted = replace(sample.segments[0], mask_from="prediction", score=0.25)
    data = panoptic(tmp_path / "set", [replace(sample, segments=(predicted, sample.segments[1]))])
    export_panoptic(data, tmp_path / "out")
    source = open_coco_panoptic(tmp_path / "out" / "panoptic_val.json", tmp_path)
    first, second = samples(source)[0].segments
    assert (first.mask_from, first.score) == ("prediction", 0.25)
    assert (second.mask_from, second.score) == (sample.segments[1].mask_from, None)


@pytest.mark.parametrize("score", [-0.5, 90, "0.9", True, [1]])
def test_a_score_that_is_none_is_left_out(tmp_path, score):
    data, _ = instances(tmp_path / "set")
    export_instances(data, tmp_path / "out", images=True)
    file = tmp_path / "out" / "instances_val.json"
    content = json.loads(file.read_text())
    content["annotations"] = content["annotations"][1:2]
    content["annotations"][0].update(score=score, mask_from="nobody")
    file.write_text(json.dumps(content))
    source = open_coco_instances(file, tmp_path / "out" / "images")
    (segment,) = samples(source)[0].segments
    assert (segment.score, segment.mask_from) == (None, "human")
    assert dry_run(source).ledger.annotations.warnings == {"score-out-of-range": 1}


@pytest.mark.parametrize("number", [3, 3.0, "3"])
def test_sizes_and_class_ids_are_numbers_whatever_the_source_writes(tmp_path, number):
    data, _ = instances(tmp_path / "set")
    export_instances(data, tmp_path / "first", images=True)
    file, images = tmp_path / "first" / "instances_val.json", tmp_path / "first" / "images"
    content = json.loads(file.read_text())
    content["categories"][0]["id"] = number
    content["images"][0].update(width=0, height=0)
    for annotation in content["annotations"]:
        annotation["category_id"] = number
    file.write_text(json.dumps(content))
    again = convert(open_coco_instances(file, images), tmp_path / "again", CONVERT).published
    assert again is not None
    export_instances(again, tmp_path / "out")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(next((tmp_path / "out").glob("*.json")))
    assert len(coco.getAnnIds(catIds=coco.getCatIds())) == 4
    (category,) = (row for row in coco.dataset["categories"] if row["id"] == 3)
    assert category == {"supercategory": "animal", "id": 3, "name": "cat", "isthing": 1}
    for annotation in coco.dataset["annotations"]:
        if "segmentation" in annotation:
            assert coco.annToMask(annotation).shape == (24, 32)
