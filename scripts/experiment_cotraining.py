"""Compare training on three data sets together with single sets and pairs (DaTaSeg's study).

    python scripts/experiment_cotraining.py --data scenes --per-set --out cotraining
    python scripts/real.py                                              # makes the real shard sets
    python scripts/experiment_cotraining.py --data real --sets real-out/sets --out cotraining-real

Seven combinations of a semantic set, a panoptic set and a set of boxes are trained, with several
seeds: each for --steps steps or, with --per-set, for --steps steps on each of its sets, times the
set's sampling weight, so that a set counts as often in every row. Every run is evaluated on the
semantic set (mIoU), the panoptic set (PQ) and the hidden masks of the boxes (mask AP); on a set
that it was not trained on, it gets only the class names. The script prints the table and writes
results.json, results.md and curves.png.

Finished runs are reused and an interrupted one resumes, so processes may train different seeds
(`--seeds 0`, `--seeds 1`, ...); a last call with all seeds writes the table of all.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from experiments import (
    REAL_DATA,
    WEIGHTS,
    backbone_overrides,
    interval,
    markdown,
    options,
    parse,
    pin_inputs,
    run_script,
    scene_sets,
    train_once,
)
from matplotlib.figure import Figure
from rich.console import Console

from segkit.benchmark import objects365_instances
from segkit.commands.common import table
from segkit.demo.demo import SETTINGS
from segkit.demo.layouts import NativeSets
from segkit.runs.run_manifest import METRICS
from segkit.shards.reader import ShardSet
from segkit.shards.versions import resolve, versions

SAMPLING_WEIGHTS = {"semantic": 1.0, "panoptic": 2.0, "boxes": 1.0}
ROWS: tuple[tuple[str, ...], ...] = (
    ("semantic",),
    ("panoptic",),
    ("boxes",),
    ("semantic", "boxes"),
    ("panoptic", "boxes"),
    ("semantic", "panoptic"),
    ("semantic", "panoptic", "boxes"),
)
FIGURES = {
    "semantic": ("mIoU", ("miou",)),
    "panoptic": ("PQ", ("all", "pq")),
    "boxes": ("AP", ("ap",)),
}
"""Data set -> name of its figure, and the path of its value in the metrics."""
REAL_SETS = {"semantic": "camvid", "panoptic": "coco", "boxes": "standin"}
"""Data set -> name of the real one."""
Curve = list[tuple[int, float]]
"""Step and figure of each evaluation."""
Results = dict[tuple[str, ...], list[dict[str, Curve]]]
"""Training sets -> for each seed, the curve on each data set."""


@dataclass(frozen=True)
class Sets:
    """The shard sets of the experiment, and what they change in the recipe."""

    overrides: Sequence[str]
    titles: Mapping[str, str]
    """Data set -> its name in the table."""
    train: Mapping[str, Path]
    val: Mapping[str, Path]
    """The boxes' has the masks that training does not see."""

    def label(self, row: Sequence[str]) -> str:
        """Name of a row in the table."""
        return " + ".join(self.titles[name] for name in row)

    def columns(self) -> Iterator[tuple[str, str]]:
        """Each data set with the title of its figure."""
        return ((name, f"{self.titles[name]} {figure}") for name, (figure, _) in FIGURES.items())


def demo_sets(out: Path) -> Sets:
    """The demo's scenes."""
    folder, native = scene_sets(out), NativeSets(out / "native")
    hidden = hidden_masks(native.objects365_masks, native.objects365_images, out / "hidden-masks")
    return Sets(
        SETTINGS,
        titles={name: name for name in FIGURES},
        train={name: resolve(folder / f"{name}-train") for name in FIGURES},
        val={
            "semantic": resolve(folder / "semantic-val"),
            "panoptic": resolve(folder / "panoptic-val"),
            "boxes": hidden,
        },
    )


def real_sets(sets: Path, out: Path) -> Sets:
    """CamVid, COCO panoptic and the stand-in for Objects365 that scripts/real.py converted."""
    file = REAL_DATA / "objects365_standin" / "annotations" / "o365_instance_seg_val.json"
    hidden = hidden_masks(file, REAL_DATA / "coco", out / "standin-masks")
    return Sets(
        backbone_overrides(REAL_DATA / WEIGHTS),
        titles={"semantic": "CamVid", "panoptic": "COCO", "boxes": "stand-in"},
        train={name: resolve(sets / f"{folder}-train") for name, folder in REAL_SETS.items()},
        val={
            "semantic": resolve(sets / "camvid-val"),
            "panoptic": resolve(sets / "coco-val"),
            "boxes": hidden,
        },
    )


