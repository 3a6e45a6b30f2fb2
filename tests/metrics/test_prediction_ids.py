from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segkit.errors import InputError
from segkit.export.prediction_files import write_native, write_results
from segkit.metrics.prediction_ids import images_of_set, panoptic_images, results_images
from segkit.metrics.predictions import SetPredictions, count_missing, open_predictions
from segkit.sample import Sample

from .files import shard_set
from .scenes import segment, taxonomy


def test_panoptic_files_of_a_merged_set_belong_to_its_images(tmp_path: Path) -> None:
    """Images of two sets have equal file names: the PNG `1-2.png` is not for the sample `1-2`."""
    truth, predictions = [], []
    for number, (image, file) in enumerate(
        [("1-1", "1.jpg"), ("1-2", "2.jpg"), ("2-1", "1.jpg"), ("2-2", "2.jpg")]
    ):
        mask = np.zeros((20, 30), bool)
        mask[: 4 + number] = True
        record = f'{{"id": {file[0]}}}'
        sample = Sample(image, file, 30, 20, (segment(mask, 2, score=None),), source=record)
        truth.append(sample)
        predictions.append(replace(sample, segments=(segment(mask, 2, score=0.5),)))
    names = taxonomy()
    merged = shard_set(tmp_path / "truth", truth, names)
    folder = write_native(shard_set(tmp_path / "p", predictions, names), tmp_path / "native")
    assert (folder / "panoptic_val" / "1-2.png").is_file()
    opened = open_predictions(str(folder / "panoptic_val.json"), merged)
    assert count_missing(opened, merged) == 0
    for sample in merged.samples():
        prediction = opened.get(sample)
        assert prediction is not None and prediction.segments[0].mask == sample.segments[0].mask


def test_pngs_are_named_by_files_or_else_by_ids() -> None:
    ids_by_file, exported = {"5": "1", "9": "5"}, {"1": "1", "5": "5"}
    for names in (["5.png", "9.png"], ["1.png", "5.png"]):
        assert panoptic_images(["1", "5"], names, ids_by_file, exported) == ["1", "5"]
    numbered = {"1": "a", "2": "b"}  # numbers of another program, in another order
    assert panoptic_images(["1", "2"], ["b.png", "a.png"], {}, numbered) == ["b", "a"]
    assert panoptic_images(["1", "b", "3"], ["", "x/y.png", "z"], {}, numbered) == ["a", "b", "3"]


def test_results_have_one_kind_of_ids_where_a_kind_knows_them_all() -> None:
    exported = {"5": "1-5", "6": "5"}
    assert results_images(["5", "6"], exported) == ["1-5", "5"]
    assert results_images(["1-5", "5"], exported) == ["1-5", "5"]
    assert results_images(["5"], exported) == ["1-5"], "ids of an export, which this version writes"
    assert results_images(["1-5", "5", "2-5"], exported) == ["1-5", "5", "2-5"]


def test_results_of_two_ids_for_an_image_are_refused(tmp_path: Path) -> None:
    mask = np.ones((20, 30), bool)
    image = Sample("1-5", "5.jpg", 30, 20, (segment(mask, 2, score=0.5),), source='{"id": 5}')
    truth = shard_set(tmp_path / "truth", [image], taxonomy(), "instance")
    file = tmp_path / "results.json"
    write_results(file, [image, replace(image, id="5")], {})
    with pytest.raises(InputError, match="images with two predictions: 1-5"):
        count_missing(open_predictions(str(file), truth), truth)


@pytest.mark.parametrize(
    ("row", "image"),
    [
        ("7", "7"),
        ("0007", "7"),
        ("val/0007", "7"),
        ("city/val/0007", "7"),
        ("val/7", "7"),
        ("test/0007", "test/0007"),
        ("0009", "0009"),
        ("stranger", "stranger"),
    ],
)
def test_rows_of_a_set_belong_to_images_by_id_or_by_an_unambiguous_file_name(
    tmp_path: Path, row: str, image: str
) -> None:
    names, size = taxonomy(), (30, 20)
    files = {"7": "val/0007.jpg", "8": "val/0008.jpg", "9": "a/0009.jpg", "10": "b/0009.jpg"}
    truth = shard_set(tmp_path / "t", [Sample(i, f, *size) for i, f in files.items()], names)
    rows = shard_set(
        tmp_path / "p", [Sample(row, "x.png", *size), Sample("8", "z.png", *size)], names
    )
    assert images_of_set(rows, truth) == [image, "8"]


def test_rows_of_a_set_for_one_image_are_not_matched_by_file_names(tmp_path: Path) -> None:
    names, size = taxonomy(), (30, 20)
    truth = shard_set(tmp_path / "t", [Sample("7", "0007.jpg", *size)], names)
    for number, ids in enumerate((["7", "0007"], ["a/0007", "b/0007"])):
        rows = [Sample(image, f"{image}.jpg", *size) for image in ids]
        predictions = shard_set(tmp_path / f"p{number}", rows, names)
        assert images_of_set(predictions, truth) == ids
        with pytest.raises(InputError, match=r"not in the ground truth: .*0007") as error:
            count_missing(SetPredictions(predictions, truth), truth)
        assert "\n" not in str(error.value)
