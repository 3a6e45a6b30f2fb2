import os
import time
from pathlib import Path
from random import Random, SystemRandom

import pytest

from . import run_files, set_files, source_files, tool_files
from .kinds import FileKind, faults

SECONDS = float(os.environ.get("SEGKIT_FUZZ_SECONDS", "0"))
"""Time for each kind of file; 0 tries a fixed number of mutants."""
SEED = int(
    os.environ.get("SEGKIT_FUZZ_SEED") or (SystemRandom().randrange(10**6) if SECONDS else 1)
)
MUTANTS = 8
KINDS = [
    kind for module in (source_files, tool_files, set_files, run_files) for kind in module.kinds()
]


@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_every_mutant_ends_in_the_right_result_or_in_one_line(
    kind: FileKind, tmp_path: Path
) -> None:
    lines, tried = [], 0
    end = time.monotonic() + SECONDS
    for line in faults(kind, tmp_path, Random(SEED), None if SECONDS else MUTANTS):
        tried += not line
        if line:
            lines.append(line)
        if SECONDS and time.monotonic() > end:
            break
    if SECONDS:
        print(f"{kind.name}: seed {SEED}, {tried} mutants, {len(lines)} faults")
    assert not lines, f"seed {SEED}, {tried} mutants\n" + "\n".join(lines[:40])
