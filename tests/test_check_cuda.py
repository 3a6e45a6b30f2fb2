"""The checks for a GPU, with sizes for a CPU: they run, and a CPU agrees with itself."""

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_a_value_beyond_its_limit_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    row = importlib.import_module("cuda_bench").Row
    values = ((1, 2), (2, 2), (3, 2), (math.nan, None), (math.inf, 2), (9, None))
    passed = [row("check", "quantity", *value).passed for value in values]
    assert passed == [True, True, False, False, False, True]
