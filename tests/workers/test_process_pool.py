"""Processes of several devices: results, order and what a stop leaves on the terminal."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest

from segkit.workers.process_pool import run_on_devices

TWO_TASKS = """
import time
from segkit.workers.process_pool import run_on_devices
from tests.workers.test_process_pool import make
results = run_on_devices(make, [(1,), (2,)], ["cpu", "cpu"])
print(next(results)[1], flush=True)
time.sleep(60)
"""


def make(device: str) -> Callable[[int], tuple[str, int, int]]:
    """The function of a worker: its device, the square of a number, and its process."""
    return partial(_square, device)


def _square(device: str, number: int) -> tuple[str, int, int]:
    return device, number**2, os.getpid()


def test_each_process_takes_a_device_and_all_tasks_are_done() -> None:
    results = list(run_on_devices(make, [(number,) for number in range(8)], ["a", "b"]))
    assert sorted(square for _, square, _ in results) == [number**2 for number in range(8)]
    places = {(device, process) for device, _, process in results}
    assert len(places) <= 2 and os.getpid() not in {process for _, process in places}
    assert len({device for device, _ in places}) == len(places)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGTERM")
def test_a_stop_leaves_no_warning_of_semaphores() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TWO_TASKS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline().strip() in ("1", "4")
        process.terminate()
        assert process.stderr.read() == ""  # ends with the last child
