"""`--devices`: two processes write what one does; what cannot be shared is refused."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from segkit.errors import SegkitError
from segkit.inference import outputs
from segkit.runs.open_run import load_run
from segkit.shards import shard
from segkit.shards.reader import ShardSet
from segkit.text.vocabulary import taxonomy_from_names
from segkit.workers import devices, process_pool
from tests.commands.test_predict import error, invoke
from tests.preloaded import preloaded


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "MIN_ROWS", 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of workers: equal threads, equal bits


def parts(path: object) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path(str(path)).glob("labels-*.parquet")}


@pytest.fixture
def torch_in_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes begin with torch imported; they get their work in the same way."""
    monkeypatch.setattr(process_pool, "_CONTEXT", preloaded())


@pytest.mark.usefixtures("torch_in_workers")
@pytest.mark.parametrize("command", ["pseudolabel", "eval"])
def test_two_processes_write_the_bytes_of_one(
    command: str, run: Path, toy: ShardSet, boxes: ShardSet, tmp_path: Path
) -> None:
    data = boxes if command == "pseudolabel" else toy
    task = () if command == "pseudolabel" else ("--task", "panoptic")
    common = (command, "--checkpoint", run, "--data", data.path, *task, "--device", "cpu")
    layers = []
    for count in (1, 2):
        out = tmp_path / str(count)
        invoke(*common, "--devices", count, "--out", out)
        layers.append(parts(ShardSet.open(out if not task else out / "predictions").path))
    assert len(layers[0]) > 1
    assert layers[0] == layers[1]


@pytest.mark.parametrize("teacher", ["ellipse", "grabcut"])
def test_teachers_without_a_model_share_cpus_whatever_gpus_there_are(
    boxes: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher: str
) -> None:
    monkeypatch.setattr(devices, "_gpus", lambda: 1)
    common = ("pseudolabel", "--teacher", teacher, "--data", boxes.path)
    invoke(*common, "--devices", 2, "--out", tmp_path / "two")
    invoke(*common, "--out", tmp_path / "one")
    layers = [parts(ShardSet.open(tmp_path / name).path) for name in ("one", "two")]
    assert len(layers[0]) > 1 and layers[0] == layers[1]


def test_two_processes_predict_files_as_one(run: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "more").mkdir(parents=True)
    for number in range(5):
        image = np.random.default_rng(number).integers(0, 256, (40, 30 + number, 3), np.uint8)
        folder = photos / "more" if number % 2 else photos
        cv2.imwrite(str(folder / f"{number}.png"), image)
    (photos / "notes.txt").write_text("no image")
    (photos / "damaged.png").write_bytes(b"nothing")
    common = ("predict", "--checkpoint", run, "--images", photos, "--classes", "cat,sky")
    common = (*common, "--on-error", "skip", "--device", "cpu", "--no-overlays")
    versions = []
    for count in (1, 2):
        out = tmp_path / str(count)
        invoke(*common, "--devices", count, "--out", out)
        versions.append(ShardSet.open(out / "predictions"))
    one, two = ({file.name: file.read_bytes() for file in v.path.iterdir()} for v in versions)
    assert len(parts(versions[0].path)) == 3
    assert one == two
    assert [sample.id for sample in versions[1].samples()] == ["0", "2", "4", "more/1", "more/3"]


def test_killed_prediction_of_files_resumes_unless_a_file_has_changed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for number in range(4):
        cv2.imwrite(str(photos / f"{number}.png"), np.full((32, 32, 3), 40 * number, np.uint8))
    predicted: list[str] = []

    def read(file: Path, sample_id: str, root: Path) -> object:
        predicted.append(sample_id)
        if sample_id == stop_at:
            raise SegkitError("stop")
        return original(file, sample_id, root)

    original, stop_at = outputs._read, "3"
    monkeypatch.setattr(outputs, "_read", read)
    opened = load_run(run, "cpu")
    taxonomy = taxonomy_from_names(["cat", "sky"])
    files = sorted(photos.iterdir())

    def predict() -> ShardSet:
        predicted.clear()
        return outputs.predict_files(opened, files, photos, taxonomy, "panoptic", out)

    with pytest.raises(SegkitError, match="stop"):
        predict()
    stop_at = ""
    assert len(predict()) == 4
    assert sorted(predicted) == ["2", "3"]
    stop_at = "3"
    with pytest.raises(SegkitError, match="stop"):
        predict()
    stop_at = ""
    cv2.imwrite(str(photos / "0.png"), np.full((32, 40, 3), 9, np.uint8))
    assert next(predict().samples()).width == 40
    assert sorted(predicted) == ["0", "1", "2", "3"]


def test_what_cannot_be_shared_is_refused(
    run: Path, toy: ShardSet, boxes: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ("--out", tmp_path / "out")
    predictions = ("eval", "--predictions", toy.path, "--data", toy.path, "--task", "panoptic")
    assert "--devices does nothing here" in error(*predictions, "--devices", 2, *out)
    label = ("pseudolabel", "--teacher", "ellipse", "--data", boxes.path, *out)
    assert "--devices 0" in error(*label, "--devices", 0)
    assert "--address does nothing here" in error(*label, "--address", "auto")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "start the command once, with --devices N" in error(*label)
    assert not (tmp_path / "out").exists()
