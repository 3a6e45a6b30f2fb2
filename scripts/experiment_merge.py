"""The open choices of MERGE: train with each form, then decide the output by each form, on real
data.

    python scripts/real.py                               # makes the shard sets
    python scripts/experiment_merge.py --sets real-out/sets --out merge --steps 500

Trains on the panoptic and the semantic set together, one run an option and a seed, and asks every
run in three ways; prints one table of COCO PQ and CamVid mIoU (mean and standard deviation over the
seeds) and writes it to results.md. Finished runs and evaluations are not done again, an interrupted
run goes on.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
from experiments import FROZEN_NORM, REAL_DATA, WEIGHTS, markdown, options, pretrained, trained
from rich.console import Console

from segkit.commands.common import table
from segkit.inference.predict import predict_samples
from segkit.metrics.evaluate import evaluate
from segkit.recipes.schema import MaskForm
from segkit.runs.run import load_run
from segkit.shards.manifest import Task
from segkit.shards.publish import resolve
from segkit.shards.reader import ShardSet

OPTIONS: Mapping[str, tuple[str, ...]] = {
    "max": (),
    "max, score of the surest": ('loss.merge_scores="max"',),
    "max, score by mass": ('loss.merge_scores="mass"',),
    "sum": ('loss.merge_masks="sum"',),
    "noisy-or": ('loss.merge_masks="noisy-or"',),
    "max, by arg-max alone": ("loss.merge_threshold=0.0",),
    "nothing merged": ("loss.merge_threshold=1.0",),
}
"""How a run is trained, as overrides of the recipe."""
FORMS: tuple[MaskForm, ...] = get_args(MaskForm)
"""How a trained run is asked."""


def run_of(option: str, seed: int, arguments: argparse.Namespace) -> Path:
    """The published run of an option and a seed, trained first if there is none."""
    start = pretrained(arguments.weights) if arguments.weights.is_file() else [FROZEN_NORM]
    name = option.replace(",", "").replace(" ", "-")
    return trained(name, seed, arguments.data, [*start, *OPTIONS[option]], arguments)


def figures(path: Path, panoptic: ShardSet, semantic: ShardSet, cache: Path) -> list[float]:
    """PQ by each form, then mIoU by each form, of one run."""
    if cache.exists():
        kept: list[float] = json.loads(cache.read_text())
        return kept
    run = load_run(path)

    def scored(data: ShardSet, task: Task, setting: str, form: MaskForm) -> dict[str, Any]:
        config = run.recipe.inference.model_copy(update={setting: form})
        samples = predict_samples(
            run.model, run.table(data.taxonomy), data.taxonomy, data, task, config
        )
        return evaluate(data, samples, task)

    found = [scored(panoptic, "panoptic", "merge_masks", form)["all"]["pq"] for form in FORMS]
    found += [scored(semantic, "semantic", "merge_semantic", form)["miou"] for form in FORMS]
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text(json.dumps(found))
    return found


def main() -> None:
    parser = options(__doc__, out="merge", seeds=[0])
    parser.add_argument("--weights", type=Path, default=REAL_DATA / WEIGHTS)
    parser.add_argument(
        "--options", nargs="+", choices=OPTIONS, default=list(OPTIONS), metavar="OPTION"
    )
    arguments = parser.parse_args()
    arguments.data = [
        (str(resolve(arguments.sets / f"{name}-train")), 1.0) for name in ("coco", "camvid")
    ]
    panoptic, semantic = (
        ShardSet.open(arguments.sets / f"{name}-val") for name in ("coco", "camvid")
    )
    rows = []
    for option in arguments.options:
        seeds = [
            figures(run, panoptic, semantic, arguments.out / "figures" / f"{run.parent.name}.json")
            for run in (run_of(option, seed, arguments) for seed in arguments.seeds)
        ]
        mean, deviation = (
            np.mean(seeds, axis=0),
            np.std(seeds, axis=0, ddof=1) if len(seeds) > 1 else None,
        )
        spread = (
            [""] * len(mean) if deviation is None else [f" ± {value:.2f}" for value in deviation]
        )
        rows.append(
            (option, *(f"{value:.2f}{extra}" for value, extra in zip(mean, spread, strict=True)))
        )
    columns = (
        "trained by",
        *(f"COCO PQ, {form}" for form in FORMS),
        *(f"CamVid mIoU, {form}" for form in FORMS),
    )
    (arguments.out / "results.md").write_text(markdown(columns, rows))
    Console(width=140).print(
        table(f"MERGE: {arguments.steps} steps, seeds {arguments.seeds}", columns, rows)
    )


if __name__ == "__main__":
    main()
