"""Checkpoints are written while the training goes on."""

import errno
import shutil
import threading
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from segkit.errors import InputError, SegkitError
from segkit.shards.reader import ShardSet
from segkit.stopping import StoppedError
from segkit.training import checkpoint, trainer
from segkit.training.checkpoint import CheckpointWriter
from segkit.training.logging import StepRecord
from segkit.training.train import train
from segkit.training.trainer import Callbacks
from tests.training.stand_in import batches, make_trainer, take_steps
from tests.training.test_checkpoint import load, names, save, start
from tests.training.two_processes import stop_after


class Gate:
    """Holds the writing of checkpoints back until it opens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.reached = threading.Event(), threading.Event()
        write_digests = checkpoint.write_digests
        self.error: OSError | None = None

        def wait(partial: Path) -> None:
            self.reached.set()
            assert self.open.wait(60)
            if self.error is not None:
                raise self.error
            write_digests(partial)

        monkeypatch.setattr(checkpoint, "write_digests", wait)


def test_a_checkpoint_is_written_beside_the_work_with_the_values_of_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, writer = Gate(monkeypatch), CheckpointWriter()
    path = start(writer, tmp_path, 5)
    assert gate.reached.wait(60)
    assert names(tmp_path) == ["step-00000005.partial"] and checkpoint.newest(tmp_path) is None
    threading.Timer(0.2, gate.open.set).start()
    start(writer, tmp_path, 6)
    assert path.is_dir(), "the next one starts when this one is complete"
    writer.wait()
    assert names(tmp_path) == ["step-00000005", "step-00000006"]
    assert load(path)[0, 0] == 5


def test_the_error_of_a_write_is_known_at_the_next_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 5)
    gate, writer = Gate(monkeypatch), CheckpointWriter()
    gate.error = OSError(errno.ENOSPC, "No space left on device")
    start(writer, tmp_path, 10)
    assert not writer.has_failed
    gate.open.set()
    writer.close()  # waits, without an error
    assert writer.has_failed
    message = r"step-00000010: the checkpoint cannot be written \(.*No space left.*MiB free"
    with pytest.raises(SegkitError, match=message):
        writer.wait()
    assert not writer.has_failed
    writer.wait()
    assert checkpoint.newest(tmp_path) == checkpoint.of_step(tmp_path, 5)


def test_steps_while_a_checkpoint_is_written_do_not_change_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(training={"steps": 4})
    steps = take_steps(trainer, batches())
    expected = [next(steps) for _ in range(2)]
    trainer.save(tmp_path / "quiet", best=None)
    trainer.checkpoints.wait()
    gate = Gate(monkeypatch)
    trainer.save(tmp_path / "busy", best=None)
    expected += steps
    gate.open.set()
    trainer.checkpoints.wait()
    assert trainer.step == len(expected) == 4
    quiet, busy = (
        {file.name: file.read_bytes() for file in (tmp_path / folder / "step-00000002").iterdir()}
        for folder in ("quiet", "busy")
    )
    del quiet[".metadata"], busy[".metadata"]  # holds a number of the call
    del quiet["digests.json"], busy["digests.json"]
    assert quiet == busy


def test_evaluations_stops_and_the_end_find_complete_checkpoints(
    tiny: Path, toy_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_digests = checkpoint.write_digests

    def write_slowly(partial: Path) -> None:
        time.sleep(0.2)
        write_digests(partial)

    def newest() -> int:
        paths = [path for path in tmp_path.rglob("step-*") if path.is_dir() and not path.suffix]
        return max((int(path.name[-8:]) for path in paths), default=0)

    def evaluate(*_: object) -> dict[str, Any]:
        at_evaluations.append(newest())
        return {"miou": 50.0}

    at_evaluations: list[int] = []
    monkeypatch.setattr(checkpoint, "write_digests", write_slowly)
    monkeypatch.setattr(trainer, "evaluate_set", evaluate)
    options: dict[str, Any] = {
        "eval_data": [str(toy_set.path)],
        "device": "cpu",
        "overrides": ["training.evaluate_every=5", "training.checkpoint_every=12"],
    }
    data = [(str(toy_set.path), 1.0)]
    with pytest.raises(StoppedError):
        train(tiny, data, tmp_path / "run", callbacks=stop_after(7), **options)
    assert newest() == 7
    monkeypatch.setattr("segkit.training.train.publish", lambda stage: stage.path)
    train(tiny, data, tmp_path / "run", resume=True, **options)
    assert at_evaluations == [5, 10, 12] and newest() == 12


def test_a_disk_that_cannot_hold_a_checkpoint_is_refused_at_the_start(
    tiny: Path, toy_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = [(str(toy_set.path), 1.0)], tmp_path / "new" / "run"
    before = train(tiny, data, tmp_path / "before", device="cpu", steps=1)
    weights = (before / "model.safetensors").stat().st_size
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(3 * weights))
    with pytest.raises(InputError, match=r"new/run: a checkpoint takes about .*; free some space"):
        train(tiny, data, out, device="cpu", steps=1)
    assert not out.exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(5 * weights))
    assert train(tiny, data, out, device="cpu", steps=1).is_dir()


def test_a_checkpoint_that_cannot_be_written_ends_the_run_before_the_next(
    tiny: Path, toy_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    write_digests, is_full = checkpoint.write_digests, threading.Event()

    def fill_the_disk(partial: Path) -> None:
        if partial.stem == "step-00000004":
            is_full.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        write_digests(partial)

    def on_step(record: StepRecord) -> None:
        steps.append(record.step)
        if record.step > 4:
            is_full.wait(60)
            time.sleep(0.2)

    monkeypatch.setattr(checkpoint, "write_digests", fill_the_disk)
    options: dict[str, Any] = {"device": "cpu", "overrides": ["training.checkpoint_every=4"]}
    data = [(str(toy_set.path), 1.0)]
    with pytest.raises(SegkitError, match=r"step-00000004: the checkpoint cannot be .*No s"):
        train(tiny, data, tmp_path / "run", callbacks=Callbacks(on_step=on_step), **options)
    assert 5 <= max(steps) < 8
