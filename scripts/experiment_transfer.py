"""Compare ways from boxes to masks on real images.

    python scripts/real.py                                          # makes the shard sets
    python scripts/experiment_transfer.py --sets real-out/sets --out transfer --seeds 0

Mean IoU with the hidden masks of the 864 boxes of the stand-in's validation images.
Shapes and GrabCut need no training. The other rows train `box-labeler-mini` on the boxes of the
stand-in's training images, on masks of other data (COCO panoptic and CamVid), or on both, for the
same number of steps; each row from `+ boxes` to `+ prompt maps` adds to the one before.
Self-training continues the last of them for --round-steps a round; its control sees the boxes again
for as long. The oracle is the same model with the true masks of the boxes. The rows after it change
one thing of `+ prompt maps` each.

No score threshold is applied; an empty mask counts as IoU 0. Finished runs and figures are reused
and an interrupted run resumes, so processes may train different seeds or `--rows`; a last call with
all seeds writes the table and a chart, `masks.md` and `masks.png`.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from experiments import (
    REAL_DATA,
    WEIGHTS,
    all_masks,
    backbone_overrides,
    interval,
    kept_figures,
    markdown,
    mean_interval,
    options,
    parse,
    pin_inputs,
    run_script,
    slug,
    train_once,
)
from matplotlib.figure import Figure
from rich.console import Console
from transfer_sets import held_out, pasted, stuff_as_things, true_masks

from segkit.commands.common import table
from segkit.inference.open_teacher import open_teacher
from segkit.inference.pseudolabel import pseudolabel
from segkit.inference.teacher import Teacher
from segkit.metrics.box_prompt_iou import BoxPromptIoU
from segkit.shards.reader import ShardSet
from segkit.training.selftrain import selftrain

BOXES, OTHER_MASKS = {"standin-train": 1.0}, {"coco-train": 6.0, "camvid-train": 1.0}
TRUE_MASKS, STUFF, PASTED = "standin-masks", "coco-stuff-as-things", "standin-pasted"
SETS = ("standin-train", "standin-val", "standin-truth", "coco-train", "coco-val", "camvid-train")
"""Sets of scripts/real.py that some row reads."""
OFF = ("loss.max_box_prompts=0", "model.prompt_maps=false")
ONE_PROMPT = ("loss.max_box_prompts=1", "model.prompt_maps=false")
MAPS = ("loss.max_box_prompts=1", "model.prompt_maps=true")
SHAPES = {"filled box": "box", "inscribed ellipse": "ellipse", "GrabCut": "grabcut"}
"""Row -> teacher without training."""
FIGURES = {"mean_iou": "mean IoU", "small": "small", "medium": "medium", "large": "large"}


@dataclass(frozen=True)
class Row:
    """A row of trained labelers."""

    sets: Mapping[str, float]
    """Name of each training set and its sampling weight."""
    overrides: tuple[str, ...]


ROWS: Mapping[str, Row] = {
    "projection": Row(BOXES, (*OFF, "loss.pairwise=0")),
    "projection + pairwise": Row(BOXES, OFF),
    "masks of other data": Row(OTHER_MASKS, OFF),
    "+ boxes": Row(OTHER_MASKS | BOXES, OFF),
    "+ one prompt a crop": Row(OTHER_MASKS | BOXES, ONE_PROMPT),
    "+ prompt maps": Row(OTHER_MASKS | BOXES, MAPS),
    "oracle": Row({TRUE_MASKS: 1.0}, MAPS),
    "no pairwise": Row(OTHER_MASKS | BOXES, (*MAPS, "loss.pairwise=0")),
    "no boxes": Row(OTHER_MASKS, MAPS),
    "crops of 192 pixels": Row(
        OTHER_MASKS | BOXES, (*MAPS, "data.image_size=192", "data.batch_size=14")
    ),
    "box noise 0.1": Row(OTHER_MASKS | BOXES, (*MAPS, "loss.box_noise=0.1")),
    "frozen backbone": Row(OTHER_MASKS | BOXES, (*MAPS, "optimizer.backbone_lr_factor=0.0")),
    "stuff as prompts": Row({STUFF: 6.0, "camvid-train": 1.0} | BOXES, MAPS),
    "heavier outlines": Row(OTHER_MASKS | BOXES, (*MAPS, "loss.outline=4")),
    "copy-paste": Row(OTHER_MASKS | {PASTED: 1.0}, MAPS),
}
BEST = "+ prompt maps"
"""The row that self-training continues."""
AUGMENTED = "+ test-time augmentation"
"""The masks of `BEST` by `pseudolabel --tta`."""
ROUNDS = 3
CONTROL = "boxes again (control of round 1)"
ALL_ROWS = (
    *SHAPES,
    *ROWS,
    AUGMENTED,
    CONTROL,
    *(f"self-training {k}" for k in range(1, ROUNDS + 1)),
)
Figures = dict[str, float]
Measured = Mapping[str, Mapping[int, Figures]]
"""Row -> seed -> figures."""


class Experiment:
    """Sets, runs and figures of an output directory."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.out = arguments, arguments.out
        self.backbone = backbone_overrides(REAL_DATA / WEIGHTS)
        self.val, self.truth = (self.open(name) for name in ("standin-val", "standin-truth"))

    def open(self, name: str) -> ShardSet:
        """A set of scripts/real.py, or one that is made from them or from their sources."""
        folder = self.out / "sets" / name
        if name == TRUE_MASKS:
            return true_masks(REAL_DATA / "coco", folder)
        if name == STUFF:
            return stuff_as_things(self.open("coco-train"), folder)
        if name == PASTED:
            return pasted(self.open("standin-train"), self.open("coco-train"), folder)
        return ShardSet.open(self.arguments.sets / name)

    # --- masks ---

    def figures(self, name: str, seed: int) -> Figures | None:
        """Figures of a row and a seed; None for a round after the end of self-training."""
        file = self.out / "figures" / f"{slug(name)}-seed{seed}.json"
        return kept_figures(file, lambda: self._measure(name, seed))

    def _measure(self, name: str, seed: int) -> Figures | None:
        if name in SHAPES:
            score = 0.0 if name == "GrabCut" else None
            return self._score(name, seed, open_teacher(SHAPES[name], min_score=score))
        run = self.run(BEST if name == AUGMENTED else name, seed)
        tta = name == AUGMENTED
        return None if run is None else self._score(name, seed, all_masks(run, tta=tta))

    def _score(self, name: str, seed: int, teacher: Teacher) -> Figures:
        """Label the validation boxes and compare the masks with the hidden ones."""
        layer, _ = pseudolabel(teacher, self.val, self.out / "masks" / f"{slug(name)}-seed{seed}")
        metric = BoxPromptIoU(self.truth.taxonomy)
        predictions = {sample.id: sample for sample in layer.samples()}
        truth = list(self.truth.samples())
        metric.update(truth, [predictions[sample.id] for sample in truth])
        result = metric.compute()
        return {"mean_iou": result["mean_iou"], **result["per_size"]}

    def run(self, name: str, seed: int) -> Path | None:
        """The run of a row and a seed; trained, or resumed, if it is missing."""
        if name.startswith("self-training"):
            return self._rounds(seed, int(name.split()[-1]))
        arguments, extra = self.arguments, []
        row = ROWS[BEST if name == CONTROL else name]
        if name == CONTROL:
            arguments = argparse.Namespace(**vars(arguments) | {"steps": arguments.round_steps})
            extra = [f"model.init_from={json.dumps(str(self.run(BEST, seed)))}"]
        data = [(str(self.open(key).path), weight) for key, weight in row.sets.items()]
        return train_once(
            slug(name), seed, data, [*self.backbone, *row.overrides, *extra], arguments
        )

    def _rounds(self, seed: int, number: int) -> Path | None:
        """The run of a round; None if the held-out score ended self-training before it."""
        result = selftrain(
            self.arguments.recipe,
            [(str(self.open(key).path), weight) for key, weight in OTHER_MASKS.items()],
            (str(self.open("standin-train").path), self.arguments.layer_weight),
            self.out / "selftrain" / f"seed{seed}",
            rounds=number,
            held_out=str(
                held_out(self.open("coco-val"), self.val, self.out / "sets" / "held-out").path
            ),
            checkpoint=str(self.run(BEST, seed)),
            round_steps=self.arguments.round_steps,
            overrides=[
                *self.backbone,
                *ROWS[BEST].overrides,
                f"training.seed={seed}",
                *self.arguments.set,
            ],
        )
        return Path(result.rounds[number]["run"]) if number < len(result.rounds) else None


