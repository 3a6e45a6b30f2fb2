"""Measure what pseudo-masks are worth: train one model on them, on boxes, and on true masks.

    python scripts/experiment_downstream.py --out downstream --set training.precision=bf16
    python scripts/real.py                                          # makes the real shard sets
    python scripts/experiment_downstream.py --data real --sets real-out/sets \\
        --out downstream-real --labeler real-out/labeler

Each row trains `--recipe` on the same images and nothing else: with boxes, with ellipses in them,
with pseudo-masks, or with the true masks. On the demo's scenes, 500 new scenes have boxes; for each
seed, a labeler trains on the demo's panoptic masks and on these boxes, and labels them. On the real
data, the images are those of the stand-in for Objects365, and --labeler is a trained run. Mask AP
and the IoU of masks for true boxes are those of the validation images.

Finished runs and figures are reused and an interrupted run resumes, so processes may train
different seeds or `--rows`; a last call with all seeds writes downstream.md.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from experiments import (
    DIGEST,
    REAL_DATA,
    WEIGHTS,
    all_masks,
    backbone_overrides,
    interval,
    kept_figures,
    markdown,
    options,
    parse,
    pin,
    pin_inputs,
    run_script,
    scene_sets,
    slug,
    train_once,
)
from rich.console import Console
from transfer_sets import boxes_and_masks, true_masks

from segkit.commands.common import table
from segkit.demo.demo import SETTINGS
from segkit.demo.layouts import write_native_sets
from segkit.inference.open_teacher import open_teacher
from segkit.inference.outputs import predict_set
from segkit.inference.pseudolabel import pseudolabel
from segkit.inference.teacher import Teacher
from segkit.metrics.box_prompt_iou import evaluate_box_prompts
from segkit.metrics.evaluate import evaluate
from segkit.runs.open_run import load_run
from segkit.runs.run_manifest import manifest_of
from segkit.shards.reader import ShardSet
from segkit.shards.versions import resolve, versions

SCENES = 500
"""New scenes with boxes, as many as the demo has."""
SEED = 1
"""Of the new scenes; the demo's own have 0."""
ROWS = ("boxes", "ellipses", "pseudo-masks", "true masks")
REAL_SETS = ("standin-train", "standin-val", "standin-truth")
FIGURES = {
    "label_iou": ("IoU of the labels", 3),
    "mask_ap": ("mask AP", 1),
    "box_iou": ("box-prompted IoU", 3),
}
"""Figure -> its title and decimals."""


@dataclass(frozen=True)
class Sets:
    """The sets of the experiment, and what they change in the recipe."""

    overrides: tuple[str, ...]
    boxes: ShardSet
    truth: ShardSet
    """True masks of `boxes`."""
    val: ShardSet
    hidden: ShardSet
    """True masks of `val`."""
    masks: ShardSet | None = None
    """Masks of other images, for the labeler of the scenes."""


def demo_sets(out: Path) -> Sets:
    """Open the demo's scenes, and new ones; generate and convert what is missing."""
    folder = scene_sets(out)
    names = ("boxes-val", "hidden-val", "panoptic-train")
    val, hidden, masks = (ShardSet.open(folder / name) for name in names)
    new = out / "new-scenes"
    if not versions(new / "masks"):
        native = write_native_sets(new / "native", train=1, val=SCENES, seed=SEED)
        boxes, truth = boxes_and_masks(native, new)
    else:
        boxes, truth = ShardSet.open(new / "boxes"), ShardSet.open(new / "masks")
    return Sets(SETTINGS, boxes, truth, val, hidden, masks)


def real_sets(sets: Path, out: Path) -> Sets:
    """Open the stand-in for Objects365 that scripts/real.py converted, and its true masks."""
    boxes, val, hidden = (ShardSet.open(sets / name) for name in REAL_SETS)
    truth = true_masks(REAL_DATA / "coco", out / "true-masks")
    return Sets(tuple(backbone_overrides(REAL_DATA / WEIGHTS)), boxes, truth, val, hidden)


