import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from segkit.shards.publish import versions
from segkit.shards.reader import ShardSet
from segkit.training.loop import train_steps
from segkit.training.run import train
from segkit.training.run_reader import load_run
from tests.training.standin import batches
from tests.training.two_processes import QUIET, quiet_trainee


@pytest.fixture(scope="module")
def pair(toy_set: ShardSet, box_set: ShardSet, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two gloo processes left behind."""
    out = tmp_path_factory.mktemp("pair")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    worker = ["-m", "tests.training.two_processes", str(out), str(tiny), str(toy_set.path), str(box_set.path)]
    root = Path(__file__).parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, *worker], cwd=root, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        _, errors = process.communicate(timeout=240)
    finally:
        process.terminate()  # where it hangs, torchrun ends its workers
    assert process.returncode == 0, errors[-3000:]
    return out


def test_two_processes_lose_what_one_loses_on_the_joint_batch(pair: Path) -> None:
    trainee = quiet_trainee(5)
    expected = [record.losses for record in train_steps(trainee, batches())]
    for rank in (0, 1):
        found = json.loads((pair / f"standin-{rank}.json").read_text())
        for one, other in zip(found["losses"], expected, strict=True):
            assert one == pytest.approx(other, rel=1e-5)
        for name, value in trainee.model.state_dict().items():
            torch.testing.assert_close(torch.tensor(found["state"][name]), value, check_dtype=False)


def losses(version: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (version / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "losses" in row]


def test_two_processes_publish_one_run_that_loses_what_one_loses(
    pair: Path, tiny: Path, toy_set: ShardSet, box_set: ShardSet, tmp_path: Path
) -> None:
    assert list(versions(pair / "run")) == [1]
    version = versions(pair / "run")[1]
    assert {(pair / f"version-{rank}").read_text() for rank in (0, 1)} == {str(version)}
    assert load_run(version).manifest.steps == 6
    data = [(str(toy_set.path), 1.0), (str(box_set.path), 1.0)]
    whole = train(tiny, data, tmp_path / "run", device="cpu", steps=6, overrides=[*QUIET, "data.batch_size=4"])
    found, expected = losses(version), losses(whole)
    assert [row["dataset"] for row in found] == [row["dataset"] for row in expected]
    assert {row["dataset"] for row in found} == {"toy", "boxes"}
    for one, other in zip(found, expected, strict=True):
        assert one["losses"] == pytest.approx(other["losses"], rel=1e-3)
    assert found[0]["losses"] == pytest.approx(expected[0]["losses"], rel=1e-5)
    assert found[0]["gradient_norm"] == pytest.approx(expected[0]["gradient_norm"], rel=1e-4)
