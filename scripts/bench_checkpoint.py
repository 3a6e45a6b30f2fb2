"""Measure what a training step waits for a checkpoint.

    python scripts/bench_checkpoint.py [--recipe dataseg-r50] [--device cpu] [--folder DIR]

A trainer of the recipe's model with AdamW's moments, as after a first step, saves checkpoints.
`wait` is how long `Trainer.save` takes, for which training waits; `write` is the time until the
checkpoint is complete, during which training continues. The first save allocates the copy.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import cast

import torch
from experiments import run_script

from segkit.criterion.set_criterion import SetCriterion
from segkit.distributed import choose_device
from segkit.model.dataseg import DataSeg
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.load import load_recipe
from segkit.shards.reader import ShardSet
from segkit.training.setup import Dataset, TrainingSetup
from segkit.training.trainer import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="dataseg-r50")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: TMPDIR)")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    trainer = make_trainer(options.recipe, options.device)
    waits, writes = [], []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for _ in range(options.repeats):
            start = time.perf_counter()
            path = trainer.save(Path(folder), best=None)
            waits.append(time.perf_counter() - start)
            trainer.checkpoints.wait()
            writes.append(time.perf_counter() - start)
            trainer.step += 1
        size = sum(file.stat().st_size for file in path.iterdir()) / 2**20
    print(f"{options.recipe}, {trainer.device}: {size:.0f} MiB a checkpoint")
    for name, seconds in (("wait", waits), ("write", writes)):
        print(f"{name}: first {seconds[0]:.3f} s, median of the rest {median(seconds[1:]):.3f} s")


def median(seconds: list[float]) -> float:
    return statistics.median(seconds) if seconds else float("nan")


def make_trainer(name: str, device: str) -> Trainer:
    """A trainer whose optimizer has its state; its weights are random, its data set empty."""
    recipe = load_recipe(name)
    placement = choose_device(device)
    embeddings = ClassEmbeddings(torch.zeros(2, recipe.model.text_dim), torch.ones(2).bool())
    data = Dataset("none", cast(ShardSet, None), 1.0, embeddings)
    setup = TrainingSetup(recipe, [data], [], placement, {})
    model = DataSeg(recipe.model.model_copy(update={"backbone_weights": None})).to(placement)
    trainer = Trainer(model, SetCriterion(recipe.loss, {}), setup)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    trainer.optimizer.step()
    return trainer


if __name__ == "__main__":
    run_script(main)