def measure_rows(experiment: Experiment, rows: Sequence[str], seeds: Sequence[int]) -> Measured:
    """Figures of each row and seed that there are; shapes have one figure, without a seed."""
    measured: dict[str, dict[int, Figures]] = {}
    for name in rows:
        used = [0] if name in SHAPES else seeds
        figures = {seed: experiment.figures(name, seed) for seed in used}
        measured[name] = {seed: found for seed, found in figures.items() if found is not None}
    return {name: by_seed for name, by_seed in measured.items() if by_seed}


def mask_rows(measured: Measured) -> list[list[str]]:
    """One line for each row, with intervals over the seeds and over the differences from `BEST`.

    Differences are between figures of one seed.
    """
    base = measured.get(BEST, {})
    lines = []
    for name, by_seed in measured.items():
        cells = [interval([f[key] for f in by_seed.values()], 3) for key in FIGURES]
        pairs = [] if name in (*SHAPES, BEST) else sorted(by_seed.keys() & base.keys())
        gains = [by_seed[seed]["mean_iou"] - base[seed]["mean_iou"] for seed in pairs]
        lines.append([name, *cells, interval(gains, 4) if gains else "-", str(len(by_seed))])
    return lines


def draw(measured: Measured, file: Path) -> None:
    """Plot the mean IoU of each row with its interval, and a line at `BEST` where it is measured.

    Rows with two seeds or one have points instead of an interval.
    """
    figure = Figure(figsize=(9, 0.32 * len(measured) + 1), layout="constrained")
    panel = figure.subplots()
    for row, by_seed in enumerate(measured.values()):
        values = [f["mean_iou"] for f in by_seed.values()]
        mean, half = mean_interval(values)
        if len(values) > 2:
            panel.errorbar(mean, row, xerr=half, marker="o", color="tab:blue", capsize=3)
        else:
            panel.plot(values, [row] * len(values), "o", color="gray", markersize=4)
    if BEST in measured:
        best = np.mean([f["mean_iou"] for f in measured[BEST].values()])
        panel.axvline(float(best), color="tab:blue", linewidth=0.8, linestyle=":")
    panel.set_yticks(range(len(measured)), list(measured))
    panel.invert_yaxis()
    panel.set(xlabel="mean IoU with the hidden masks")
    panel.grid(axis="x", alpha=0.3)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = options(__doc__, out="transfer", seeds=[0, 1, 2])
    parser.set_defaults(recipe="box-labeler-mini", steps=600)
    parser.add_argument("--rows", nargs="+", choices=ALL_ROWS, default=ALL_ROWS, metavar="ROW")
    parser.add_argument("--round-steps", type=int, default=200)
    parser.add_argument(
        "--layer-weight", type=float, default=6.0, help="sampling weight of the pseudo-masks"
    )
    arguments = parse(parser, "round_steps", "layer_weight")
    pin_inputs(arguments, SETS, REAL_DATA / WEIGHTS)
    experiment = Experiment(arguments)
    changes = "".join(f" --set {item}" for item in arguments.set)
    title = f"{arguments.steps} steps{changes}, seeds {list(arguments.seeds)}"
    columns = ("row", *FIGURES.values(), f"difference from `{BEST}`", "seeds")
    measured = measure_rows(experiment, arguments.rows, arguments.seeds)
    rows = mask_rows(measured)
    draw(measured, arguments.out / "masks.png")
    (arguments.out / "masks.md").write_text(f"{title}\n\n{markdown(columns, rows)}")
    Console().print(table(title, columns, rows))


if __name__ == "__main__":
    run_script(main)
