"""Evaluation over several processes gives the metrics of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from segkit.shards.reader import ShardSet
from tests.training.two_evaluations import evaluate_toys

pytestmark = pytest.mark.timeout(600)


def test_two_processes_compute_the_metrics_of_one(
    toy_set: ShardSet, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    worker = ["-m", "tests.training.two_evaluations", str(toy_set.path), str(tiny), str(tmp_path)]
    process = subprocess.Popen(
        [*launcher, "--nproc-per-node", "2", *worker],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, errors = process.communicate(timeout=500)
    finally:
        process.terminate()
    assert process.returncode == 0, errors[-3000:]
    picture = (tmp_path / "picture.png").read_bytes()
    expected = evaluate_toys(toy_set, tiny, tmp_path, shard=False)
    assert expected is not None
    assert expected["images"] == {"evaluated": 6, "without_prediction": 0}
    assert sum(row["fp"] + row["tp"] for row in expected["per_class"].values()) > 6
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1))
    assert first == [json.loads(json.dumps(expected))] * 2, "sharded or not"
    assert second == [None, None]
    assert (tmp_path / "picture.png").read_bytes() == picture
