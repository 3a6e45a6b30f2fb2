"""Options, training and tables that the scripts on real data share."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import t

from segkit.atomic import folder_lock, write_text
from segkit.commands.common import print_line, stderr
from segkit.demo.demo import convert_scenes, generate_scenes
from segkit.errors import InputError, SegkitError
from segkit.inference.run_teacher import RunTeacher
from segkit.inference.teacher import Teacher
from segkit.runs.open_run import load_run
from segkit.shards.reader import ShardSet
from segkit.shards.versions import resolve, versions
from segkit.storage import file_sha256
from segkit.training.train import train

ROOT = Path(__file__).parents[1]
REAL_DATA = Path(os.environ.get("SEGKIT_REAL_DATA", ROOT / ".." / "shared" / "data"))
WEIGHTS = Path("weights", "mobilenetv2_100.safetensors")
"""Backbone weights, inside the folder of the real data."""
FROZEN_NORM = "model.freeze_norm=true"
DIGEST = "digest"
"""Start of the names of inputs in settings.json."""


def run_script(main: Callable[[], None]) -> None:
    """Run a script; an error of segkit is one line on stderr and an exit code."""
    try:
        main()
    except SegkitError as error:
        print_line(f"error: {error}", style="red")
        sys.exit(error.exit_code)


def options(description: str | None, *, out: str, seeds: Sequence[int]) -> argparse.ArgumentParser:
    """Build a parser with the options of an experiment that trains several runs."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sets", type=Path, default=Path("real-out/sets"), help="shard sets of scripts/real.py"
    )
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--recipe", default="dataseg-mini")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a recipe key"
    )
    return parser


def parse(parser: argparse.ArgumentParser, *pinned: str) -> argparse.Namespace:
    """Parse the arguments of an experiment, whose runs and figures stay in --out.

    Args:
        parser: from `options`.
        pinned: arguments, beside --recipe, --steps and --set, to `pin`: the name of a run or a
            figure says nothing of them.

    Raises:
        InputError: --out holds runs of other arguments.
    """
    arguments = parser.parse_args()
    pin(arguments, {key: getattr(arguments, key) for key in ("recipe", "steps", "set", *pinned)})
    return arguments


def pin(arguments: argparse.Namespace, values: Mapping[str, object]) -> None:
    """Pin values that all calls with the same --out must share, in its settings.json.

    While --out holds neither runs nor figures, later calls may change them; those of inputs, from
    which an experiment makes sets in --out, stay.

    Args:
        arguments: from `parse`; keeps all pinned values, for `train_once`.
        values: by the name of an argument or of an input, as JSON.

    Raises:
        InputError: --out holds runs of other values.
    """
    arguments.pinned = getattr(arguments, "pinned", {}) | values
    file: Path = arguments.out / "settings.json"
    kept = json.loads(file.read_text()) if file.exists() else {}
    if not has_results(arguments.out):
        kept = {key: value for key, value in kept.items() if key.startswith(DIGEST)}
    for key, value in arguments.pinned.items():
        if kept.get(key, value) != value:
            name = f"--{key.replace('_', '-')}" if hasattr(arguments, key) else f"the {key}"
            message = f"{name} is {value}, but the runs here were made with {kept[key]}"
            raise InputError(message, file=file, hint="give another --out")
    text = json.dumps(kept | arguments.pinned, indent=1) + "\n"
    if not file.exists() or file.read_text() != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)


def has_results(out: Path) -> bool:
    """Whether an output directory holds a run, finished or not, or a figure."""
    folders = (out / "runs", out / "figures")
    return any(folder.is_dir() and any(folder.iterdir()) for folder in folders)


def pin_inputs(
    arguments: argparse.Namespace, sets: Iterable[str] = (), weights: Path | None = None
) -> None:
    """Pin the inputs of an experiment by their content.

    Args:
        arguments: from `parse`.
        sets: names of shard sets in --sets; those that are missing are left out.
        weights: file of backbone weights.

    Raises:
        InputError: as of `pin`.
    """
    folders = {name: arguments.sets / name for name in sets}
    values: dict[str, object] = {
        f"{DIGEST} of {name}": ShardSet.open(folder).manifest.digest
        for name, folder in folders.items()
        if versions(folder)
    }
    if weights is not None:
        values[f"{DIGEST} of the backbone weights"] = (
            file_sha256(weights) if weights.is_file() else ""
        )
    pin(arguments, values)


def backbone_overrides(weights: Path) -> list[str]:
    """Return overrides that load a backbone from a file of weights and freeze its batch norms."""
    return [f'model.backbone_weights="{weights.resolve()}"', FROZEN_NORM]


def train_once(
    name: str,
    seed: int,
    data: Sequence[tuple[str, float]],
    overrides: Sequence[str],
    arguments: argparse.Namespace,
    eval_data: Sequence[str] = (),
) -> Path:
    """Return the published run of a name and a seed; train or resume it if it is missing.

    Args:
        name: name of the run.
        seed: seed of training.
        data: shard sets and their sampling weights.
        overrides: changes to the recipe.
        arguments: values of the parser from `options`; its --set overrides `overrides`.
        eval_data: shard sets to evaluate on while training.
    """
    folder: Path = arguments.out / "runs" / f"{name}-seed{seed}"
    if not versions(folder):
        pin(arguments, {})  # a call with other values may have been faster
        stderr.print(f"{folder.name} ...")
        train(
            arguments.recipe,
            data,
            folder,
            eval_data=eval_data,
            steps=arguments.steps,
            overrides=[*overrides, f"training.seed={seed}", *arguments.set],
            resume=True,
        )
    return resolve(folder)


def slug(name: str) -> str:
    """The name of a row as a file name."""
    return "-".join("".join(c if c.isalnum() else " " for c in name).split())


def all_masks(run: Path, *, tta: bool = False) -> Teacher:
    """A run as a teacher whose masks all count."""
    return RunTeacher(load_run(run, "auto", ["inference.pseudo_score=0"]), tta=tta)


def kept_figures(
    file: Path, measure: Callable[[], dict[str, float] | None]
) -> dict[str, float] | None:
    """Figures from their file, or measured and written to it; None where there are none."""
    if not file.exists():
        figures = measure()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(figures, indent=1) + "\n")
        stderr.print(f"{file.stem}: {figures}")
    loaded: dict[str, float] | None = json.loads(file.read_text())
    return loaded


def scene_sets(out: Path) -> Path:
    """Folder of the demo's scenes as shard sets; generates and converts them if they are missing.

    All seeds of training share them. A second process is refused while one makes them.
    """
    folder = out / "sets"
    if not versions(folder / "hidden-val"):
        with folder_lock(out):
            convert_scenes(generate_scenes(out / "native", 0), folder, lambda done: None)
    return folder


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean over the seeds, and half the width of its 95 % t interval; None for a single seed."""
    mean = float(np.mean(values))
    if len(values) == 1:
        return mean, None
    quantile = float(t.ppf(0.975, len(values) - 1))
    return mean, quantile * float(np.std(values, ddof=1)) / float(np.sqrt(len(values)))


def interval(values: Sequence[float], decimals: int) -> str:
    """Mean and half the width of its interval as text; a single value has none."""
    mean, half = mean_interval(values)
    text = f"{mean:.{decimals}f}"
    return text if half is None else f"{text} ± {half:.{decimals}f}"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Write a table as Markdown."""
    lines = (columns, ("---",) * len(columns), *rows)
    return "".join(f"| {' | '.join(map(str, cells))} |\n" for cells in lines)
