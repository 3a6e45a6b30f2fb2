import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from segkit.distributed import process_group
from segkit.errors import InputError
from segkit.runs.open_run import load_run
from segkit.shards.reader import ShardSet
from segkit.shards.versions import versions
from segkit.stopping import StoppedError
from segkit.training.train import train
from tests.training import two_processes
from tests.training.stand_in import batches, take_steps
from tests.training.torchrun import run_two_processes
from tests.training.toy import write_toy_set
from tests.training.two_processes import (
    BEST,
    FOREGROUND,
    LEFT_BY_ONE,
    LEFT_BY_TWO,
    PARALLEL,
    QUIET,
    SAVED,
    STEPS,
    denoised_losses,
    quiet_trainer,
    stop_after,
    summary,
    take_varied_steps,
)

# Half a minute of two cores, which a busy machine may not have.
pytestmark = pytest.mark.timeout(900)


def test_a_single_process_uses_the_gpu_of_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    for device in (torch.device("cpu"), torch.device("cuda", 1)):
        with process_group(device):
            assert not torch.distributed.is_initialized()
    assert devices == [torch.device("cuda", 1)]


JOINT: dict[str, Any] = {
    "device": "cpu",
    "steps": STEPS,
    "overrides": [*QUIET, "training.parallel=ddp", "data.batch_size=4"],
}
"""A run of one process on the joint batches of two."""


def one_process(folder: Path, **training: object) -> dict[str, Any]:
    """The same steps on the full batches, with a checkpoint on the way."""
    trainer = quiet_trainer(**training)
    steps = take_steps(trainer, batches())
    records = [next(steps) for _ in range(SAVED)]
    trainer.save(folder, best=None)
    result = summary(trainer, records + list(steps))
    trainer.checkpoints.wait()
    return result


