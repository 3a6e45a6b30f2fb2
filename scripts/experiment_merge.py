"""The open choices of MERGE: train with each form, then decide the output by each form, on real data.

    python scripts/real.py                               # makes the shard sets
    python scripts/experiment_merge.py --sets real-out/sets --out merge --steps 500

Trains on the panoptic and the semantic set together, one run an option and a seed, and asks every run in three ways;
prints one table of COCO PQ and CamVid mIoU (mean and standard deviation over the seeds) and writes it to results.md.
Finished runs and evaluations are not done again, an interrupted run goes on.
"""

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import numpy as np
from rich.console import Console

from segkit.commands.common import stderr, table
from segkit.inference.predict import predict_samples
from segkit.metrics.evaluate import evaluate
from segkit.shards.publish import resolve, versions
from segkit.shards.reader import ShardSet
from segkit.supervision.config import MaskForm
from segkit.training.run import train
from segkit.training.run_reader import load_run

OPTIONS: Mapping[str, tuple[str, ...]] = {
    "max": (),
    "max, score of the surest": ('loss.merge_scores="max"',),
    "max, score by mass": ('loss.merge_scores="mass"',),
    "sum": ('loss.merge_masks="sum"',),
    "noisy-or": ('loss.merge_masks="noisy-or"',),
    "max, by arg-max alone": ("loss.merge_sure=0.0",),
    "nothing merged": ("loss.merge_sure=1.0",),
}
"""How a run is trained, as overrides of the recipe."""
FORMS: tuple[MaskForm, ...] = get_args(MaskForm)
"""How a trained run is asked."""


def run_of(option: str, seed: int, arguments: argparse.Namespace) -> Path:
    """The published run of an option and a seed, trained first if there is none."""
    name = option.replace(",", "").replace(" ", "-")
    folder: Path = arguments.out / "runs" / f"{name}-seed{seed}"
    if not versions(folder):
        stderr.print(f"{option}, seed {seed} ...")
        overrides = ["model.freeze_norm=true", f"training.seed={seed}", *OPTIONS[option], *arguments.set]
        if arguments.weights.is_file():
            overrides.insert(0, f'model.backbone_weights="{arguments.weights.resolve()}"')
        data = [(str(arguments.panoptic), 1.0), (str(arguments.semantic), 1.0)]
        train(arguments.recipe, data, folder, steps=arguments.steps, overrides=overrides, resume=True)
    return resolve(folder)


def figures(path: Path, panoptic: ShardSet, semantic: ShardSet, cache: Path) -> list[float]:
    """PQ by each form, then mIoU by each form, of one run."""
    if cache.exists():
        kept: list[float] = json.loads(cache.read_text())
        return kept
    run = load_run(path)
    found: list[float] = []
    for form in FORMS:
        config = run.recipe.inference.model_copy(update={"merge_masks": form})
        samples = predict_samples(
            run.model, run.table(panoptic.taxonomy), panoptic.taxonomy, panoptic, "panoptic", config
        )
        found.append(evaluate(panoptic, samples, "panoptic")["all"]["pq"])
    for form in FORMS:
        config = run.recipe.inference.model_copy(update={"merge_semantic": form})
        samples = predict_samples(
            run.model, run.table(semantic.taxonomy), semantic.taxonomy, semantic, "semantic", config
        )
        found.append(evaluate(semantic, samples, "semantic")["miou"])
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text(json.dumps(found))
    return found


def main() -> None:
    default = Path(os.environ.get("SEGKIT_REAL_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=Path, default=Path("real-out/sets"), help="shard sets that scripts/real.py made")
    parser.add_argument("--weights", type=Path, default=default / "weights" / "mobilenetv2_100.safetensors")
    parser.add_argument("--out", type=Path, default=Path("merge"))
    parser.add_argument("--recipe", default="dataseg-mini")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--options", nargs="+", choices=OPTIONS, default=list(OPTIONS), metavar="OPTION")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe")
    arguments = parser.parse_args()
    arguments.panoptic, arguments.semantic = (resolve(arguments.sets / f"{name}-train") for name in ("coco", "camvid"))
    panoptic, semantic = (ShardSet.open(arguments.sets / f"{name}-val") for name in ("coco", "camvid"))
    rows = []
    for option in arguments.options:
        seeds = [
            figures(run, panoptic, semantic, arguments.out / "figures" / f"{run.parent.name}.json")
            for run in (run_of(option, seed, arguments) for seed in arguments.seeds)
        ]
        mean, deviation = np.mean(seeds, axis=0), np.std(seeds, axis=0, ddof=1) if len(seeds) > 1 else None
        spread = [""] * len(mean) if deviation is None else [f" ± {value:.2f}" for value in deviation]
        rows.append((option, *(f"{value:.2f}{extra}" for value, extra in zip(mean, spread, strict=True))))
    columns = ("trained by", *(f"COCO PQ, {form}" for form in FORMS), *(f"CamVid mIoU, {form}" for form in FORMS))
    lines = [f"| {' | '.join(cells)} |" for cells in (columns, ("---",) * len(columns), *rows)]
    (arguments.out / "results.md").write_text("\n".join(lines) + "\n")
    Console(width=140).print(table(f"MERGE: {arguments.steps} steps, seeds {arguments.seeds}", columns, rows))


if __name__ == "__main__":
    main()