def hidden_masks(annotations: Path, images: Path, out: Path) -> Path:
    """The validation boxes with their masks and images; converted if they are missing."""
    if not versions(out):
        source = objects365_instances.open_annotations(annotations, images)
        checked = objects365_instances.check_file(source, find_images=False)
        objects365_instances.convert_ground_truth(
            source, checked, out, with_images=True, on_progress=lambda images: None
        )
    return resolve(out)


def train_row(row: Sequence[str], seed: int, arguments: argparse.Namespace, sets: Sets) -> Path:
    """Return the published run of a row and a seed; train it first if there is none."""
    options = argparse.Namespace(**vars(arguments))
    if arguments.per_set:
        options.steps = round(arguments.steps * sum(SAMPLING_WEIGHTS[name] for name in row))
    every = max(1, options.steps // arguments.points)
    overrides = [*sets.overrides, f"training.evaluate_every={every}"]
    data = [(str(sets.train[name]), SAMPLING_WEIGHTS[name]) for name in row]
    val = [str(path) for path in sets.val.values()]
    return train_once("-".join(row), seed, data, overrides, options, val)


def curves_of(run: Path, sets: Sets) -> dict[str, Curve]:
    """Read the figure by step on each data set from the run's log."""
    names = {ShardSet.open(path).manifest.name: name for name, path in sets.val.items()}
    curves: dict[str, Curve] = {name: [] for name in sets.val}
    for line in (run / METRICS).read_text("utf-8").splitlines():
        record = json.loads(line)
        if "evaluation" in record:
            name = names[record["evaluation"]]
            value = record["metrics"]
            for key in FIGURES[name][1]:
                value = value[key]
            curves[name].append((record["step"], value))
    return curves


def table_rows(results: Results, sets: Sets) -> Iterator[tuple[str, ...]]:
    """The last figures of each row over the seeds."""
    for row, seeds in results.items():
        last = [[curves[name][-1][1] for curves in seeds] for name in FIGURES]
        yield (sets.label(row), str(len(seeds)), *(interval(values, 2) for values in last))


def draw(results: Results, sets: Sets, file: Path) -> None:
    """Plot the mean over the seeds by step, with their range, in a panel per data set."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    for panel, (name, title) in zip(figure.subplots(1, len(FIGURES)), sets.columns(), strict=True):
        for row, seeds in results.items():
            steps = [step for step, _ in seeds[0][name]]
            values = np.array([[value for _, value in curves[name]] for curves in seeds])
            label = sets.label(row)
            (line,) = panel.plot(steps, values.mean(0), marker="o", markersize=3, label=label)
            panel.fill_between(
                steps, values.min(0), values.max(0), color=line.get_color(), alpha=0.12, linewidth=0
            )
        panel.set(title=title, xlabel="step", ylim=(0, None))
        panel.grid(alpha=0.3)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=4, title="trained on", frameon=False
    )
    figure.savefig(file, dpi=110)


def write(results: Results, sets: Sets, arguments: argparse.Namespace) -> None:
    """Write results.json, results.md and curves.png, and print the table."""
    rows = list(table_rows(results, sets))
    columns = ("trained on", "seeds", *(title for _, title in sets.columns()))
    by_label = {sets.label(row): seeds for row, seeds in results.items()}
    (arguments.out / "results.json").write_text(json.dumps(by_label, indent=1) + "\n")
    (arguments.out / "results.md").write_text(markdown(columns, rows))
    draw(results, sets, arguments.out / "curves.png")
    steps = f"{arguments.steps} steps{' per set and weight' if arguments.per_set else ''}"
    Console().print(table(f"{steps}, seeds {arguments.seeds}", columns, rows))


def main() -> None:
    parser = options(__doc__, out="cotraining", seeds=[0, 1, 2])
    parser.add_argument("--data", choices=("scenes", "real"), default="scenes")
    parser.add_argument("--points", type=int, default=3, help="evaluations along each curve")
    parser.add_argument(
        "--per-set",
        action="store_true",
        help="train a row for --steps steps on each of its sets, times the set's sampling weight",
    )
    arguments = parse(parser, "data", "per_set", "points")
    scenes = arguments.data == "scenes"
    if not scenes:
        names = [f"{name}-{part}" for name in REAL_SETS.values() for part in ("train", "val")]
        pin_inputs(arguments, names, REAL_DATA / WEIGHTS)
    sets = demo_sets(arguments.out) if scenes else real_sets(arguments.sets, arguments.out)
    results: Results = {}
    for seed in arguments.seeds:
        for row in ROWS:
            run = train_row(row, seed, arguments, sets)
            results.setdefault(row, []).append(curves_of(run, sets))
            write(results, sets, arguments)


if __name__ == "__main__":
    run_script(main)