@pytest.fixture(scope="module")
def class_maps(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """The toy set's pictures with class maps."""
    return write_toy_set(tmp_path_factory.mktemp("data") / "maps", kind="semantic", name="maps")


@pytest.fixture(scope="module")
def pair(
    toy_set: ShardSet,
    box_set: ShardSet,
    sparse_set: ShardSet,
    class_maps: ShardSet,
    tiny: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The output folder of two gloo processes."""
    out = tmp_path_factory.mktemp("pair")
    one_process(out / "one")
    data = [(str(data.path), 1.0) for data in (toy_set, box_set, sparse_set)]
    with pytest.raises(StoppedError):
        interrupt = stop_after(3)
        train(tiny, data, out / LEFT_BY_ONE, callbacks=interrupt, **JOINT)
    sets = (data.path for data in (toy_set, box_set, sparse_set, class_maps))
    errors = run_two_processes(two_processes.main, out, tiny, *sets, logs=out / "logs")
    (out / "stderr").write_text(errors)
    return out


@pytest.fixture(scope="module")
def results(pair: Path) -> list[dict[str, Any]]:
    """The results of each process."""
    return [json.loads((pair / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


def assert_agree(
    result: dict[str, Any], expected: dict[str, Any], start: int = 0, tolerance: float = 1e-5
) -> None:
    for losses, expected_losses in zip(result["losses"], expected["losses"][start:], strict=True):
        assert losses == pytest.approx(expected_losses, rel=tolerance)
    assert result["norms"] == pytest.approx(expected["norms"][start:], rel=10 * tolerance)
    for kind in ("weights", "ema"):
        assert result[kind].keys() == expected[kind].keys()
        for name, value in expected[kind].items():
            near = {"rtol": 10 * tolerance, "atol": tolerance}
            torch.testing.assert_close(
                torch.tensor(result[kind][name]), torch.tensor(value), **near, msg=name
            )


@pytest.mark.parametrize("parallel", PARALLEL)
def test_two_processes_do_what_one_does_on_the_joint_batch(
    parallel: str, results: list[dict[str, Any]], tmp_path: Path
) -> None:
    expected = one_process(tmp_path)
    assert all(norm > 0.05 for norm in expected["norms"]), "every step is to be a clipped one"
    assert_agree(results[0][parallel], expected)
    assert results[1][parallel]["losses"] == results[0][parallel]["losses"]


def test_two_processes_print_no_warnings(pair: Path) -> None:
    assert "warn" not in (pair / "stderr").read_text().lower()


@pytest.mark.parametrize("mix", ["boxes", "class maps"])
def test_weights_that_a_step_leaves_unused_are_not_updated_as_in_one_process(
    tiny: Path,
    toy_set: ShardSet,
    box_set: ShardSet,
    class_maps: ShardSet,
    results: list[dict[str, Any]],
    mix: str,
) -> None:
    """Learned queries skip sets of boxes, and the heads of boxes skip class maps."""
    sets = {"boxes": (toy_set, box_set), "class maps": (class_maps, toy_set)}[mix]
    paths = [str(data.path) for data in sets]
    expected = take_varied_steps(str(tiny), paths, "data.batch_size=4")
    assert len(set(expected["steps"].values())) > 1
    for result in results:
        assert result[mix]["steps"] == expected["steps"]
        gradients = result[mix]["gradients"]
        assert gradients.keys() == expected["gradients"].keys()
        for name, gradient in expected["gradients"].items():
            torch.testing.assert_close(
                torch.tensor(gradients[name]), torch.tensor(gradient), rtol=1e-2, atol=1e-4
            )


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_shards_in_reduced_precision_do_what_one_process_does(
    precision: str, results: list[dict[str, Any]], tmp_path: Path
) -> None:
    expected = one_process(tmp_path, precision=precision)
    assert_agree(results[0][precision], expected, tolerance=0.02)


@pytest.mark.parametrize("parallel", PARALLEL)
def test_one_process_continues_from_the_checkpoint_of_two_and_the_reverse(
    parallel: str, pair: Path, results: list[dict[str, Any]], tmp_path: Path
) -> None:
    expected = one_process(tmp_path)
    trainer = quiet_trainer()
    saved = pair / parallel / f"step-{SAVED:08d}"
    assert {path.name.split("_")[2] for path in saved.glob("*.distcp")} == {"0", "1"}, (
        "each process writes its share"
    )
    trainer.load(saved)
    records = list(take_steps(trainer, batches(start=2 * SAVED)))
    assert_agree(summary(trainer, records), expected, start=SAVED)
    assert_agree(results[0][f"{parallel} resumed"], expected, start=SAVED)


@pytest.mark.parametrize("parallel", PARALLEL)
def test_nan_in_one_process_stops_both_with_its_sample_ids(
    parallel: str, results: list[dict[str, Any]]
) -> None:
    for result in results:
        message = result[f"{parallel} nan"]
        assert "a loss is not finite at step 1 " in message
        assert message.endswith("toy: image-1-2, image-1-3")


def losses(version: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (version / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "losses" in row]


@pytest.fixture(scope="module")
def single_run(
    tiny: Path,
    toy_set: ShardSet,
    box_set: ShardSet,
    sparse_set: ShardSet,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The run of one process on batches of twice the size."""
    data = [(str(data.path), 1.0) for data in (toy_set, box_set, sparse_set)]
    out = tmp_path_factory.mktemp("single") / "run"
    overrides = [*QUIET, *BEST, "data.batch_size=4"]
    return train(
        tiny, data, out, eval_data=[data[0][0]], device="cpu", steps=STEPS, overrides=overrides
    )


@pytest.mark.parametrize("parallel", PARALLEL)
def test_two_processes_stop_resume_and_publish_the_run_of_one(
    parallel: str, pair: Path, results: list[dict[str, Any]], single_run: Path
) -> None:
    published = versions(pair / parallel / "run")
    assert list(published) == [1]
    assert {result[f"{parallel} version"] for result in results} == {str(published[1])}
    for result in results:
        assert result[f"{parallel} stop"].startswith("stopped by SIGTERM after step 4")
    version = published[1]
    assert load_run(version).manifest.steps == load_run(single_run).manifest.steps
    rows, expected = losses(version), losses(single_run)
    assert [row["dataset"] for row in rows] == [row["dataset"] for row in expected]
    assert {row["dataset"] for row in rows} == {"toy", "boxes", "sparse"}
    for row, expected_row in zip(rows, expected, strict=True):
        assert row["losses"] == pytest.approx(expected_row["losses"], rel=1e-3)
    assert rows[0]["losses"] == pytest.approx(expected[0]["losses"], rel=1e-5)
    assert rows[0]["gradient_norm"] == pytest.approx(expected[0]["gradient_norm"], rel=1e-4)
    weights = load_file(version / "model.safetensors")
    for name, value in load_file(single_run / "model.safetensors").items():
        torch.testing.assert_close(weights[name], value, rtol=1e-2, atol=1e-3, msg=name)


@pytest.mark.parametrize("left", [LEFT_BY_ONE, LEFT_BY_TWO])
def test_another_number_of_processes_resumes_a_run(
    left: str,
    pair: Path,
    tiny: Path,
    toy_set: ShardSet,
    box_set: ShardSet,
    sparse_set: ShardSet,
    single_run: Path,
) -> None:
    run = pair / left
    if left == LEFT_BY_TWO:
        data = [(str(data.path), 1.0) for data in (toy_set, box_set, sparse_set)]
        with pytest.raises(InputError, match=r"joint batch of 4; set data.batch_size=4 for 1 proc"):
            overrides = [*QUIET, "training.parallel=fsdp", "data.batch_size=2"]
            train(tiny, data, run, resume=True, **JOINT | {"overrides": overrides})
        overrides = [*QUIET, "training.parallel=fsdp", "data.batch_size=4"]
        train(tiny, data, run, resume=True, **JOINT | {"overrides": overrides})
    rows, expected = losses(versions(run)[1]), losses(single_run)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for row, expected_row in zip(rows, expected, strict=True):
        assert row["losses"] == pytest.approx(expected_row["losses"], rel=1e-3)


@pytest.fixture(scope="module")
def foreground_run(
    tiny: Path, toy_set: ShardSet, box_set: ShardSet, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run of one process with foreground queries."""
    out = tmp_path_factory.mktemp("foreground") / "run"
    data = [(str(toy_set.path), 1.0), (str(box_set.path), 1.0)]
    overrides = [*FOREGROUND, "data.batch_size=4"]
    return train(tiny, data, out, device="cpu", steps=3, overrides=overrides)


@pytest.mark.parametrize("parallel", PARALLEL)
def test_foreground_queries_of_two_processes_train_as_those_of_one(
    parallel: str, pair: Path, foreground_run: Path
) -> None:
    """Learned queries, which the last batch of a step does not run, are reduced as well."""
    version = versions(pair / parallel / "run" / "foreground")[1]
    rows, expected = losses(version), losses(foreground_run)
    for row, expected_row in zip(rows, expected, strict=True):
        assert {"box_l1", "box_giou", "projection", "dice"} <= row["losses"].keys()
        assert row["losses"] == pytest.approx(expected_row["losses"], rel=1e-3)
        assert row["gradient_norm"] == pytest.approx(expected_row["gradient_norm"], rel=1e-2)
    assert rows[0]["gradient_norm"] == pytest.approx(expected[0]["gradient_norm"], rel=1e-4)


@pytest.mark.parametrize("parallel", PARALLEL)
def test_the_class_scale_is_clipped_in_each_process(
    parallel: str, results: list[dict[str, Any]]
) -> None:
    for result in results:
        assert result["scales"][parallel] == pytest.approx(100, rel=1e-6)


def test_a_process_without_things_denoises_with_the_others(results: list[dict[str, Any]]) -> None:
    """The mean over the processes is the loss of their joint batch."""
    expected = denoised_losses(slice(None))
    assert "denoising_class" in expected and "class" in expected
    for name in expected:
        mean = sum(result["denoised"].get(name, 0.0) for result in results) / 2
        assert mean == pytest.approx(expected[name], rel=1e-4), name
