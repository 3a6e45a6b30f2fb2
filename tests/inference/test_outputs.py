"""Prediction sets of image files: the name of the set."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from segkit.inference.input_files import image_files
from segkit.inference.outputs import predict_files
from segkit.runs.open_run import load_run
from segkit.runs.run import Run
from segkit.shards.reader import ShardSet
from segkit.text.vocabulary import taxonomy_from_names
from segkit.training.train import train

CLASSES = taxonomy_from_names(["cat", "sky"])


@pytest.fixture(scope="module")
def run(toy_set: ShardSet, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    train(str(tiny), [(str(toy_set.path), 1.0)], folder / "run", steps=1, device="cpu")
    return load_run(folder / "run")


@pytest.mark.parametrize("images", [".", "a.png", "../photos"])
def test_a_set_is_named_after_the_folder_of_its_images(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: str
) -> None:
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "a.png"), np.zeros((32, 32, 3), np.uint8))
    monkeypatch.chdir(tmp_path / "photos")
    root, files, _ = image_files(Path(images))
    published = predict_files(run, files, root, CLASSES, "semantic", tmp_path / "out")
    assert published.manifest.name == "photos"
    assert [sample.file_name for sample in published.samples()] == ["a.png"]


def test_a_set_of_images_in_the_root_of_a_disk_has_a_name(run: Run, tmp_path: Path) -> None:
    file, root = tmp_path / "a.png", Path(tmp_path.anchor)
    cv2.imwrite(str(file), np.zeros((32, 32, 3), np.uint8))
    published = predict_files(run, [file], root, CLASSES, "semantic", tmp_path / "out")
    assert published.manifest.name == "images"
