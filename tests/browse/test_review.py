import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from typer.testing import CliRunner

from segkit.browse import dataset, review
from segkit.commands.app import app
from segkit.errors import InputError
from segkit.masks import rle
from segkit.shards.reader import ShardSet
from segkit.shards.validate import validate

from .conftest import HEIGHT, WIDTH, masks, panoptic_sample
from .test_dataset import write_labels

# FiftyOne warns about its dependencies
pytestmark = [pytest.mark.mongo, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def _instances(folder: Path) -> ShardSet:
    """Three images with three things each."""
    samples = [
        replace(
            sample,
            segments=tuple(
                replace(s, class_id=7, kind="thing", is_crowd=False) for s in sample.segments
            ),
        )
        for sample in map(panoptic_sample, "abc")
    ]
    return write_labels(folder, "instance", samples)


def test_tags_of_the_app_become_a_layer(fo: ModuleType, tmp_path: Path) -> None:
    shards = _instances(tmp_path / "set")
    name = dataset.load(shards).dataset
    stored = fo.load_dataset(name)
    for sample in stored:
        if sample.image_id == "a":
            sample.tags.append("blurred")
        if sample.image_id == "b":
            sample.ground_truth_things.detections[1].tags.append("bad")
            sample.ground_truth_things.detections[2].tags.append("unsure")
        sample.save()
    options = ["blurred=drop", "bad=keep-as-box", "unsure=ignore"]
    arguments = [part for option in options for part in ("--write-back", option)]
    result = CliRunner().invoke(app, ["browse", str(tmp_path / "set"), *arguments, "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["version"] == 2
    assert report["images"] == {
        "input": 3,
        "kept": 2,
        "dropped": {"review-drop": 1},
        "warnings": {},
    }
    assert report["ledger"]["dropped"] == {"review-drop": 3}
    assert report["ledger"]["warnings"] == {"review-keep-as-box": 1, "review-ignore": 1}

    layer = ShardSet.open(tmp_path / "set")
    before = {sample.id: sample for sample in shards.samples()}
    first, second = layer.samples()
    assert (first.id, second.id) == ("b", "c")
    assert second.segments == before["c"].segments
    kept, boxed, ignored = first.segments
    assert kept == before["b"].segments[0]
    assert boxed.mask is None and boxed.box == before["b"].segments[1].box
    assert ignored == replace(before["b"].segments[2], ignore=True)
    assert layer.image_bytes(first) == shards.image_bytes(before["b"])
    assert layer.manifest.parents[0].digest == shards.manifest.digest
    assert not list(validate(layer.path))


def test_a_dropped_image_without_labels_drops_no_label(tmp_path: Path) -> None:
    samples = [replace(panoptic_sample("a"), segments=()), panoptic_sample("b")]
    shards = write_labels(tmp_path / "set", "panoptic", samples)
    tags = review.Tags(images={"a": {"blurred"}})
    layer = review.write_back(shards, tmp_path / "out", tags, {"blurred": "drop"}, {})
    ledger = layer.manifest.ledger
    assert ledger.annotations.dropped == {} and ledger.annotations.kept == len(samples[1].segments)
    assert ledger.images.dropped == {"review-drop": 1}


def test_pixels_of_a_dropped_panoptic_label_become_void(fo: ModuleType, tmp_path: Path) -> None:
    shards = write_labels(tmp_path / "set", "panoptic", [panoptic_sample("a")])
    tags = review.Tags(labels={"a": {1: {"bad"}}})
    layer = review.write_back(shards, tmp_path / "out", tags, {"bad": "drop"}, {})
    (sample,) = layer.samples()
    assert [segment.class_id for segment in sample.segments] == [0, 9]
    assert sample.void is not None
    assert np.array_equal(rle.decode(sample.void, HEIGHT, WIDTH), masks()["ring"])
    with pytest.raises(InputError, match="cannot be kept as boxes"):
        review.write_back(shards, tmp_path / "out", tags, {"bad": "keep-as-box"}, {})


def test_slips_are_refused(fo: ModuleType, tmp_path: Path) -> None:
    shards = _instances(tmp_path / "slips")
    with pytest.raises(InputError, match="browse the set first"):
        review.read_tags("nothing", shards)
    name = dataset.load(shards).dataset
    other = write_labels(tmp_path / "slips", "panoptic", [panoptic_sample("z")])
    with pytest.raises(InputError, match="give the version that was browsed"):
        review.read_tags(name, other)
    tags = review.read_tags(name, shards)
    with pytest.raises(InputError, match="no image and no label has the tag 'typo'; tags are: val"):
        review.write_back(shards, tmp_path / "out", tags, {"typo": "drop"}, {})
    for option, message in (("bad=delete", "drop, ignore, keep-as-box"), ("=drop", "no tag in")):
        result = CliRunner().invoke(app, ["browse", str(shards.path), "--write-back", option])
        assert isinstance(result.exception, InputError) and message in str(result.exception)
    assert not (tmp_path / "out").exists()
