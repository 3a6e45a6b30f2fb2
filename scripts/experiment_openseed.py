"""Compare what OpenSeeD adds to training on masks and boxes together, with controls.

    python scripts/experiment_openseed.py --data scenes --out openseed --seeds 0
    python scripts/real.py                                          # makes the real shard sets
    python scripts/experiment_openseed.py --data real --sets real-out/sets --out openseed-real

Every row trains the same model for the same number of steps, each on a batch of a panoptic set and
a batch of a set of boxes (`data.mixing = "all"`); the ceiling trains on the panoptic batches only.
It is evaluated on the panoptic validation images (PQ of stuff and of things) and on the hidden
masks of the boxes (mask AP, and IoU of the masks for the true boxes). The controls train as the row
that they name, on boxes that are wrong: with the names of other classes, or beside the objects.

Finished runs and figures are reused and an interrupted run resumes, so processes may train
different seeds or `--rows`; a last call with all seeds writes results.json and results.md.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments import (
    REAL_DATA,
    WEIGHTS,
    backbone_overrides,
    interval,
    kept_figures,
    markdown,
    options,
    parse,
    pin_inputs,
    run_script,
    scene_sets,
    slug,
    train_once,
)
from rich.console import Console

from segkit.commands.common import table
from segkit.demo.demo import SETTINGS
from segkit.inference.outputs import predict_set
from segkit.inference.pseudolabel import pseudolabel
from segkit.metrics.box_prompt_iou import evaluate_box_prompts
from segkit.metrics.evaluate import evaluate
from segkit.recipes.load import load_recipe
from segkit.runs.open_run import load_run
from segkit.sample import Sample, Segment
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.versions import versions
from segkit.shards.writer import write_layer
from segkit.taxonomy import Taxonomy

COMMON = ("data.mixing=all", "inference.pseudo_score=0.0")
"""Changes of every row: OpenSeeD's joint step, and a mask for every box."""
FOREGROUND = 0.6
"""Share of foreground queries; OpenSeeD has 300 of 400, for up to 100 instances of an image."""
LEARNED_BOXES = "model.foreground_boxes=learned"
"""Decoupled without language-guided selection."""
SHIFT = 0.5
"""Shift of a wrong box, relative to its width and height."""
FIGURES = {
    "stuff_pq": ("stuff PQ", 1),
    "thing_pq": ("thing PQ", 1),
    "mask_ap": ("mask AP", 1),
    "box_iou": ("box-prompted IoU", 3),
}
"""Figure -> its title and decimals."""


@dataclass(frozen=True)
class Row:
    """What a row changes."""

    overrides: tuple[str, ...] = ()
    decoupled: bool = False
    """Make most of the queries foreground queries, at the boxes of selected cells; as many in
    all."""
    assist: str = "off"
    """`loss.box_assist`, after a quarter of the steps."""
    boxes: str = "exact"
    """Boxes to train on: exact, shuffled (classes), shifted or none."""


ROWS: Mapping[str, Row] = {
    "panoptic only": Row(boxes="none"),
    "shared queries": Row(),
    "sigmoid classes": Row(("loss.classes=sigmoid",)),
    "decoupled": Row((LEARNED_BOXES,), decoupled=True),
    "decoupled, text-topk": Row(decoupled=True),
    "decoupled, text-topk, assist (match)": Row(decoupled=True, assist="match"),
    "decoupled, text-topk, assist (pseudo)": Row(decoupled=True, assist="pseudo"),
    "assist (match)": Row(assist="match"),
    "assist (pseudo)": Row(assist="pseudo"),
    "projection only": Row(("loss.pairwise=0.0",)),
    "projection + assist (pseudo)": Row(("loss.pairwise=0.0",), assist="pseudo"),
    "control of assist (pseudo): classes shuffled": Row(assist="pseudo", boxes="shuffled"),
    "control of assist (pseudo): boxes shifted": Row(assist="pseudo", boxes="shifted"),
}
DIFFERENCES = (
    ("shared queries", "panoptic only"),
    ("sigmoid classes", "shared queries"),
    ("decoupled", "shared queries"),
    ("decoupled, text-topk", "decoupled"),
    ("decoupled, text-topk", "shared queries"),
    ("decoupled, text-topk, assist (match)", "decoupled, text-topk"),
    ("decoupled, text-topk, assist (pseudo)", "decoupled, text-topk"),
    ("assist (match)", "shared queries"),
    ("assist (pseudo)", "shared queries"),
    ("projection only", "shared queries"),
    ("projection + assist (pseudo)", "projection only"),
    ("control of assist (pseudo): classes shuffled", "assist (pseudo)"),
    ("control of assist (pseudo): boxes shifted", "assist (pseudo)"),
)
"""Rows, and the rows from which their differences are taken."""

