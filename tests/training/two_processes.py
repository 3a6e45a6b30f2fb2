"""Run in two processes by test_distributed: train the stand-in on half batches, then a run."""

import json
import signal
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from segkit import distributed
from segkit.criterion.denoising import sample_denoising
from segkit.criterion.set_criterion import SetCriterion
from segkit.data.batch import Batch
from segkit.distributed import full_tensor
from segkit.errors import SegkitError
from segkit.model.dataseg import DataSeg
from segkit.model.text_classifier import TextClassifier
from segkit.recipes.schema import LossConfig, OptimizerConfig
from segkit.stopping import StoppedError
from segkit.training.builders import build_mix, build_trainer
from segkit.training.logging import StepRecord
from segkit.training.optimizer import build_optimizer, named_state
from segkit.training.options import TrainOptions
from segkit.training.setup import TrainingSetup
from segkit.training.sharding import full_state_dict, shard
from segkit.training.train import train
from segkit.training.trainer import Callbacks, Trainer
from tests.criterion.scenes import IS_THING, MODEL, make_batch, rectangles
from tests.training.stand_in import batches, freeze_mode, make_trainer, take_steps

PARALLEL = ("ddp", "fsdp")
RECOMPUTED: dict[str, list[str]] = {"ddp": [], "fsdp": ["training.activation_checkpointing=true"]}
STEPS = 6
VARIED_STEPS = 3
SAVED = 2
"""Steps before the checkpoint from which other trainers continue."""
# Batch statistics and noise differ between processes; without them a batch may be split.
EXACT = ["model.freeze_norm=true", "loss.box_noise=0.0", "loss.label_dropout=1.0"]
QUIET = [*EXACT, "loss.box_assist=pseudo", "loss.box_assist_start=2"]
FOREGROUND = [*QUIET, "model.foreground=4", "data.mixing=all"]
"""Every step ends with a batch of boxes, in which the learned queries do not run."""
UNEVEN = rectangles((4, 8, 32, 40), (36, 0, 64, 20)), rectangles((0, 0, 64, 64), labels=(2,))
"""The first process has things, the second has not."""
LEFT_BY_ONE, LEFT_BY_TWO = "left-by-one", "left-by-two"
"""Runs that were interrupted after three steps."""
BEST = ["training.evaluate_every=3", "training.publish=best", "training.keep_checkpoints=1"]


def quiet_trainer(**training: object) -> Trainer:
    """A trainer whose batches may be split; every step is clipped."""
    sections: dict[str, dict[str, object]] = {
        "training": {"steps": STEPS, "accumulate": 2} | training,
        "optimizer": {"lr": 0.01, "clip_norm": 0.05},
    }
    return freeze_mode(make_trainer(**sections))


def summary(trainer: Trainer, records: list[StepRecord]) -> dict[str, Any]:
    """Results that must not depend on the number of processes."""
    return {
        "losses": [record.losses for record in records],
        "norms": [record.gradient_norm for record in records],
        "weights": {name: value.tolist() for name, value in full_state_dict(trainer.model).items()},
        "ema": {
            name: value.tolist() for name, value in full_state_dict(trainer.ema.module).items()
        },
    }


def half(batch: Batch) -> Batch:
    """This process's half of a batch."""
    part = slice(2 * distributed.rank(), 2 * distributed.rank() + 2)
    return replace(batch, images=batch.images[part], sample_ids=batch.sample_ids[part])


def poisoned() -> Iterator[Batch]:
    """A NaN in the second batch, only in the half of the last process."""
    for number, batch in enumerate(batches()):
        if number == 1:
            batch.images[3] = float("nan")
        yield half(batch)


def refusal(trainer: Trainer) -> str:
    """The error that poisoned batches raise."""
    try:
        list(take_steps(trainer, poisoned()))
    except SegkitError as error:
        return str(error)
    return ""


def train_stand_ins(out: Path) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for parallel in PARALLEL:
        trainer = quiet_trainer(parallel=parallel)
        steps = take_steps(trainer, map(half, batches()))
        records = [next(steps) for _ in range(SAVED)]
        trainer.save(out / parallel, best=None)
        results[parallel] = summary(trainer, records + list(steps))
        trainer.checkpoints.wait()
        resumed = quiet_trainer(parallel=parallel)
        resumed.load(out / "one" / f"step-{SAVED:08d}")
        results[f"{parallel} resumed"] = summary(
            resumed, list(take_steps(resumed, map(half, batches(start=2 * SAVED))))
        )
        results[f"{parallel} nan"] = refusal(quiet_trainer(parallel=parallel))
    for precision in ("bf16", "fp16"):
        rough = quiet_trainer(parallel="fsdp", precision=precision)
        results[precision] = summary(rough, list(take_steps(rough, map(half, batches()))))
    return results


def stop_after(step: int) -> Callbacks:
    """Send a stop signal only to the first process: the other must learn of it."""

    def on_step(record: StepRecord) -> None:
        if record.step == step:
            signal.raise_signal(signal.SIGTERM)

    return Callbacks(on_step=on_step)


