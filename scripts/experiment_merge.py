"""The threshold of MERGE: train with each on real data, and score the output.

    python scripts/real.py                               # makes the shard sets
    python scripts/experiment_merge.py --sets real-out/sets --out merge --steps 500

Trains on the panoptic and the semantic set together, one run per threshold and seed; prints a table
of COCO PQ and CamVid mIoU (mean and standard deviation over the seeds) and writes it to results.md.
Finished runs and evaluations are reused; an interrupted run resumes.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from experiments import (
    FROZEN_NORM,
    REAL_DATA,
    WEIGHTS,
    backbone_overrides,
    markdown,
    options,
    train_once,
)
from rich.console import Console

from segkit.commands.common import table
from segkit.inference.outputs import predict_samples
from segkit.metrics.evaluate import evaluate
from segkit.runs.run import load_run
from segkit.shards.publish import resolve
from segkit.shards.reader import ShardSet

THRESHOLDS: Mapping[str, float] = {"default": 0.5, "arg-max": 0.0, "nothing merged": 1.0}
"""Values of `loss.merge_threshold`, by name."""
COLUMNS = ("threshold", "COCO PQ", "CamVid mIoU")


def run_of(name: str, seed: int, arguments: argparse.Namespace) -> Path:
    """The published run of a threshold and a seed, trained first if there is none."""
    backbone = (
        backbone_overrides(arguments.weights) if arguments.weights.is_file() else [FROZEN_NORM]
    )
    overrides = [*backbone, f"loss.merge_threshold={THRESHOLDS[name]}"]
    return train_once(name.replace(" ", "-"), seed, arguments.data, overrides, arguments)


def scores(path: Path, panoptic: ShardSet, semantic: ShardSet, cache: Path) -> list[float]:
    """PQ and mIoU of one run."""
    if cache.exists():
        cached: list[float] = json.loads(cache.read_text())
        return cached
    run = load_run(path)
    metrics = [
        evaluate(
            data,
            predict_samples(
                run.model,
                run.class_embeddings(data.taxonomy),
                data.taxonomy,
                data,
                task,
                run.recipe.inference,
            ),
            task,
        ).metrics
        for data, task in ((panoptic, "panoptic"), (semantic, "semantic"))
    ]
    values = [metrics[0]["all"]["pq"], metrics[1]["miou"]]
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text(json.dumps(values))
    return values


def main() -> None:
    parser = options(__doc__, out="merge", seeds=[0])
    parser.add_argument("--weights", type=Path, default=REAL_DATA / WEIGHTS)
    parser.add_argument(
        "--thresholds", nargs="+", choices=THRESHOLDS, default=list(THRESHOLDS), metavar="NAME"
    )
    arguments = parser.parse_args()
    arguments.data = [
        (str(resolve(arguments.sets / f"{name}-train")), 1.0) for name in ("coco", "camvid")
    ]
    panoptic, semantic = (
        ShardSet.open(arguments.sets / f"{name}-val") for name in ("coco", "camvid")
    )
    rows = []
    for name in arguments.thresholds:
        runs = [run_of(name, seed, arguments) for seed in arguments.seeds]
        caches = [arguments.out / "scores" / f"{run.parent.name}.json" for run in runs]
        values = np.array(
            [
                scores(run, panoptic, semantic, cache)
                for run, cache in zip(runs, caches, strict=True)
            ]
        )
        rows.append((name, *(_spread(column) for column in values.T)))
    (arguments.out / "results.md").write_text(markdown(COLUMNS, rows))
    Console().print(
        table(f"MERGE: {arguments.steps} steps, seeds {arguments.seeds}", COLUMNS, rows)
    )


def _spread(values: np.ndarray) -> str:
    """Mean over the seeds, and their standard deviation if there are several."""
    mean = f"{values.mean():.2f}"
    return mean if len(values) == 1 else f"{mean} ± {values.std(ddof=1):.2f}"


if __name__ == "__main__":
    main()
