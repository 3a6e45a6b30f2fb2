"""The full model in training: half precision and recomputed activations."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from segkit.runs.open_run import load_run
from segkit.shards.reader import ShardSet
from segkit.training.train import train

DEFORMABLE = [
    "model.pixel_decoder=deformable",
    "model.encoder_layers=1",
    "model.encoder_feedforward_dim=16",
]


def records(
    tiny: Path, data: ShardSet, out: Path, steps: int, *overrides: str
) -> list[dict[str, Any]]:
    run = train(
        tiny,
        [(str(data.path), 1.0)],
        out,
        device="cpu",
        steps=steps,
        overrides=[*DEFORMABLE, *overrides],
    )
    assert all(value.dtype == torch.float32 for value in load_run(run.parent).model.parameters())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def losses(steps: list[dict[str, Any]]) -> list[float]:
    return [step["loss"] for step in steps]


@pytest.fixture(scope="module")
def plain(
    tiny: Path, toy_set: ShardSet, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """Four steps in full precision."""
    return records(tiny, toy_set, tmp_path_factory.mktemp("plain") / "run", 4)


def test_recomputed_activations_train_to_the_same_losses(
    plain: list[dict[str, Any]], tiny: Path, toy_set: ShardSet, tmp_path: Path
) -> None:
    again = records(
        tiny, toy_set, tmp_path / "recomputed", 4, "training.activation_checkpointing=true"
    )
    assert len(plain) == 4 and losses(again) == pytest.approx(losses(plain), rel=1e-5)


def test_bf16_follows_full_precision(
    plain: list[dict[str, Any]], tiny: Path, toy_set: ShardSet, tmp_path: Path
) -> None:
    half = records(tiny, toy_set, tmp_path / "half", 4, "training.precision=bf16")
    assert losses(half) == pytest.approx(losses(plain), rel=0.1)
    assert half[0]["loss"] == pytest.approx(plain[0]["loss"], rel=0.01)


def test_fp16_skips_steps_until_its_scale_fits_and_then_learns(
    plain: list[dict[str, Any]], tiny: Path, toy_set: ShardSet, tmp_path: Path
) -> None:
    half = records(tiny, toy_set, tmp_path / "half", 10, "training.precision=fp16")
    assert half[0]["loss"] == pytest.approx(plain[0]["loss"], rel=0.01)
    skipped = [record["gradient_norm"] is None for record in half]
    assert skipped == sorted(skipped, reverse=True), "once the scale fits, every step counts"
    assert not skipped[-4] and half[-1]["loss"] < half[0]["loss"]
