"""The two sample images of panopticapi against themselves and against shifted copies."""

import json

import cv2
import numpy as np
import pytest

from segkit.metrics.predictions import open_predictions
from segkit.sources.coco_panoptic import open_coco_panoptic
from segkit.sources.engine import ConvertOptions, convert

from .files import figures
from .scenes import panopticapi


@pytest.fixture(scope="module")
def truth(tmp_path_factory, real_data):
    folder = real_data / "panopticapi_sample"
    source = open_coco_panoptic(
        folder / "panoptic_examples.json", folder / "input_images", folder / "panoptic_examples"
    )
    out = tmp_path_factory.mktemp("sample")
    return convert(
        source, out / "set", ConvertOptions(images_by="none", workers=1), arguments={}
    ).published


def shifted(truth, real_data, folder, pixels):
    """The same files with every PNG rolled to the right, around the edge."""
    sample = real_data / "panopticapi_sample"
    content = json.loads((sample / "panoptic_examples.json").read_text())
    masks = folder / "moved"
    masks.mkdir(parents=True)
    for row in content["annotations"]:
        image = cv2.imread(str(sample / "panoptic_examples" / row["file_name"]))
        cv2.imwrite(str(masks / row["file_name"]), np.roll(image, pixels, axis=1))
    (folder / "moved.json").write_text(json.dumps({"annotations": content["annotations"]}))
    return open_predictions(str(folder / "moved.json"), truth)


def test_against_itself_every_segment_matches(truth, real_data, tmp_path):
    metrics = figures(truth, shifted(truth, real_data, tmp_path, 0), "panoptic")
    counted = [s for sample in truth.samples() for s in sample.segments if not s.is_crowd]
    assert sum(row["tp"] for row in metrics["per_class"].values()) == len(counted)
    for group in ("all", "things", "stuff"):
        assert metrics[group]["pq"] == metrics[group]["sq"] == metrics[group]["rq"] == 100


@pytest.mark.parametrize("pixels", [1, 5, 20, 80])
def test_against_shifted_copies_the_figures_equal_the_reference(truth, real_data, tmp_path, pixels):
    predictions = shifted(truth, real_data, tmp_path, pixels)
    expected = panopticapi(
        [(sample, predictions.get(sample)) for sample in truth.samples()], truth.taxonomy
    )
    metrics = figures(truth, predictions, "panoptic")
    for group in ("all", "things", "stuff"):
        assert [metrics[group][key] / 100 for key in ("pq", "sq", "rq")] == pytest.approx(
            expected[group], abs=1e-12
        )
    assert metrics["all"]["pq"] < 100
