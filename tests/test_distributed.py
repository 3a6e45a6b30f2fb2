"""Choosing the CPU keeps freed memory: later tensors of its size cause no page faults."""

import platform
import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys
import torch
from segkit.distributed import choose_device

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.zeros(4 << 20).sum()  # 16 MiB, 4,096 pages
        torch.zeros(12 << 20).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
before = faults()
choose_device("cpu")
faults()
print(before, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_tensors_on_the_cpu_reuse_freed_memory() -> None:
    done = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert before > 20 * 4096  # each large tensor came from the kernel
    assert after < before / 20
