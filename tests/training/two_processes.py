"""Run under torchrun by test_distributed: trains the stand-in on halves of each batch, then a real
run, both ways."""

import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from segkit import distributed
from segkit.data.batch import Batch
from segkit.errors import SegkitError
from segkit.training.loop import StepRecord, train_steps
from segkit.training.run import Callbacks, train
from segkit.training.sharding import full_state_dict
from segkit.training.signals import StoppedError
from segkit.training.trainee import Trainee
from tests.training.standin import Learner, StandIn, batches, recipe

PARALLEL = ("ddp", "fsdp")
RECOMPUTED: dict[str, list[str]] = {"ddp": [], "fsdp": ["training.activation_checkpointing=true"]}
STEPS = 6
SAVED = 2
"""Steps before the checkpoint from which others go on."""
# Batch statistics and the noise of a process are its own; without them a batch may be split.
QUIET = ["model.freeze_norm=true", "loss.box_noise=0.0", "loss.label_dropout=1.0"]
BEST = ["training.evaluate_every=3", "training.publish=best", "training.keep_checkpoints=1"]


def quiet_trainee(**training: object) -> Trainee:
    """Without noise and without batch statistics, so that a batch may be split; every step is
    clipped."""
    torch.manual_seed(0)
    model = StandIn()
    sections = {
        "training": {"steps": STEPS, "accumulate": 2} | training,
        "optimizer": {"lr": 0.01, "clip_norm": 0.05},
    }
    trainee = Trainee(model, Learner(model), recipe(**sections))
    trainee.learner.eval()
    trainee.learner.train = lambda mode=True: trainee.learner  # type: ignore[method-assign,assignment]
    return trainee


def told(trainee: Trainee, records: list[StepRecord]) -> dict[str, Any]:
    """What must be the same however many processes there are."""
    return {
        "losses": [record.losses for record in records],
        "norms": [record.gradient_norm for record in records],
        "weights": {name: value.tolist() for name, value in full_state_dict(trainee.model).items()},
        "average": {
            name: value.tolist() for name, value in full_state_dict(trainee.average.module).items()
        },
    }


def half(batch: Batch) -> Batch:
    part = slice(2 * distributed.rank(), 2 * distributed.rank() + 2)
    return replace(batch, images=batch.images[part], sample_ids=batch.sample_ids[part])


def poisoned() -> Iterator[Batch]:
    """A NaN in the second batch, in the part of the last process alone."""
    for number, batch in enumerate(batches()):
        if number == 1:
            batch.images[3] = float("nan")
        yield half(batch)


def refusal(trainee: Trainee) -> str:
    try:
        list(train_steps(trainee, poisoned()))
    except SegkitError as error:
        return str(error)
    return ""


def stand_ins(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for parallel in PARALLEL:
        trainee = quiet_trainee(parallel=parallel)
        steps = train_steps(trainee, map(half, batches()))
        records = [next(steps) for _ in range(SAVED)]
        trainee.save(out / parallel, best=None)
        found[parallel] = told(trainee, records + list(steps))
        resumed = quiet_trainee(parallel=parallel)
        resumed.restore(out / "one" / f"step-{SAVED:08d}")
        found[f"{parallel} resumed"] = told(
            resumed, list(train_steps(resumed, map(half, batches(start=2 * SAVED))))
        )
        found[f"{parallel} nan"] = refusal(quiet_trainee(parallel=parallel))
    for precision in ("bf16", "fp16"):
        rough = quiet_trainee(parallel="fsdp", precision=precision)
        found[precision] = told(rough, list(train_steps(rough, map(half, batches()))))
    return found


def stop_after(step: int) -> Callbacks:
    """Ask the first process alone to stop: the others must hear of it."""

    def on_step(record: StepRecord) -> None:
        if record.step == step:
            signal.raise_signal(signal.SIGTERM)

    return Callbacks(on_step=on_step)


def runs(out: Path, tiny: str, sets: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for parallel in PARALLEL:
        given = {"eval_data": sets[:1], "device": "cpu", "steps": STEPS}
        options = given | {
            "overrides": [*QUIET, *BEST, *RECOMPUTED[parallel], f"training.parallel={parallel}"]
        }
        data = [(spec, 1.0) for spec in sets]
        try:
            train(tiny, data, out / parallel / "run", callbacks=stop_after(4), **options)  # type: ignore[arg-type]
        except StoppedError as error:
            found[f"{parallel} stop"] = str(error)
        version = train(tiny, data, out / parallel / "run", resume=True, **options)  # type: ignore[arg-type]
        found[f"{parallel} version"] = str(version)
    return found


def main(out: Path, tiny: str, *sets: str) -> None:
    with distributed.process_group(torch.device("cpu")):
        found = stand_ins(out) | runs(out, tiny, list(sets))
        (out / f"found-{distributed.rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), *sys.argv[2:])
