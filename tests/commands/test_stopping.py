"""Commands that a signal stops at random moments: exit code, output, children and files."""

import functools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segkit.shards.reader import ShardSet
from tests.sources.builders import coco_panoptic
from tests.training.toy import write_toy_set

ENTRY = "from segkit.commands.entry import main; main()"
MOMENTS = 3
LATEST = 2.0
"""Seconds in which a command starts and does much of its work."""


def stop(arguments: list[str], number: signal.Signals, seconds: float) -> tuple[int, str, str]:
    """Exit code and stderr of a command whose group is sent a signal, and its mark."""
    default = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    mark = f"stop-{os.getpid()}-{random.random()}"
    with subprocess.Popen(
        [sys.executable, "-c", ENTRY, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=default,
        env={**os.environ, "SEGKIT_TEST_MARK": mark},
    ) as process:
        assert process.stderr
        time.sleep(seconds)
        if process.poll() is None:
            os.killpg(process.pid, number)
        errors = process.stderr.read()  # ends when no child has it open any more
        code = process.wait(60)
    return code, errors, mark


def processes(mark: str) -> list[str]:
    """The processes that inherited this environment."""
    marked = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if mark.encode() in environment:
            marked.append(folder.name)
    return marked


def check(code: int, errors: str, mark: str, number: signal.Signals) -> None:
    """Done, or stopped: by segkit, or by the kernel before Python could run any of it."""
    assert code in (0, 128 + number, -number), errors
    assert "Traceback" not in errors and "bug in segkit" not in errors
    assert "leaked" not in errors
    assert processes(mark) == []


def moments(seed: int) -> list[float]:
    draw = random.Random(seed)
    return [draw.uniform(0.1, LATEST) for _ in range(MOMENTS)]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_toy_set(tmp_path_factory.mktemp("data") / "toy")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_conversions_with_workers(tmp_path: Path, number: signal.Signals) -> None:
    coco_panoptic(tmp_path, 40)
    arguments = ["convert", "coco", "--images", f"{tmp_path}/images", "--workers", "2"]
    arguments += ["--panoptic", f"{tmp_path}/panoptic.json", "--shard-size", "2kB", "--no-preview"]
    for index, seconds in enumerate(moments(1)):
        out = tmp_path / f"out-{index}"
        check(*stop([*arguments, "--out", str(out)], number, seconds), number)
        visible = [path.name for path in out.glob("[!.]*")]
        assert visible in ([], ["v1"])
        if visible:
            assert len(ShardSet.open(out)) == 40


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_exports_and_reading(toy: ShardSet, tmp_path: Path) -> None:
    for index, seconds in enumerate(moments(2)):
        out = tmp_path / str(index) / "exported"
        arguments = ["export", "coco-panoptic", "--data", str(toy.path), "--out", str(out)]
        check(*stop([*arguments, "--images"], signal.SIGINT, seconds), signal.SIGINT)
        assert not out.exists() or (out / "images").is_dir()
        assert [path.name for path in out.parent.glob(".*")] == []
    for seconds in moments(3)[:2]:
        check(*stop(["inspect", str(toy.path)], signal.SIGINT, seconds / 4), signal.SIGINT)
