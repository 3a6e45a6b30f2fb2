"""What scripts that train on real data share: where it lies, options, runs that are trained once,
tables."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from segkit.commands.common import stderr
from segkit.shards.publish import resolve, versions
from segkit.training.run import train

REAL_DATA = Path(
    os.environ.get("SEGKIT_REAL_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")
)
WEIGHTS = Path("weights", "mobilenetv2_100.safetensors")
"""Those of the backbone, in the real data's folder."""
FROZEN_NORM = "model.freeze_norm=true"


def options(description: str | None, *, out: str, seeds: Sequence[int]) -> argparse.ArgumentParser:
    """A parser with the options of a study of several runs."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sets",
        type=Path,
        default=Path("real-out/sets"),
        help="shard sets that scripts/real.py made",
    )
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--recipe", default="dataseg-mini")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe"
    )
    return parser


def pretrained(weights: Path) -> list[str]:
    """Overrides of a recipe that start its backbone from a file of weights and keep their
    statistics."""
    return [f'model.backbone_weights="{weights.resolve()}"', FROZEN_NORM]


def trained(
    name: str,
    seed: int,
    data: Sequence[tuple[str, float]],
    overrides: Sequence[str],
    given: argparse.Namespace,
    eval_data: Sequence[str] = (),
) -> Path:
    """The published run of a name and a seed, trained first if there is none; an interrupted
    training goes on.

    `given` holds what `options` asks for; its --set comes last.
    """
    folder: Path = given.out / "runs" / f"{name}-seed{seed}"
    if not versions(folder):
        stderr.print(f"{folder.name} ...")
        changed = [*overrides, f"training.seed={seed}", *given.set]
        train(
            given.recipe,
            data,
            folder,
            eval_data=eval_data,
            steps=given.steps,
            overrides=changed,
            resume=True,
        )
    return resolve(folder)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table for docs/results.md."""
    lines = (columns, ("---",) * len(columns), *rows)
    return "".join(f"| {' | '.join(map(str, cells))} |\n" for cells in lines)
