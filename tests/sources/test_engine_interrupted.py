"""Conversions that are killed, or that lose a worker or the disk."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from segkit.errors import InputError, SegkitError
from segkit.shards.reader import ShardSet
from segkit.sources import engine

from .builders import coco_panoptic
from .test_engine import contents, count_written, run

SLOW = """
import sys, time
from pathlib import Path
from segkit.sources import engine
from segkit.sources.source import Record
from segkit.sources.coco_panoptic import CocoPanoptic, open_coco_panoptic

original = engine.Conversion.convert_shard
def slow(conversion, index, records):
    if index >= 2:
        time.sleep(60)
    return original(conversion, index, records)
engine.Conversion.convert_shard = slow
if __name__ == "__main__":
    root = Path(sys.argv[1])
    source = open_coco_panoptic(root / "panoptic.json", root / "images")
    options = engine.ConvertOptions(workers=int(sys.argv[2]), shard_bytes=2000)
    engine.convert(source, root / "out", options, arguments={})
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_leaves_nothing_visible_and_is_resumed(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_panoptic(tmp_path, 12)
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path), str(workers)])
    try:
        until(lambda: len(list(tmp_path.glob("out/.v1.partial/labels-*.parquet"))) >= 2, process)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert [
        entry.name for entry in (tmp_path / "out").iterdir() if not entry.name.startswith(".")
    ] == []
    with pytest.raises(InputError, match="no published version"):
        ShardSet.open(tmp_path / "out")
    written = count_written(monkeypatch)
    resumed = run(tmp_path, "out").published
    assert len(resumed.manifest.parts) > 3
    assert written == list(range(2, len(resumed.manifest.parts)))
    fresh = run(tmp_path, "fresh/out").published
    assert resumed.manifest.digest == fresh.manifest.digest
    assert contents(resumed.path) == contents(fresh.path)


DYING = """
import os, sys
from pathlib import Path
from segkit.sources import engine
from segkit.sources.source import Record
from segkit.sources.coco_panoptic import CocoPanoptic, open_coco_panoptic

if __name__ == "__main__":
    root = Path(sys.argv[1])
    source = open_coco_panoptic(root / "panoptic.json", root / "images")
    try:
        engine.convert(source, root / "out", engine.ConvertOptions(workers=2, shard_bytes=2000))
    except engine.SegkitError as error:
        print(error)
else:
    engine.Conversion.convert_shard = lambda *_: os._exit(9)  # what a worker process imports
"""


def test_a_dying_worker_is_reported_in_one_line(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 12)
    (tmp_path / "dying.py").write_text(DYING)
    done = subprocess.run(
        [sys.executable, tmp_path / "dying.py", tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("a worker process died")
    assert not list(tmp_path.glob("out/v*"))


def test_a_full_disk_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_panoptic(tmp_path, 1)

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine.shards, "write_shard", full)
    with pytest.raises(
        SegkitError, match=r"out.*No space left on device.*finished shards are kept"
    ):
        run(tmp_path, "out")


def until(condition: Any, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the conversion ended before it could be killed"
        assert time.monotonic() < end, "the conversion did not get that far"
        time.sleep(0.02)


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    coco_panoptic(tmp_path, 12)
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), "2"], start_new_session=True
    )
    try:
        until(lambda: len(list(tmp_path.glob("out/.v1.partial/labels-*.parquet"))) >= 2, process)
        assert len(group(process.pid)) >= 3
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    end = time.monotonic() + 20
    while group(process.pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert group(process.pid) == []


def group(leader: int) -> list[int]:
    """Live processes of a session."""
    processes = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] != "Z":
                processes.append(int(entry.name))
    return processes
