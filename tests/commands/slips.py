"""What a command refuses at once: before torch, which takes seconds to import."""

import subprocess
import sys
from collections.abc import Sequence


def assert_refused_before_torch(command: Sequence[str], slips: Sequence[Sequence[str]]) -> None:
    """Each slip, given after `segkit COMMAND`, ends with exit code 2 and one line, all in one process without torch."""
    calls = [["segkit", *command, *slip] for slip in slips]
    code = f"""
import sys
from segkit.commands.app import main
for sys.argv in {calls!r}:
    try:
        main()
    except SystemExit as stop:
        print(stop.code, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.stdout.splitlines() == ["2 False"] * len(slips), done.stderr
    assert len(done.stderr.splitlines()) == len(slips)