REAL_SETS = ("coco-train", "standin-train", "coco-val", "standin-val", "standin-truth")


@dataclass(frozen=True)
class Sets:
    """The shard sets of the experiment, and what they change in the recipe."""

    overrides: tuple[str, ...]
    masks: ShardSet
    boxes: ShardSet
    masks_val: ShardSet
    boxes_val: ShardSet
    hidden: ShardSet
    """True masks of `boxes_val`."""


# --- data ---


def demo_sets(out: Path) -> Sets:
    """Open the demo's scenes."""
    folder = scene_sets(out)
    names = ("panoptic-train", "boxes-train", "panoptic-val", "boxes-val", "hidden-val")
    return Sets(SETTINGS, *(ShardSet.open(folder / name) for name in names))


def real_sets(sets: Path) -> Sets:
    """Open COCO panoptic and the stand-in for Objects365 that scripts/real.py converted."""
    overrides = tuple(backbone_overrides(REAL_DATA / WEIGHTS))
    return Sets(overrides, *(ShardSet.open(sets / name) for name in REAL_SETS))


def wrong_boxes(data: ShardSet, kind: str, folder: Path) -> ShardSet:
    """Return the set with wrong boxes of a kind, and write it if it is missing."""
    if not versions(folder):
        change = {"shuffled": shuffle_classes, "shifted": shift_boxes}[kind]
        samples = (change(sample, data.taxonomy) for sample in data.samples())
        write_layer(folder, data, samples, Header.from_set(data, f"{kind} boxes"))
    return ShardSet.open(folder)


