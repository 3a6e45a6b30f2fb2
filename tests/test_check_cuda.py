"""The checks for a GPU, with sizes for a CPU: they run, and a CPU agrees with itself."""

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segkit.criterion import point_sampling

SCRIPTS = Path(__file__).parents[1] / "scripts"
CONFIGURATIONS = ("fpn", "deformable")
LIMITED = {
    "losses": {f"{data}, {parts}" for data in ("panoptic", "boxes") for parts in CONFIGURATIONS},
    "precision": {"bf16", "fp16"},
    "compile": {"compile"},
    "parallel": {f"{name}, {parts}" for name in ("ddp", "fsdp") for parts in CONFIGURATIONS},
    "inference": set(),
    "attention": set(),
    "loader": set(),
    "resume": {"resume"},
    "long": set(),
    "peer": set(),
}
"""Names of the rows of each check that have a limit."""
RATES = {"inference": 4, "loader": 1, "long": 1}
"""Rows of rates."""
HALVES = list(LIMITED)[:7], list(LIMITED)[7:]
"""About 25 s of one core each."""


def test_every_check_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    assert set(LIMITED) == set(importlib.import_module("check_cuda").CHECKS)


@pytest.mark.parametrize("checks", HALVES, ids=("quick", "slow"))
def test_a_cpu_passes_the_checks(checks: list[str], tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "check_cuda.py"), "--device", "cpu", "--tiny"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path), "--only", *checks], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "cuda.json").read_text())
    assert list(result["seconds"]) == checks
    limited = {row["check"]: row["value"] for row in result["rows"] if row["limit"] is not None}
    assert set(limited) == set().union(*(LIMITED[check] for check in checks))
    assert limited.get("panoptic, deformable", 0) == 0
    rates = [row["value"] for row in result["rows"] if "/s" in row["quantity"]]
    assert len(rates) == sum(RATES.get(check, 0) for check in checks)
    assert min(rates) > 0


def test_the_losses_of_every_part_are_compared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    bench, checks = map(importlib.import_module, ("cuda_bench", "cuda_checks"))
    cpu = torch.device("cpu")
    sets = bench.Bench(cpu, bench.TINY, tmp_path)
    setup = sets.setup(sets.boxes, *bench.MASK2FORMER)
    (_, batch), *_ = bench.read_batches(setup, 1)
    losses, gradients = checks._gradients(setup, batch, cpu)
    assert {"dense", "denoising_class", "box_giou"} <= set(losses)
    assert any("sampling_offsets" in name for name in gradients)


def test_points_do_not_depend_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    checks = importlib.import_module("cuda_checks")
    points = []
    for seed in (1, 2):  # as generators of two devices, whose numbers differ
        torch.manual_seed(0)
        with checks._points_of_cpu():
            generator = torch.Generator().manual_seed(seed)
            points.append(point_sampling.random_points(2, 8, (64, 64), generator))
    assert torch.equal(*points)


def test_a_value_beyond_its_limit_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    row = importlib.import_module("cuda_bench").Row
    values = ((1, 2), (2, 2), (3, 2), (math.nan, None), (math.inf, 2), (9, None))
    passed = [row("check", "quantity", *value).passed for value in values]
    assert passed == [True, True, False, False, False, True]
