"""Compare co-training on real data with training on single sets and on pairs (DaTaSeg's study).

    python scripts/real.py                               # makes the shard sets
    python scripts/experiment_cotraining.py --sets real-out/sets --out cotraining

Seven combinations of training sets are trained for the same number of steps, with several seeds.
Every run is evaluated on CamVid (mIoU), COCO (PQ) and the hidden masks of the Objects365 stand-in
(mask AP); on a set that it was not trained on, it gets only the class names. The script prints the
table and writes results.json, results.md and curves.png.

Finished runs are reused and an interrupted one resumes, so processes may train different seeds
(`--seeds 0`, `--seeds 1`, ...); a last call with all seeds writes the table of all.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from experiments import (
    REAL_DATA,
    WEIGHTS,
    backbone_overrides,
    markdown,
    options,
    run_script,
    train_once,
)
from matplotlib.figure import Figure
from rich.console import Console

from segkit.benchmark import objects365_instances
from segkit.commands.common import table
from segkit.runs.run_manifest import METRICS
from segkit.shards.publish import resolve, versions
from segkit.shards.reader import ShardSet

SAMPLING_WEIGHTS = {"camvid": 1.0, "coco": 2.0, "standin": 1.0}
ROWS: tuple[tuple[str, ...], ...] = (
    ("camvid",),
    ("coco",),
    ("standin",),
    ("camvid", "standin"),
    ("coco", "standin"),
    ("camvid", "coco"),
    ("camvid", "coco", "standin"),
)
FIGURES = {
    "camvid": ("CamVid mIoU", ("miou",)),
    "coco": ("COCO PQ", ("all", "pq")),
    "standin": ("Stand-in AP", ("ap",)),
}
"""Data set -> name of its figure, and the path of its value in the metrics."""
Curve = list[tuple[int, float]]
"""Step and figure of each evaluation."""
Results = dict[tuple[str, ...], list[dict[str, Curve]]]
"""Training sets -> for each seed, the curve on each data set."""


def label(row: Sequence[str]) -> str:
    return " + ".join(row)


def evaluation_sets(sets: Path, out: Path, data: Path) -> dict[str, Path]:
    """Return the validation sets; the stand-in's has the masks that training does not see."""
    hidden = out / "standin-masks"
    if not versions(hidden):
        file = data / "objects365_standin" / "annotations" / "o365_instance_seg_val.json"
        source = objects365_instances.open_annotations(file, data / "coco")
        checked = objects365_instances.check_file(source, find_images=False)
        objects365_instances.convert_ground_truth(
            source, checked, hidden, with_images=True, on_progress=lambda images: None
        )
    return {
        "camvid": resolve(sets / "camvid-val"),
        "coco": resolve(sets / "coco-val"),
        "standin": resolve(hidden),
    }


def train_row(
    row: Sequence[str], seed: int, arguments: argparse.Namespace, eval_sets: dict[str, Path]
) -> Path:
    """Return the published run of a row and a seed; train it first if there is none."""
    every = max(1, arguments.steps // arguments.points)
    overrides = [*backbone_overrides(arguments.data / WEIGHTS), f"training.evaluate_every={every}"]
    data = [
        (str(resolve(arguments.sets / f"{name}-train")), SAMPLING_WEIGHTS[name]) for name in row
    ]
    return train_once(
        "-".join(row), seed, data, overrides, arguments, [str(path) for path in eval_sets.values()]
    )


def curves_of(run: Path, eval_sets: dict[str, Path]) -> dict[str, Curve]:
    """Read the figure by step on each data set from the run's log."""
    names = {ShardSet.open(path).manifest.name: name for name, path in eval_sets.items()}
    curves: dict[str, Curve] = {name: [] for name in eval_sets}
    for line in (run / METRICS).read_text("utf-8").splitlines():
        record = json.loads(line)
        if "evaluation" in record:
            name = names[record["evaluation"]]
            value = record["metrics"]
            for key in FIGURES[name][1]:
                value = value[key]
            curves[name].append((record["step"], value))
    return curves


def table_rows(results: Results) -> Iterator[tuple[str, ...]]:
    """Mean and standard deviation over the seeds of each row's last figures."""
    for row, seeds in results.items():
        last = {name: [curves[name][-1][1] for curves in seeds] for name in FIGURES}
        yield (
            label(row),
            *(
                f"{np.mean(v):.2f} ± {np.std(v, ddof=1) if len(v) > 1 else 0:.2f}"
                for v in last.values()
            ),
        )


def draw(results: Results, file: Path) -> None:
    """Plot the mean over the seeds by step, with their range, in a panel per data set."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    for panel, (name, (title, _)) in zip(
        figure.subplots(1, len(FIGURES)), FIGURES.items(), strict=True
    ):
        for row, seeds in results.items():
            steps = [step for step, _ in seeds[0][name]]
            values = np.array([[value for _, value in curves[name]] for curves in seeds])
            (line,) = panel.plot(steps, values.mean(0), marker="o", markersize=3, label=label(row))
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


def main() -> None:
    parser = options(__doc__, out="cotraining", seeds=[0, 1, 2])
    parser.add_argument(
        "--data", type=Path, default=REAL_DATA, help="the real data, with weights and hidden masks"
    )
    parser.add_argument("--points", type=int, default=3, help="evaluations along each curve")
    arguments = parser.parse_args()
    eval_sets = evaluation_sets(arguments.sets, arguments.out, arguments.data)
    results: Results = {row: [] for row in ROWS}
    for seed in arguments.seeds:
        for row in ROWS:
            run = train_row(row, seed, arguments, eval_sets)
            results[row].append(curves_of(run, eval_sets))
    rows = list(table_rows(results))
    columns = ("trained on", *(title for title, _ in FIGURES.values()))
    by_label = {label(row): seeds for row, seeds in results.items()}
    (arguments.out / "results.json").write_text(json.dumps(by_label, indent=1) + "\n")
    (arguments.out / "results.md").write_text(markdown(columns, rows))
    draw(results, arguments.out / "curves.png")
    Console().print(table(f"{arguments.steps} steps, seeds {arguments.seeds}", columns, rows))


if __name__ == "__main__":
    run_script(main)
