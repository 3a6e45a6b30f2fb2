"""Start processes as torchrun does, for tests of what they do together."""

import os
import subprocess
import sys
from pathlib import Path


def run_two_processes(module: str, *arguments: object, timeout: float) -> str:
    """Run a module in two processes; fail with what they wrote on stderr, or return it.

    Args:
        module: dotted name.
        arguments: of its command line.
        timeout: seconds.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    process = subprocess.Popen(
        [*launcher, "--nproc-per-node", "2", "-m", module, *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, errors = process.communicate(timeout=timeout)
    finally:
        process.terminate()  # if it hangs, torchrun ends its workers
    assert process.returncode == 0, errors[-3000:]
    return errors
