"""The checks for a GPU, with sizes for a CPU: they run, and a CPU agrees with itself."""

import importlib
import itertools
import json
import math
import runpy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from segkit.criterion import point_sampling
from segkit.errors import InputError
from tests.preloaded import Process

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


def test_every_check_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    assert set(LIMITED) == set(importlib.import_module("check_cuda").CHECKS)


def run_checks(*words: str) -> None:
    """The script as its own process runs it."""
    sys.path.insert(0, str(SCRIPTS))
    sys.argv = ["check_cuda.py", *words]
    runpy.run_path(str(SCRIPTS / sys.argv[0]), run_name="__main__")


@pytest.mark.timeout(900)  # a busy neighbor may take most of the core
def test_a_cpu_passes_the_checks(tmp_path: Path) -> None:
    """In a process, because they compile and start process groups."""
    words = ["--device", "cpu", "--tiny", "--limit", "9999", "--out", str(tmp_path)]
    code, out, err = Process(run_checks, *words).wait(800)
    assert code == 0, out + err
    result = json.loads((tmp_path / "cuda.json").read_text())
    assert result["seconds"].keys() == LIMITED.keys()
    assert min(result["seconds"].values()) > 0
    limited = {row["check"]: row["value"] for row in result["rows"] if row["limit"] is not None}
    assert set(limited) == set().union(*LIMITED.values())
    assert limited["panoptic, deformable"] == 0
    rates = [row["value"] for row in result["rows"] if "/s" in row["quantity"]]
    assert len(rates) == sum(RATES.values())
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
    offsets = [value for name, value in gradients.items() if name.endswith("offsets.weight")]
    assert len(offsets) == 2
    assert all(bool(value.any()) for value in offsets)


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "cpu"], "the full sizes take hours on a CPU"),
        (["--device", "gpu", "--tiny"], "unknown device 'gpu'"),
        (["--device", "cuda:9", "--tiny"], "no device 'cuda:9'"),
    ],
)
def test_a_device_that_cannot_be_checked_is_refused(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    script = importlib.import_module("check_cuda")
    monkeypatch.setattr(sys, "argv", ["check_cuda", *words, "--out", str(tmp_path / "out")])
    with pytest.raises(InputError, match=message):
        script.main()
    assert not (tmp_path / "out").exists()


def test_failed_and_skipped_checks_are_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    script, row = (importlib.import_module(name) for name in ("check_cuda", "cuda_bench"))

    def failing(bench: object) -> Iterator[object]:
        yield row.Row("failing", "measured before", math.nan)
        raise ZeroDivisionError

    def passing(bench: object) -> Iterator[object]:
        yield row.Row("passing", "quantity", 1.0)

    checks = {"failing": failing, "passing": passing, "late": failing}
    monkeypatch.setattr(script, "CHECKS", checks)
    clock = itertools.count(0, 10)  # each look at it takes ten seconds
    monkeypatch.setattr(script, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    words = ["--tiny", "--device", "cpu", "--limit", "70", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["check_cuda", *words])
    with pytest.raises(SystemExit) as exit_status:
        script.main()
    assert exit_status.value.code == 1
    result = json.loads((tmp_path / "cuda.json").read_text(), parse_constant=pytest.fail)
    rows = [(item["check"], item["value"], item["passed"]) for item in result["rows"]]
    assert rows == [
        ("failing", None, False),
        ("failing", None, False),
        ("failing", 10, True),
        ("passing", 1.0, True),
        ("passing", 10, True),
        ("late", None, False),
    ]
    assert result["seconds"] == {"failing": 10, "passing": 10}
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_the_comparison_with_mask2former_stops_at_the_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    bench, speed = map(importlib.import_module, ("cuda_bench", "cuda_speed"))
    late = bench.Bench(torch.device("cpu"), bench.TINY, tmp_path, limit=0.0)
    (row,) = speed.against_mask2former(late)
    assert (row.check, row.value, row.passed) == ("peer", None, False)


def test_loader_and_attention_are_compared_with_the_steps_of_the_long_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Six layers of 10 ms and 100 MiB; steps of 2 crops, half a second and 1,000 MiB."""
    monkeypatch.syspath_prepend(SCRIPTS)
    bench, speed = map(importlib.import_module, ("cuda_bench", "cuda_speed"))
    sizes = replace(bench.TINY, recipe="dataseg-r50", batch=2)
    sets = bench.Bench(torch.device("cpu"), sizes, tmp_path)
    sets.layer, sets.loaded = (0.01, 100.0), 8.0
    record = SimpleNamespace(samples_per_second=4.0, memory_mib=1000.0, loss=1.0)
    monkeypatch.setattr(sets, "train", lambda *_, on_step, **__: on_step(record), raising=True)
    monkeypatch.setattr(speed, "_random_backbone", lambda bench: [])
    rows = {(row.check, row.quantity): row.value for row in speed.long_run(sets)}
    assert rows["loader", "times as fast as the steps"] == 2
    assert rows["attention", "share of the time of a step"] == pytest.approx(6 * 0.01 / 0.5)
    assert rows["attention", "share of the memory of a step"] == pytest.approx(0.6)


def test_a_value_beyond_its_limit_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    row = importlib.import_module("cuda_bench").Row
    values = ((1, 2), (2, 2), (3, 2), (math.nan, None), (math.inf, 2), (9, None), (None, 2))
    passed = [row("check", "quantity", *value).passed for value in values]
    assert passed == [True, True, False, False, False, True, False]
