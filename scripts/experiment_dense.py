"""Compare training with and without the dense loss, and output from queries, cells and both.

    python scripts/real.py                               # makes the shard sets
    python scripts/experiment_dense.py --sets real-out/sets --out dense

Each row of the table is one way to read out a run: the shares of the cells (`inference.dense`) are
read from one pass of the model. All runs train on the three training sets for the same number of
steps. COCO's validation images give PQ of all classes, things and stuff, CamVid's mIoU. A run that
is done is not trained again.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from experiments import (
    REAL_DATA,
    WEIGHTS,
    backbone_overrides,
    markdown,
    options,
    parse,
    pin_inputs,
    run_script,
    train_once,
)
from rich.console import Console

from segkit.commands.common import table
from segkit.inference.dense import dense_masks
from segkit.inference.outputs import predicted_sample
from segkit.inference.pipeline import Image, ModelOutput, infer
from segkit.inference.postprocess import LabeledMask, postprocess
from segkit.metrics.evaluate import evaluate
from segkit.recipes.schema import InferenceConfig
from segkit.runs.open_run import load_run
from segkit.runs.run import Run
from segkit.sample import Sample
from segkit.shards.manifest import TASKS
from segkit.shards.reader import ShardSet
from segkit.shards.versions import resolve

SAMPLING_WEIGHTS = {"coco": 2.0, "camvid": 1.0, "standin": 1.0}
ARMS: dict[str, tuple[str, ...]] = {
    "off": ("loss.dense=0",),
    "dense 1": ("loss.dense=1",),
    "dense 4": ("loss.dense=4",),
}
"""Name of each arm of training, and its overrides."""
SHARES = (0.0, 0.5, 1.0)
COLUMNS = ("PQ", "things", "stuff", "CamVid mIoU")
Figures = tuple[float, ...]
"""The values of COLUMNS."""


def train_arm(name: str, seed: int, arguments: argparse.Namespace) -> Path:
    """Return the published run of an arm and a seed; train it first if there is none."""
    data = [
        (str(resolve(arguments.sets / f"{part}-train")), weight)
        for part, weight in SAMPLING_WEIGHTS.items()
    ]
    overrides = [*backbone_overrides(arguments.data / WEIGHTS), *ARMS[name]]
    return train_once(name.replace(" ", "-"), seed, data, overrides, arguments)


def predictions(run: Run, data: ShardSet, shares: Sequence[float]) -> list[list[Sample]]:
    """The predictions for all images, for each share of the cells, from one pass of the model."""
    classes, task = run.class_embeddings(data.taxonomy), TASKS[data.manifest.kind]
    config = run.recipe.inference
    configs = [config.model_copy(update={"dense": share}) for share in shares]

    def read(sample: Sample) -> tuple[Sample, Image]:
        return sample, data.image(sample)

    def label(output: ModelOutput[Sample], config: InferenceConfig) -> list[LabeledMask]:
        logits = output.class_logits, output.mask_logits
        if config.dense == 0 or output.cells is None:
            return postprocess(task, *logits, output.crop, classes.is_thing, config)
        return dense_masks(task, *logits, output.cells, output.crop, classes.is_thing, config)

    def finish(output: ModelOutput[Sample]) -> list[Sample]:
        masks = [label(output, config) for config in configs]
        return [predicted_sample(output.record, regions, data.taxonomy) for regions in masks]

    columns: list[list[Sample]] = [[] for _ in shares]
    outputs = infer(run.model, classes, data.samples(), read, finish, config, dense=max(shares) > 0)
    for samples in outputs:
        for column, sample in zip(columns, samples, strict=True):
            column.append(sample)
    return columns


def score(run_folder: Path, sets: Path, shares: Sequence[float]) -> dict[float, Figures]:
    """Evaluate a run by share of the cells."""
    run = load_run(run_folder, "auto")
    figures: dict[float, list[float]] = {share: [] for share in shares}
    for name in ("coco", "camvid"):
        data = ShardSet.open(sets / f"{name}-val")
        task = TASKS[data.manifest.kind]
        for share, samples in zip(shares, predictions(run, data, shares), strict=True):
            metrics: dict[str, Any] = evaluate(data, samples, task).metrics
            if name == "coco":
                figures[share] += [metrics[group]["pq"] for group in ("all", "things", "stuff")]
            else:
                figures[share].append(metrics["miou"])
    return {share: tuple(values) for share, values in figures.items()}


def table_rows(results: dict[tuple[str, float], list[Figures]]) -> Iterator[tuple[str, ...]]:
    """Mean of each arm and share, with the standard deviation of several seeds."""
    for (arm, share), seeds in results.items():
        values = np.array(seeds)  # (seeds, figures)
        cells = [f"{mean:.2f}" for mean in values.mean(0)]
        if len(seeds) > 1:
            spread = values.std(0, ddof=1)
            cells = [f"{cell} ± {s:.2f}" for cell, s in zip(cells, spread, strict=True)]
        yield arm, f"{share:g}", *cells


def main() -> None:
    parser = options(__doc__, out="dense", seeds=[0])
    parser.add_argument("--data", type=Path, default=REAL_DATA, help="the real data, with weights")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    arguments = parse(parser)
    pin_inputs(arguments, [f"{name}-train" for name in SAMPLING_WEIGHTS], arguments.data / WEIGHTS)
    results: dict[tuple[str, float], list[Figures]] = {}
    for arm in arguments.arms:
        shares = [0.0] if arm == "off" else arguments.shares
        for seed in arguments.seeds:
            run = train_arm(arm, seed, arguments)
            for share, figures in score(run, arguments.sets, shares).items():
                results.setdefault((arm, share), []).append(figures)
    rows = list(table_rows(results))
    columns = ("arm", "inference.dense", *COLUMNS)
    record = {f"{arm}, {share:g}": seeds for (arm, share), seeds in results.items()}
    (arguments.out / "results.json").write_text(json.dumps(record, indent=1) + "\n")
    (arguments.out / "results.md").write_text(markdown(columns, rows))
    Console().print(table(f"{arguments.steps} steps, seeds {arguments.seeds}", columns, rows))


if __name__ == "__main__":
    run_script(main)
