import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from segkit.errors import InputError
from segkit.export.coco import export_instances, export_panoptic
from segkit.export.prediction_files import write_native, write_results
from segkit.export.semantic_png import free_index
from segkit.metrics.predictions import count_missing, open_predictions
from segkit.sample import Sample
from segkit.shards.header import Header
from segkit.shards.manifest import SetKind
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from segkit.taxonomy import Category, Taxonomy
from tests.metrics.scenes import segment
from tests.shards.conftest import TAXONOMY


def test_results_hold_what_others_read(tmp_path):
    mask = np.zeros((20, 30), bool)
    mask[4:9, 5:25] = True
    masked = segment(mask, 7, score=0.25)
    boxed = replace(masked, class_id=9, mask=None, mask_from=None, score=0.5)
    images = [Sample(image, "x.jpg", 30, 20, (masked, boxed)) for image in ("139", "007", "٣", "a")]
    file = tmp_path / "results.json"
    assert write_results(file, images, {}) == 8
    rows = json.loads(file.read_text())
    assert [row["image_id"] for row in rows[::2]] == [139, "007", "٣", "a"], (
        "a number only where it is written as one"
    )
    assert (
        rows[0].keys() == {"image_id", "category_id", "score", "segmentation"}
        and rows[0]["score"] == 0.25
    )
    assert rows[0]["segmentation"] == {"size": [20, 30], "counts": masked.mask.decode()}
    assert rows[1] == {
        "image_id": 139,
        "category_id": 9,
        "score": 0.5,
        "bbox": [5.0, 4.0, 20.0, 5.0],
    }
    assert write_results(file, [], {}) == 0 and json.loads(file.read_text()) == []


IDS: dict[str, list[tuple[str, int | None]]] = {
    "numbers with zeros": [("000012", None), ("000007", None)],
    "names": [("cat", None), ("dog", None), ("a/cat", None)],
    "names and numbers": [("1", None), ("10", None), ("2", None), ("cover", None), ("02", None)],
    "merged": [("1-5", 5), ("1-6", 6), ("2-5", 5), ("2-7", 7)],
    "merged twice": [("1-5", 5), ("2-5", 5), ("5", 5)],
    "merged with a folder": [("1-5", 5), ("5", None)],
    "numbers and a repeated source id": [("9", 5), ("8", 5), ("6", None), ("x", None)],
}
"""Ids of samples, and of their source records."""


def sets_of(root: Path, kind: SetKind, ids: list[tuple[str, int | None]]) -> tuple[ShardSet, ...]:
    """Ground truth, and predictions of another size in each image."""
    truth, predictions = [], []
    for number, (sample_id, source_id) in enumerate(ids):
        mask = np.zeros((20, 30), bool)
        mask[4 : 9 + number, 5:25] = True
        source = None if source_id is None else json.dumps({"id": source_id})
        image = Sample(sample_id, f"{sample_id}.jpg", 30, 20, source=source)
        labels = segment(mask, 3, score=None), segment(mask, 3, score=0.5)
        truth.append((replace(image, segments=labels[:1]), None))
        predictions.append((replace(image, segments=labels[1:]), None))
    header = Header(taxonomy=TAXONOMY, kind=kind, name="toy", split="val", command="t")
    rows = {"truth": truth, "predictions": predictions}
    return tuple(write_set(root / name, samples, header) for name, samples in rows.items())


@pytest.mark.parametrize("case", IDS)
def test_results_have_the_image_ids_of_the_exported_ground_truth(tmp_path: Path, case: str) -> None:
    """pycocotools reads both, and `segkit eval` these and those of earlier versions."""
    truth, predictions = sets_of(tmp_path, "instance", IDS[case])
    export_instances(truth, tmp_path / "exported")
    file = write_native(predictions, tmp_path / "native", truth) / "results.json"
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(tmp_path / "exported" / "instances_val.json")
        results = coco.loadRes(str(file))
    assert len(results.getAnnIds()) == len(truth)
    for image in coco.dataset["images"]:
        (drawn,) = results.loadAnns(results.getAnnIds(image["id"]))
        (expected,) = coco.loadAnns(coco.getAnnIds(image["id"]))
        assert drawn["area"] == expected["area"]
    earlier = tmp_path / "earlier.json"
    write_results(earlier, predictions.samples(), {})
    for path in (file, earlier):
        opened = open_predictions(str(path), truth)
        assert count_missing(opened, truth) == 0
        for sample in truth.samples():
            prediction = opened.get(sample)
            assert prediction is not None and prediction.segments[0].mask == sample.segments[0].mask


@pytest.mark.parametrize(
    ("names", "ids"),
    [(("000000000139", "785"), [139, 785]), (("07", "7"), ["07", 7]), (("08", "a"), ["08", "a"])],
)
def test_results_of_a_folder_have_its_numbers(
    tmp_path: Path, names: tuple[str, str], ids: list[object]
) -> None:
    """As the panoptic files of a folder have them."""
    _, predictions = sets_of(tmp_path, "instance", [(name, None) for name in names])
    file = write_native(predictions, tmp_path / "native") / "results.json"
    assert [row["image_id"] for row in json.loads(file.read_text())] == ids


@pytest.mark.parametrize("case", IDS)
def test_panoptic_predictions_have_the_ids_of_the_ground_truth(tmp_path: Path, case: str) -> None:
    truth, predictions = sets_of(tmp_path, "panoptic", IDS[case])
    export_panoptic(truth, tmp_path / "exported")
    write_native(predictions, tmp_path / "native", truth)
    files = [tmp_path / folder / "panoptic_val.json" for folder in ("exported", "native")]
    first, second = (json.loads(file.read_text())["images"] for file in files)
    assert first == second
    opened = open_predictions(str(files[1]), truth)
    assert count_missing(opened, truth) == 0
    for sample in truth.samples():
        prediction = opened.get(sample)
        assert prediction is not None and prediction.segments[0].mask == sample.segments[0].mask


@pytest.mark.parametrize("kind", ["instance", "panoptic", "semantic"])
def test_native_files_are_written_again(tmp_path: Path, kind: SetKind) -> None:
    """As where `predict` runs twice, also if its predictions were deleted in between."""

    def files() -> dict[str, bytes]:
        paths = sorted(path for path in (tmp_path / "native").rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in paths}

    _, predictions = sets_of(tmp_path, kind, IDS["names"])
    write_native(predictions, tmp_path / "native")
    first = files()
    (tmp_path / "native" / "earlier.json").write_text("[]")
    write_native(predictions, tmp_path / "native")
    assert files() == first
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("ids", "free"),
    [
        ((1, 2), 255),
        ((0, 255), 65535),
        ((0, 1, 255, 65535), 2),
        (range(65536), None),
        ((-1,), None),
    ],
)
def test_void_has_an_index_that_no_class_has(ids: tuple[int, ...], free: int | None) -> None:
    taxonomy = Taxonomy("t", tuple(Category(number, str(number), "stuff") for number in ids))
    if free is None:
        with pytest.raises(InputError, match=r"classes have all 65536|id -1 of class"):
            free_index(taxonomy)
    else:
        assert free_index(taxonomy) == free
