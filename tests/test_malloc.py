"""Choosing the CPU raises malloc's threshold: tensors reuse freed memory without page faults."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")

PAGES = 5 * 4096
"""Of the smaller tensors of one count: less than all."""
_COUNT = """
import resource
import torch
from segkit.distributed import choose_device
from segkit.malloc import raise_malloc_threshold

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.zeros(4 << 20).sum()  # 16 MiB, 4,096 pages
        torch.zeros(12 << 20).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
before = faults()
choose_device("cpu")
faults()
after = faults()
raise_malloc_threshold(1 << 20)
print(before, after, faults())
"""


def page_faults(**environment: str) -> list[int]:
    """Page faults of ten tensors: at first, on the CPU, and after a lower threshold."""
    variables = {name: x for name, x in os.environ.items() if "MALLOC" not in name}
    command = [sys.executable, "-c", _COUNT]
    done = subprocess.run(command, capture_output=True, text=True, env=variables | environment)
    assert done.returncode == 0, done.stderr
    return [int(count) for count in done.stdout.split()]


def test_tensors_on_the_cpu_reuse_freed_memory() -> None:
    before, after, lower = page_faults()
    assert before > PAGES, "each large tensor came from the kernel"
    assert after < before / 20
    assert lower < before / 20, "the threshold never falls"


def test_a_threshold_of_the_environment_stays() -> None:
    assert min(page_faults(MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="0")) > PAGES