def train_runs(out: Path, tiny: str, sets: list[str]) -> dict[str, Any]:
    results: dict[str, Any] = {}
    data = [(spec, 1.0) for spec in sets]
    for parallel in PARALLEL:
        folder = out / parallel / "run"
        options: dict[str, Any] = {
            "eval_data": sets[:1],
            "device": "cpu",
            "steps": STEPS,
            "overrides": [*QUIET, *BEST, *RECOMPUTED[parallel], f"training.parallel={parallel}"],
        }
        try:
            train(tiny, data, folder, callbacks=stop_after(4), **options)
        except StoppedError as error:
            results[f"{parallel} stop"] = str(error)
        results[f"{parallel} version"] = str(train(tiny, data, folder, resume=True, **options))
        overrides = [*FOREGROUND, f"training.parallel={parallel}"]
        train(tiny, data[:2], folder / "foreground", device="cpu", steps=3, overrides=overrides)
    return results


def take_varied_steps(tiny: str, sets: list[str], *overrides: str) -> dict[str, Any]:
    """Steps that leave other weights unused in turn: how many each took, and the last gradients."""
    setup = TrainingSetup.open(
        tiny,
        list(zip(sets, (2.0, 1.0), strict=True)),  # draws the second, the first, the second
        TrainOptions(
            steps=VARIED_STEPS,
            device="cpu",
            overrides=[*EXACT, "model.foreground=4", *overrides],
        ),
    )
    trainer, mix = build_trainer(setup), build_mix(setup)
    with closing(batch for _, batch in mix.batches(0, VARIED_STEPS, pinned=False)) as data:
        list(take_steps(trainer, data))
    state = named_state(trainer.model, trainer.optimizer)
    weights = trainer.model.named_parameters()
    return {
        "steps": {name: int(value) for name, value in state.items() if name.endswith("/step")},
        "gradients": {name: w.grad.tolist() for name, w in weights if w.grad is not None},
    }


def clipped_scales() -> dict[str, float]:
    """The class scale after a step beyond its limit, by `training.parallel`."""
    scales = {}
    for parallel in PARALLEL:
        classifier = TextClassifier(4, 4)
        if parallel == "fsdp":
            shard(classifier, torch.device("cpu"))
        optimizer = build_optimizer(classifier, OptimizerConfig(lr=10.0))
        log_scale = classifier.get_parameter("log_scale")
        log_scale.grad = torch.full_like(log_scale, -1.0)
        optimizer.step()
        scales[parallel] = float(full_tensor(log_scale.detach()).exp())
    return scales


def denoised_losses(part: slice) -> dict[str, float]:
    """Losses of a part of UNEVEN with focal classes and denoising, of untrained weights."""
    config = LossConfig(pairwise=0.0, box_prompts=0.0, denoising=1.0, classes="sigmoid")
    torch.manual_seed(0)
    model = DataSeg(MODEL).eval()
    text = F.normalize(torch.randn(len(IS_THING), MODEL.text_dim), dim=1)
    batch = make_batch(*UNEVEN)
    batch = replace(batch, images=batch.images[part], targets=batch.targets[part])
    noised = sample_denoising(batch, config, torch.Generator().manual_seed(0))
    things = torch.nonzero(IS_THING)[:, 0]
    with torch.no_grad():
        outputs = model(batch.images, text, things=things, noised=noised)
        criterion = SetCriterion(config, {batch.dataset: IS_THING})
        losses = criterion(outputs, batch, None, 0, None, noised)
    return {name: float(loss) for name, loss in losses.items()}


def resume_runs(out: Path, tiny: str, sets: list[str]) -> None:
    """Leave an interrupted run for one process, and resume that of one process."""
    data = [(spec, 1.0) for spec in sets]
    options: dict[str, Any] = {"device": "cpu", "steps": STEPS}
    sharded = [*QUIET, "training.parallel=fsdp", "data.batch_size=2"]
    with suppress(StoppedError):
        train(tiny, data, out / LEFT_BY_TWO, callbacks=stop_after(3), overrides=sharded, **options)
    overrides = [*QUIET, "data.batch_size=2"]
    train(tiny, data, out / LEFT_BY_ONE, resume=True, overrides=overrides, **options)


def main(folder: str, tiny: str, *sets: str) -> None:
    out = Path(folder)
    with distributed.process_group(torch.device("cpu")):
        *toy_sets, class_maps = sets
        results = train_stand_ins(out) | train_runs(out, tiny, toy_sets)
        results["boxes"] = take_varied_steps(tiny, toy_sets[:2])
        results["class maps"] = take_varied_steps(tiny, [class_maps, toy_sets[0]])
        rank = distributed.rank()
        results["scales"] = clipped_scales()
        results["denoised"] = denoised_losses(slice(rank, rank + 1))
        resume_runs(out, tiny, toy_sets)
        (out / f"rank-{distributed.rank()}.json").write_text(json.dumps(results))
