import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from segkit.commands import app as program
from segkit.commands.app import app
from segkit.commands.shared_options import parse_data
from segkit.errors import InputError
from segkit.shards.reader import ShardSet
from segkit.shards.versions import versions
from tests.commands.slips import assert_refused_before_torch
from tests.preloaded import Process, run_command
from tests.training.toy import write_recipe, write_toy_set

STEPS = 50


def start(arguments: list[str]) -> Process:
    """`segkit train` in a process of its own."""
    return Process(run_command, ["train", *arguments], environment={"COLUMNS": "400"})


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_toy_set(tmp_path_factory.mktemp("data") / "toy")


@pytest.fixture(scope="module")
def base(toy: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    recipe = write_recipe(tmp_path_factory.mktemp("recipe") / "tiny.toml")
    rhythm = ["--steps", str(STEPS), "--set", "training.checkpoint_every=10"]
    rhythm += ["--set", f"training.evaluate_every={STEPS}"]
    return [
        "--recipe",
        str(recipe),
        "--data",
        f"{toy.path.parent}@v1=1.5",
        "--device",
        "cpu",
        *rhythm,
    ]


@pytest.fixture(scope="module")
def uninterrupted(
    base: list[str], toy: ShardSet, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The JSON of an uninterrupted run."""
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    result = CliRunner().invoke(
        app, ["train", *base, "--out", str(out), "--eval-data", str(toy.path), "--json"]
    )
    assert result.exit_code == 0, result.output
    output: dict[str, Any] = json.loads(result.stdout)
    return output


def losses(version: Path) -> list[tuple[int, str, dict[str, float]]]:
    rows = [json.loads(line) for line in (version / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["dataset"], row["losses"]) for row in rows if "losses" in row]


def wait_for_steps(log: Path, steps: int) -> None:
    deadline = time.monotonic() + 120
    while not log.is_file() or len(log.read_text().splitlines()) < steps:
        assert time.monotonic() < deadline, "no steps were logged"
        time.sleep(0.01)


def test_json_is_one_object_with_path_and_figures(uninterrupted: dict[str, Any]) -> None:
    assert (
        uninterrupted["schema"] == "segkit.train/1"
        and uninterrupted["steps"] == STEPS
        and uninterrupted["version"] == 1
    )
    assert Path(uninterrupted["path"]).name == "v1" and set(uninterrupted["evaluation"]) == {"toy"}
    assert [step for step, _, _ in losses(Path(uninterrupted["path"]))] == list(range(1, STEPS + 1))


def test_a_killed_process_leaves_no_version_and_resumes_to_the_same_losses(
    base: list[str], uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    log = out / ".v1.partial" / "metrics.jsonl"

    process = start([*base, "--out", str(out)])
    wait_for_steps(log, 6)
    process.send_signal(signal.SIGTERM)
    code, _, err = process.wait()
    assert code == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after step" in err and "--resume" in err and "Traceback" not in err
    assert versions(out) == {}

    process = start([*base, "--out", str(out), "--resume"])
    wait_for_steps(log, 16)
    process.send_signal(signal.SIGKILL)
    code, _, err = process.wait()
    assert code == -signal.SIGKILL and "resumed after step" in err
    assert versions(out) == {}

    code, _, err = start([*base, "--out", str(out), "--resume"]).wait()
    assert code == 0 and "resumed after step" in err
    figures = r"loss \d+\.\d+  toy \d+\.\d+  lr \d\.\de-\d\d  \d+\.\d img/s  \d+\.\d GiB  ETA 0 min"
    assert re.search(rf"step {STEPS}/{STEPS}  {figures}", err), err
    assert losses(versions(out)[1]) == losses(Path(uninterrupted["path"]))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_process_group_does_not_stop_the_data_workers(
    base: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    """As torchrun passes it on, and a terminal's Ctrl-C."""
    out = tmp_path / "run"
    process = start([*base, "--out", str(out), "--set", "data.workers=1"])
    wait_for_steps(out / ".v1.partial" / "metrics.jsonl", 3)
    os.killpg(process.pid, number)
    code, _, err = process.wait()
    assert code == 128 + number and f"stopped by {number.name} after step" in err
    assert "Traceback" not in err and any(out.glob(".v1.partial/checkpoints/step-*"))


def test_notes_and_result_are_printed(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First with --resume, from random weights, into a relative folder; then from that run."""
    monkeypatch.chdir(tmp_path)
    command = ["train", *base, "--steps", "2", "--out", "run"]
    first = CliRunner().invoke(app, [*command, "--resume"])
    assert first.exit_code == 0, first.output
    note = "note: nothing to resume in run: training starts from its first step\n"
    assert note in first.stderr
    assert (
        "note: the backbone starts from random weights; --set model.backbone_weights=timm"
        in first.stderr
    )
    figures, path = first.stdout.splitlines()
    assert re.fullmatch(r"2 steps, running loss \d+\.\d{3}, \d+ s", figures)
    assert path == str((tmp_path / "run" / "v1").resolve())
    second = CliRunner().invoke(app, [*command, "--init-from", "run"])
    assert second.exit_code == 0 and "note:" not in second.stderr


def test_the_printed_evaluation_is_that_of_the_published_weights(
    base: list[str], toy: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segkit.training.logging.RunLog.best", lambda *_: 2)
    rhythm = [
        "--steps",
        "8",
        "--set",
        "training.evaluate_every=2",
        "--set",
        "training.publish=best",
    ]
    rates = ["--set", "optimizer.lr=0.01", "--set", "optimizer.ema_decay=0"]
    command = [
        "train",
        *base,
        *rhythm,
        *rates,
        "--out",
        str(tmp_path / "run"),
        "--eval-data",
        str(toy.path),
        "--json",
    ]
    output = json.loads(CliRunner().invoke(app, command).stdout)
    rows = [
        json.loads(line)
        for line in (tmp_path / "run" / "v1" / "metrics.jsonl").read_text().splitlines()
    ]
    metrics = {row["step"]: row["metrics"] for row in rows if "evaluation" in row}
    assert metrics[2] != metrics[8]  # else this would show nothing
    assert output["steps"] == 2 and output["evaluation"] == {"toy": metrics[2]}


def test_slips_are_refused_before_torch_is_imported(base: list[str], toy: ShardSet) -> None:
    slips = (
        ["--recipe", "dataseg-maxi"],
        ["--data", "absent"],
        ["--data", f"{toy.path}=lots"],
        ["--eval-data", "absent"],
        ["--set", "optimizer.lr"],
        ["--set", "optimizer.lr=fast"],
        ["--init-from", "absent"],
        ["--init-from", "hf:absent"],
        ["--set", "model.init_from=absent"],
    )
    assert_refused_before_torch(["train", *base, "--out", "x"], slips)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--recipe", "dataseg-maxi"],
            "unknown recipe 'dataseg-maxi'; give a TOML file or one of: box-labeler-mini",
        ),
        (["--data", "absent"], "absent: holds no published version"),
        (["--data", "toy=lots"], "no number after = in 'toy=lots'"),
        (["--set", "optimizer.rate=1"], "unknown key 'optimizer.rate'; the nearest valid key is"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    base: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys, "argv", ["segkit", "train", *base, "--out", str(tmp_path / "run"), *arguments]
        )
        with pytest.raises(SystemExit) as caught:
            program.main()
    err = capsys.readouterr().err
    assert caught.value.code == 2 and message in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_the_path_of_a_set_may_hold_an_equals_sign(
    toy: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1").symlink_to(toy.path.parent)
    assert parse_data("lr=0.1") == ("lr=0.1", 1)
    assert parse_data("lr=0.1=3") == ("lr=0.1", 3)
    assert parse_data("date=2024-01-01/set@v2") == ("date=2024-01-01/set@v2", 1)
    assert parse_data("toy=0.5") == ("toy", 0.5)
    with pytest.raises(InputError, match=r"no number after = in 'lr=0.1=1/2'"):
        parse_data("lr=0.1=1/2")
