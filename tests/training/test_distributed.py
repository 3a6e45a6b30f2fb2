import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segkit.shards.publish import versions
from segkit.shards.reader import ShardSet
from segkit.training.loop import train_steps
from segkit.training.run_reader import load_run
from tests.training.standin import batches
from tests.training.two_processes import quiet_trainee


@pytest.fixture(scope="module")
def pair(toy_set: ShardSet, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two gloo processes left behind."""
    out = tmp_path_factory.mktemp("pair")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    worker = ["-m", "tests.training.two_processes", str(out), str(toy_set.path), str(tiny)]
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


def test_two_processes_publish_one_run_and_see_all_samples(pair: Path) -> None:
    assert list(versions(pair / "run")) == [1]
    assert {(pair / f"version-{rank}").read_text() for rank in (0, 1)} == {str(versions(pair / "run")[1])}
    rows = [json.loads(line) for line in (pair / "run" / "v1" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 4] and rows[-1]["evaluation"] == "toy"
    load_run(pair / "run")