def shuffle_classes(sample: Sample, taxonomy: Taxonomy) -> Sample:
    """Replace each class of things by another, always the same one."""
    things = [category.id for category in taxonomy.categories if category.kind == "thing"]
    step = max(1, len(things) // 2)
    other = dict(zip(things, [*things[step:], *things[:step]], strict=True))
    return _with_segments(
        sample, lambda segment: replace(segment, class_id=other[segment.class_id])
    )


def shift_boxes(sample: Sample, taxonomy: Taxonomy) -> Sample:
    """Move each box by SHIFT of its sides, toward the center of the image."""

    def shift(segment: Segment) -> Segment:
        x, y, width, height = segment.box
        right = 1 if x + width / 2 < sample.width / 2 else -1
        down = 1 if y + height / 2 < sample.height / 2 else -1
        moved = (x + SHIFT * right * width, y + SHIFT * down * height, width, height)
        return replace(segment, box=moved)

    return _with_segments(sample, shift)


def _with_segments(sample: Sample, change: Callable[[Segment], Segment]) -> Sample:
    return replace(sample, segments=tuple(map(change, sample.segments)))


# --- runs ---


def figures_of(name: str, seed: int, sets: Sets, arguments: argparse.Namespace) -> dict[str, float]:
    """Return the figures of a row and a seed; train, resume and evaluate it if they are missing."""
    file: Path = arguments.out / "figures" / f"{slug(name)}-seed{seed}.json"

    def measured() -> dict[str, float]:
        row = ROWS[name]
        data = [sets.masks]
        if row.boxes == "exact":
            data.append(sets.boxes)
        elif row.boxes != "none":
            folder = arguments.out / "sets" / f"boxes-{row.boxes}"
            data.append(wrong_boxes(sets.boxes, row.boxes, folder))
        pairs = [(str(shards.path), 1.0) for shards in data]
        overrides = overrides_of(row, sets.overrides, arguments)
        run = train_once(slug(name), seed, pairs, overrides, arguments)
        return measure(run, sets, arguments.out / "predictions" / file.stem)

    figures = kept_figures(file, measured)
    assert figures is not None
    return figures


def overrides_of(row: Row, of_sets: Sequence[str], arguments: argparse.Namespace) -> list[str]:
    """Return the overrides of a row, in the order in which they apply."""
    overrides = [*of_sets, *COMMON]
    if row.decoupled:
        overrides += decoupled_queries(arguments.recipe, [*overrides, *arguments.set])
    overrides += [*row.overrides, f"loss.box_assist={row.assist}"]
    if row.assist != "off":
        overrides.append(f"loss.box_assist_start={arguments.steps // 4}")
    return overrides


def decoupled_queries(recipe: str, overrides: Sequence[str]) -> list[str]:
    """Return overrides that make FOREGROUND of a recipe's learned queries foreground queries."""
    queries = load_recipe(recipe, overrides).model.queries
    foreground = round(FOREGROUND * queries)
    return [f"model.queries={queries - foreground}", f"model.foreground={foreground}"]


def measure(run: Path, sets: Sets, out: Path) -> dict[str, float]:
    """Evaluate a run."""
    model = load_run(run, "auto")
    panoptic = predict_set(model, sets.masks_val, "panoptic", out / "panoptic")
    instances = predict_set(model, sets.boxes_val, "instance", out / "instances")
    masks, _ = pseudolabel(model, sets.boxes_val, out / "masks")
    quality = evaluate(sets.masks_val, panoptic, "panoptic").metrics
    prompted = evaluate_box_prompts(sets.hidden.samples(), masks.samples(), sets.hidden.taxonomy)
    return {
        "stuff_pq": quality["stuff"]["pq"],
        "thing_pq": quality["things"]["pq"],
        "mask_ap": evaluate(sets.hidden, instances, "instance").metrics["ap"],
        "box_iou": prompted["mean_iou"],
    }


# --- tables ---

Results = dict[str, list[dict[str, float]]]
"""Row -> the figures of each seed."""


def figure_rows(results: Results) -> list[list[str]]:
    """One line for each row: its figures over the seeds."""
    rows = []
    for name, seeds in results.items():
        values = [[figures[key] for figures in seeds] for key in FIGURES]
        digits = [decimals for _, decimals in FIGURES.values()]
        rows.append([name, str(len(seeds)), *map(interval, values, digits)])
    return rows


def difference_rows(results: Results) -> list[list[str]]:
    """One line for each of `DIFFERENCES` whose rows were run, of the same seeds."""
    rows = []
    for name, compared in DIFFERENCES:
        pairs = list(zip(results.get(name, []), results.get(compared, []), strict=False))
        if pairs:
            cells = [
                interval([row[key] - base[key] for row, base in pairs], digits)
                for key, (_, digits) in FIGURES.items()
            ]
            rows.append([name, compared, str(len(pairs)), *cells])
    return rows


def write(results: Results, arguments: argparse.Namespace) -> None:
    """Write results.json and results.md, and print the tables."""
    changes = "".join(f" --set {item}" for item in arguments.set)
    title = f"{arguments.data}, {arguments.steps} steps{changes}"
    titles = [name for name, _ in FIGURES.values()]
    columns = ("row", "seeds", *titles)
    record: dict[str, Any] = {
        "data": arguments.data,
        "steps": arguments.steps,
        "seeds": arguments.seeds,
        "set": arguments.set,
        "rows": results,
    }
    (arguments.out / "results.json").write_text(json.dumps(record, indent=1) + "\n")
    text = f"{title}\n\n{markdown(columns, figure_rows(results))}"
    if differences := difference_rows(results):
        text += f"\n{markdown(('row', 'difference from', 'seeds', *titles), differences)}"
    (arguments.out / "results.md").write_text(text)
    Console().print(table(title, columns, figure_rows(results)))


def main() -> None:
    parser = options(__doc__, out="openseed", seeds=[0, 1, 2])
    parser.add_argument("--data", choices=("scenes", "real"), default="scenes")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW")
    arguments = parse(parser, "data")
    if arguments.data == "real":
        pin_inputs(arguments, REAL_SETS, REAL_DATA / WEIGHTS)
    sets = demo_sets(arguments.out) if arguments.data == "scenes" else real_sets(arguments.sets)
    results: Results = {}
    for seed in arguments.seeds:
        for name in arguments.rows:
            results.setdefault(name, []).append(figures_of(name, seed, sets, arguments))
            write(results, arguments)


if __name__ == "__main__":
    run_script(main)
