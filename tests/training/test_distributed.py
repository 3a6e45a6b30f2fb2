import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from segkit.distributed import process_group
from segkit.runs.run import load_run
from segkit.shards.publish import versions
from segkit.shards.reader import ShardSet
from segkit.training.loop import train_steps
from segkit.training.run import train
from tests.training.standin import batches
from tests.training.two_processes import BEST, PARALLEL, QUIET, SAVED, STEPS, quiet_trainee, told

pytestmark = pytest.mark.timeout(
    900
)  # half a minute of two cores, which a busy machine may not have


def test_a_single_process_is_told_which_gpu_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", told.append)
    for device in (torch.device("cpu"), torch.device("cuda", 1)):
        with process_group(device):
            assert not torch.distributed.is_initialized()
    assert told == [torch.device("cuda", 1)]


def one_process(folder: Path, **training: object) -> dict[str, Any]:
    """The same steps on the whole batches, with a checkpoint on the way."""
    trainee = quiet_trainee(**training)
    steps = train_steps(trainee, batches())
    records = [next(steps) for _ in range(SAVED)]
    trainee.save(folder, best=None)
    return told(trainee, records + list(steps))


@pytest.fixture(scope="module")
def pair(
    toy_set: ShardSet,
    box_set: ShardSet,
    sparse_set: ShardSet,
    tiny: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """What two gloo processes left behind."""
    out = tmp_path_factory.mktemp("pair")
    one_process(out / "one")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    sets = [str(data.path) for data in (toy_set, box_set, sparse_set)]
    worker = ["-m", "tests.training.two_processes", str(out), str(tiny), *sets]
    root = Path(__file__).parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, *worker], cwd=root, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        _, errors = process.communicate(timeout=800)
    finally:
        process.terminate()  # where it hangs, torchrun ends its workers
    assert process.returncode == 0, errors[-3000:]
    return out


@pytest.fixture(scope="module")
def found(pair: Path) -> list[dict[str, Any]]:
    """What each process saw."""
    return [json.loads((pair / f"found-{rank}.json").read_text()) for rank in (0, 1)]


def agree(
    found: dict[str, Any], expected: dict[str, Any], start: int = 0, tolerance: float = 1e-5
) -> None:
    for one, other in zip(found["losses"], expected["losses"][start:], strict=True):
        assert one == pytest.approx(other, rel=tolerance)
    assert found["norms"] == pytest.approx(expected["norms"][start:], rel=10 * tolerance)
    for kind in ("weights", "average"):
        assert found[kind].keys() == expected[kind].keys()
        for name, value in expected[kind].items():
            near = {"rtol": 10 * tolerance, "atol": tolerance}
            torch.testing.assert_close(
                torch.tensor(found[kind][name]), torch.tensor(value), **near, msg=name
            )


@pytest.mark.parametrize("parallel", PARALLEL)
def test_two_processes_do_what_one_does_on_the_joint_batch(
    parallel: str, found: list[dict[str, Any]], tmp_path: Path
) -> None:
    expected = one_process(tmp_path)
    assert all(norm > 0.05 for norm in expected["norms"]), "every step is to be a clipped one"
    agree(found[0][parallel], expected)
    assert found[1][parallel]["losses"] == found[0][parallel]["losses"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_shares_in_reduced_precision_do_what_one_process_does(
    precision: str, found: list[dict[str, Any]], tmp_path: Path
) -> None:
    agree(found[0][precision], one_process(tmp_path, precision=precision), tolerance=0.02)


@pytest.mark.parametrize("parallel", PARALLEL)
def test_one_process_goes_on_from_what_two_have_saved_and_the_reverse(
    parallel: str, pair: Path, found: list[dict[str, Any]], tmp_path: Path
) -> None:
    expected = one_process(tmp_path)
    alone = quiet_trainee()
    saved = pair / parallel / f"step-{SAVED:08d}"
    assert {path.name.split("_")[2] for path in saved.glob("*.distcp")} == {"0", "1"}, (
        "each process writes its share"
    )
    alone.restore(saved)
    agree(told(alone, list(train_steps(alone, batches(start=2 * SAVED)))), expected, start=SAVED)
    agree(found[0][f"{parallel} resumed"], expected, start=SAVED)


@pytest.mark.parametrize("parallel", PARALLEL)
def test_nan_in_one_process_stops_both_with_its_sample_ids(
    parallel: str, found: list[dict[str, Any]]
) -> None:
    for told_by in found:
        message = told_by[f"{parallel} nan"]
        assert "a loss is not finite at step 1 " in message and message.endswith(
            "toy: image-1-2, image-1-3"
        )


def losses(version: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (version / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "losses" in row]


@pytest.fixture(scope="module")
def alone(
    tiny: Path,
    toy_set: ShardSet,
    box_set: ShardSet,
    sparse_set: ShardSet,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The run of one process on batches of twice the size."""
    data = [(str(data.path), 1.0) for data in (toy_set, box_set, sparse_set)]
    out = tmp_path_factory.mktemp("alone") / "run"
    overrides = [*QUIET, *BEST, "data.batch_size=4"]
    return train(
        tiny, data, out, eval_data=[data[0][0]], device="cpu", steps=STEPS, overrides=overrides
    )


@pytest.mark.parametrize("parallel", PARALLEL)
def test_two_processes_stop_resume_and_publish_one_run_that_loses_what_one_loses(
    parallel: str, pair: Path, found: list[dict[str, Any]], alone: Path
) -> None:
    published = versions(pair / parallel / "run")
    assert list(published) == [1]
    assert {told_by[f"{parallel} version"] for told_by in found} == {str(published[1])}
    for told_by in found:
        assert told_by[f"{parallel} stop"].startswith("stopped by SIGTERM after step 4")
    version = published[1]
    assert load_run(version).manifest.steps == load_run(alone).manifest.steps
    ours, expected = losses(version), losses(alone)
    assert [row["dataset"] for row in ours] == [row["dataset"] for row in expected]
    assert {row["dataset"] for row in ours} == {"toy", "boxes", "sparse"}
    for one, other in zip(ours, expected, strict=True):
        assert one["losses"] == pytest.approx(other["losses"], rel=1e-3)
    assert ours[0]["losses"] == pytest.approx(expected[0]["losses"], rel=1e-5)
    assert ours[0]["gradient_norm"] == pytest.approx(expected[0]["gradient_norm"], rel=1e-4)
    weights, of_one = (
        load_file(version / "model.safetensors"),
        load_file(alone / "model.safetensors"),
    )
    for name, value in of_one.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-2, atol=1e-3, msg=name)
