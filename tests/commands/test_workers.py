"""`--devices`: two processes write what one does; what cannot be shared is refused."""

from pathlib import Path

import pytest

from segkit.inference import label_shards
from segkit.shards.reader import ShardSet
from tests.commands.test_predict import error, invoke


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_shards, "MIN_ROWS", 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of workers: equal threads, equal bits


def parts(path: object) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path(str(path)).glob("labels-*.parquet")}


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


def test_what_cannot_be_shared_is_refused(
    run: Path, toy: ShardSet, boxes: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ("--out", tmp_path / "out")
    photos = ("predict", "--checkpoint", run, "--images", tmp_path)
    assert "files are predicted on one device" in error(*photos, "--devices", 2, *out)
    predictions = ("eval", "--predictions", toy.path, "--data", toy.path, "--task", "panoptic")
    assert "--devices does nothing here" in error(*predictions, "--devices", 2, *out)
    label = ("pseudolabel", "--teacher", "ellipse", "--data", boxes.path, *out)
    assert "--devices 0" in error(*label, "--devices", 0)
    assert "--address does nothing here" in error(*label, "--address", "auto")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "start the command once, with --devices N" in error(*label)
    assert not (tmp_path / "out").exists()
