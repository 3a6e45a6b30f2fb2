"""Compare thresholds of MERGE: train with each of them on real data, and evaluate the runs.

    python scripts/real.py                               # makes the shard sets
    python scripts/experiment_merge.py --sets real-out/sets --out merge --steps 500

The script trains one run per threshold and seed, on the panoptic and the semantic set together. It
prints COCO PQ and CamVid mIoU (mean and standard deviation over the seeds) and writes them to
results.md. Finished runs and evaluations are reused; an interrupted run resumes.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from experiments import (
    FROZEN_NORM,
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
from segkit.inference.outputs import predict_samples
from segkit.metrics.evaluate import evaluate
from segkit.runs.open_run import load_run
from segkit.shards.manifest import Task
from segkit.shards.reader import ShardSet
from segkit.shards.versions import resolve

THRESHOLDS: Mapping[str, float] = {"default": 0.5, "arg-max": 0.0, "nothing merged": 1.0}
"""Values of `loss.merge_threshold`, by name."""
SETS = ("coco-train", "camvid-train", "coco-val", "camvid-val")
COLUMNS = ("threshold", "COCO PQ", "CamVid mIoU")


def train_run(name: str, seed: int, arguments: argparse.Namespace) -> Path:
    """Return the published run of a threshold and a seed; train it first if there is none."""
    weights: Path = arguments.weights
    backbone = backbone_overrides(weights) if weights.is_file() else [FROZEN_NORM]
    overrides = [*backbone, f"loss.merge_threshold={THRESHOLDS[name]}"]
    return train_once(name.replace(" ", "-"), seed, arguments.data, overrides, arguments)


def scores(path: Path, panoptic: ShardSet, semantic: ShardSet, cache: Path) -> list[float]:
    """PQ and mIoU of one run, from `cache` if they are there."""
    if cache.exists():
        cached: list[float] = json.loads(cache.read_text())
        return cached
    run = load_run(path, "auto")

    def metrics(data: ShardSet, task: Task) -> dict[str, Any]:
        embeddings, config = run.class_embeddings(data.taxonomy), run.recipe.inference
        samples = predict_samples(run.model, embeddings, data.taxonomy, data, task, config)
        return evaluate(data, samples, task).metrics

    values = [metrics(panoptic, "panoptic")["all"]["pq"], metrics(semantic, "semantic")["miou"]]
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text(json.dumps(values))
    return values


def mean_and_deviation(values: Sequence[float]) -> str:
    """Mean over the seeds, and their standard deviation if there are several."""
    mean = f"{np.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.2f}"


def main() -> None:
    parser = options(__doc__, out="merge", seeds=[0])
    parser.add_argument("--weights", type=Path, default=REAL_DATA / WEIGHTS)
    parser.add_argument(
        "--thresholds", nargs="+", choices=THRESHOLDS, default=list(THRESHOLDS), metavar="NAME"
    )
    arguments = parse(parser)
    pin_inputs(arguments, SETS, arguments.weights)
    sets: Path = arguments.sets
    arguments.data = [(str(resolve(sets / f"{name}-train")), 1.0) for name in ("coco", "camvid")]
    panoptic, semantic = (ShardSet.open(sets / f"{name}-val") for name in ("coco", "camvid"))
    rows = []
    for name in arguments.thresholds:
        by_seed = []
        for seed in arguments.seeds:
            run = train_run(name, seed, arguments)
            cache = arguments.out / "scores" / f"{run.parent.name}.json"
            by_seed.append(scores(run, panoptic, semantic, cache))
        rows.append((name, *map(mean_and_deviation, zip(*by_seed, strict=True))))
    (arguments.out / "results.md").write_text(markdown(COLUMNS, rows))
    title = f"MERGE: {arguments.steps} steps, seeds {arguments.seeds}"
    Console().print(table(title, COLUMNS, rows))


if __name__ == "__main__":
    run_script(main)
