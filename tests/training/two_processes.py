"""Run under torchrun by test_distributed: trains the stand-in on halves of each batch, then a real run."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from segkit.data.batch import Batch
from segkit.training import distributed
from segkit.training.loop import Trainee, train_steps
from segkit.training.run import train
from tests.training.standin import Learner, StandIn, batches, recipe


def quiet_trainee(steps: int) -> Trainee:
    """Without noise and without batch statistics, so that a batch may be split."""
    torch.manual_seed(0)
    model = StandIn()
    trainee = Trainee(model, Learner(model), recipe(training={"steps": steps}))
    trainee.learner.eval()
    trainee.learner.train = lambda mode=True: trainee.learner  # type: ignore[method-assign,assignment]
    return trainee


# Batch statistics and the noise of a process are its own; without them a batch may be split.
QUIET = ["model.freeze_norm=true", "loss.box_noise=0.0", "loss.label_dropout=1.0"]


def half(batch: Batch) -> Batch:
    part = slice(2 * distributed.rank(), 2 * distributed.rank() + 2)
    return replace(batch, images=batch.images[part], sample_ids=batch.sample_ids[part])


def main(out: Path, tiny: str, *sets: str) -> None:
    with distributed.process_group(torch.device("cpu")):
        trainee = quiet_trainee(5)
        records = list(train_steps(trainee, map(half, batches())))
        state = {name: value.tolist() for name, value in trainee.model.state_dict().items()}
        found = {"losses": [record.losses for record in records], "state": state}
        (out / f"standin-{distributed.rank()}.json").write_text(json.dumps(found))
        data = [(spec, 1.0) for spec in sets]
        version = train(tiny, data, out / "run", eval_data=sets[:1], device="cpu", steps=6, overrides=QUIET)
        (out / f"version-{distributed.rank()}").write_text(str(version))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), *sys.argv[2:])