class Experiment:
    """Sets, runs and figures of an output directory."""

    def __init__(self, sets: Sets, arguments: argparse.Namespace) -> None:
        self.sets, self.arguments, self.out = sets, arguments, arguments.out

    def figures(self, name: str, seed: int) -> dict[str, float]:
        """Figures of a row and a seed."""
        file = self.out / "figures" / f"{slug(name)}-seed{seed}.json"
        figures = kept_figures(file, lambda: self._measure(name, seed))
        assert figures is not None
        return figures

    def _measure(self, name: str, seed: int) -> dict[str, float]:
        labels, sets = self._labels(name, seed), self.sets
        data = [(str(labels.path), 1.0)]
        path = train_once(slug(name), seed, data, sets.overrides, self.arguments)
        run = load_run(path, "auto")
        folder = self.out / "predictions" / f"{slug(name)}-seed{seed}"
        instances = predict_set(run, sets.val, "instance", folder / "instances")
        prompted, _ = pseudolabel(all_masks(run.path), sets.val, folder / "masks")
        figures = {
            "mask_ap": evaluate(sets.hidden, instances, "instance").metrics["ap"],
            "box_iou": box_iou(sets.hidden, prompted),
        }
        if name not in ("boxes", "true masks"):
            figures["label_iou"] = box_iou(sets.truth, labels)
        return figures

    def _labels(self, name: str, seed: int) -> ShardSet:
        """The labels that a row trains on."""
        if name in ("boxes", "true masks"):
            return self.sets.boxes if name == "boxes" else self.sets.truth
        folder = self.out / "labels" / f"{name}-seed{0 if name == 'ellipses' else seed}"
        if not versions(folder):
            teacher = open_teacher("ellipse") if name == "ellipses" else self._labeler(seed)
            pseudolabel(teacher, self.sets.boxes, folder)
        return ShardSet.open(folder)

    def _labeler(self, seed: int) -> Teacher:
        """The run that is given, or one that trains on masks of other images and on the boxes."""
        run = self.arguments.labeler
        if self.sets.masks is not None:
            data = [(str(self.sets.masks.path), 2.0), (str(self.sets.boxes.path), 1.0)]
            run = train_once("labeler", seed, data, self.sets.overrides, self.arguments)
        return all_masks(run)


def box_iou(truth: ShardSet, masks: ShardSet) -> float:
    """Mean IoU of the masks of boxes with the true ones; 0 where there is none."""
    result = evaluate_box_prompts(truth.samples(), masks.samples(), truth.taxonomy)
    return float(result["mean_iou"])


def rows_of(experiment: Experiment, names: list[str], seeds: list[int]) -> list[list[str]]:
    """One line for each kind of label, with intervals over the seeds."""
    lines = []
    for name in names:
        figures = [experiment.figures(name, seed) for seed in seeds]
        cells = [
            interval([f[key] for f in figures], digits) if key in figures[0] else "-"
            for key, (_, digits) in FIGURES.items()
        ]
        lines.append([name, *cells, str(len(figures))])
    return lines


def main() -> None:
    parser = options(__doc__, out="downstream", seeds=[0, 1, 2])
    parser.set_defaults(steps=300)
    parser.add_argument("--data", choices=("scenes", "real"), default="scenes")
    parser.add_argument("--labeler", type=Path, help="trained run, for the real data")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    arguments = parse(parser, "data")
    if (arguments.data == "real") != (arguments.labeler is not None):
        parser.error("--data real needs --labeler, and only it takes one")
    is_real = arguments.data == "real"
    if is_real:
        pin(arguments, {f"{DIGEST} of the labeler": manifest_of(resolve(arguments.labeler)).digest})
        pin_inputs(arguments, REAL_SETS, REAL_DATA / WEIGHTS)
    sets = real_sets(arguments.sets, arguments.out) if is_real else demo_sets(arguments.out)
    rows = rows_of(Experiment(sets, arguments), arguments.rows, list(arguments.seeds))
    changes = "".join(f" --set {item}" for item in arguments.set)
    title = f"{arguments.data}, {arguments.steps} steps{changes}, seeds {list(arguments.seeds)}"
    columns = ("trained on", *(name for name, _ in FIGURES.values()), "seeds")
    (arguments.out / "downstream.md").write_text(f"{title}\n\n{markdown(columns, rows)}")
    Console().print(table(title, columns, rows))


if __name__ == "__main__":
    run_script(main)
