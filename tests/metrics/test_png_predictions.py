from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from segkit.errors import InputError
from segkit.export.semantic_png import export_semantic
from segkit.metrics.predictions import open_predictions
from segkit.shards.reader import ShardSet

from .files import figures, sets, shard_set


@pytest.fixture
def truth(tmp_path: Path) -> ShardSet:
    return sets(tmp_path, kind="semantic")[0]


def test_a_folder_of_pngs_has_the_figures_of_the_set(tmp_path: Path) -> None:
    truth, predictions = sets(tmp_path, kind="semantic")
    export_semantic(predictions, tmp_path / "exported")
    expected = figures(truth, predictions, "semantic")
    for folder in ("exported", "exported/masks"):
        opened = open_predictions(str(tmp_path / folder), truth, task="semantic")
        assert figures(truth, opened, "semantic") == expected


def test_pngs_may_have_the_names_of_the_image_files(tmp_path: Path) -> None:
    truth, predictions = sets(tmp_path, kind="semantic")
    expected = figures(truth, predictions, "semantic")
    export_semantic(predictions, tmp_path / "exported")
    rows = [replace(s, id=f"no {s.id}", file_name=f"val/{s.id}.jpg") for s in truth.samples()]
    renamed = shard_set(tmp_path / "renamed", rows, truth.taxonomy, "semantic")
    assert figures(renamed, open_predictions(f"{tmp_path}/exported", renamed), "semantic") == (
        expected
    )


def test_missing_images_count_as_missed_and_strangers_are_refused(
    tmp_path: Path, truth: ShardSet
) -> None:
    export_semantic(truth, tmp_path / "pngs")
    masks = tmp_path / "pngs" / "masks"
    (masks / "100.png").unlink()
    metrics = figures(truth, open_predictions(str(masks), truth), "semantic")
    assert metrics["images"]["without_prediction"] == 1
    (masks / "101.png").rename(masks / "stranger.png")
    with pytest.raises(InputError, match="1 image is not in the ground truth: stranger"):
        figures(truth, open_predictions(str(masks), truth), "semantic")


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((40, 50), 77, np.uint8), "2000 pixels of 77, which is no class id of the data"),
        (np.full((40, 51), 1, np.uint8), "the mask has 51 x 40 pixels, its image 50 x 40"),
        (np.full((40, 50, 3), (1, 2, 3), np.uint8), "RGB"),
    ],
)
def test_pngs_that_hold_no_classes_are_refused(
    tmp_path: Path, truth: ShardSet, pixels: "np.ndarray", message: str
) -> None:
    folder = tmp_path / "pngs"
    folder.mkdir()
    cv2.imwrite(str(folder / "100.png"), pixels)
    with pytest.raises(InputError, match=message) as error:
        figures(truth, open_predictions(str(folder), truth), "semantic")
    assert f"{folder}/100.png: image 100: " in str(error.value)


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_other_tasks_name_the_form_that_they_need(
    tmp_path: Path, truth: ShardSet, task: str
) -> None:
    export_semantic(truth, tmp_path / "pngs")
    with pytest.raises(InputError, match=f"a folder of PNGs has no {task} predictions") as error:
        open_predictions(str(tmp_path / "pngs"), truth, task=task)
    assert {"panoptic": "--prediction-masks", "instance": "COCO results"}[task] in str(error.value)


def test_a_folder_of_neither_pngs_nor_versions_is_refused(tmp_path: Path, truth: ShardSet) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no published version"):
        open_predictions(str(tmp_path / "empty"), truth, task="semantic")


def test_the_folder_of_a_prediction_is_not_taken_for_pngs(tmp_path: Path, truth: ShardSet) -> None:
    """It holds a preview, a PNG."""
    cv2.imwrite(str(tmp_path / "predictions" / "v1.png"), np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match=f"give the set in it, {tmp_path}/predictions"):
        open_predictions(str(tmp_path), truth, task="semantic")
