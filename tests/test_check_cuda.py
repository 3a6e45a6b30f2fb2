"""The checks for a GPU, with sizes for a CPU: they run, and a CPU agrees with itself."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[1] / "scripts"
CHECKS = ("losses", "parallel", "attention", "loader")


def test_a_cpu_passes_every_check(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "check_cuda.py"), "--device", "cpu", "--tiny"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path), "--only", *CHECKS], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "cuda.json").read_text())
    assert list(result["seconds"]) == list(CHECKS)
    by_check = {row["check"]: row for row in result["rows"] if row["limit"] is not None}
    assert set(by_check) == {"panoptic", "boxes", "ddp", "fsdp"}
    assert by_check["panoptic"]["value"] == 0
    rates = [row["value"] for row in result["rows"] if "/s" in row["quantity"]]
    assert len(rates) == 1
    assert min(rates) > 0


def test_a_value_beyond_its_limit_fails() -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from cuda_bench import Row\n"
        "values = ((1, 2), (2, 2), (3, 2), (float('nan'), None), (float('inf'), 2), (9, None))\n"
        "print([Row('a', 'b', *value).passed for value in values])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(SCRIPTS)], capture_output=True)
    assert done.stdout.decode().strip() == "[True, True, False, False, False, True]"
