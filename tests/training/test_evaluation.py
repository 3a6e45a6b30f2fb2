"""Evaluation over several processes gives the metrics of one."""

import json
from pathlib import Path

import pytest

from segkit.shards.reader import ShardSet
from tests.training import two_evaluations
from tests.training.torchrun import run_two_processes
from tests.training.two_evaluations import evaluate_toys

pytestmark = pytest.mark.timeout(600)


def test_two_processes_compute_the_metrics_of_one(
    toy_set: ShardSet, tiny: Path, tmp_path: Path
) -> None:
    run_two_processes(two_evaluations.main, toy_set.path, tiny, tmp_path, logs=tmp_path / "logs")
    picture = (tmp_path / "picture.png").read_bytes()
    expected = evaluate_toys(toy_set, tiny, tmp_path, shard=False)
    assert expected is not None
    assert expected["images"] == {"evaluated": 6, "without_prediction": 0}
    assert sum(row["fp"] + row["tp"] for row in expected["per_class"].values()) > 6
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1))
    assert first == [json.loads(json.dumps(expected))] * 2, "sharded or not"
    assert second == [None, None]
    assert (tmp_path / "picture.png").read_bytes() == picture
