"""Study weight transfer of Mask^X R-CNN: masks of classes A, only boxes of classes B.

    python scripts/experiment_maskx.py --out maskx
    python scripts/experiment_maskx.py --out maskx --arms "content + T" --directions voc --seeds 0

On COCO, A are Pascal VOC's 20 classes and B the other 60 (`--directions voc`), or the reverse
(`nonvoc`). On the demo's scenes (`scenes`), where minutes suffice to learn, A are four of the seven
things, and stuff.
Training is stage-wise, as in the paper's tables 1a to 1d: a base without weight transfer learns
from A's masks and B's boxes for --base-steps, then each arm starts from the base of its seed and
trains for --steps. Masks for the true boxes of the validation images are compared with the true
masks: mean IoU and AP, of A and of B, and of boxes that overlap another by more than 0.3 (where the
class could say which object is meant). Arms of learned queries, on scenes, get no box: AP, and the
mean IoU of each object with its best proposal.

Finished runs and evaluations are reused and an interrupted one resumes, so processes may train
different seeds; the table shows what is there. Writes results.md and a picture of each direction
(A green, B red).
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments import (
    FROZEN_NORM,
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
from maskx_pictures import draw_columns, with_both_groups
from maskx_scores import as_prediction, box_masks, score_boxes, score_queries, summarize
from rich.console import Console

from segkit.commands.common import stderr, table
from segkit.data.mask_policy import mask_policies
from segkit.demo.demo import SETTINGS
from segkit.demo.scenes import STUFF, THINGS
from segkit.images.draw import Picture, save_png
from segkit.inference.outputs import predict_samples
from segkit.recipes.schema import DataConfig
from segkit.runs.open_run import load_run
from segkit.runs.run import Run
from segkit.sample import Sample, Segment
from segkit.shards.reader import ShardSet
from segkit.shards.versions import resolve, versions
from segkit.sources.coco_instances import open_coco_instances
from segkit.sources.engine import ConvertOptions, convert


@dataclass(frozen=True)
class Direction:
    """Sets, and which of their classes have masks."""

    masked: str
    """The classes A: a group, or names."""
    train: str
    val: str
    queries: bool = False
    """Whether the arms are those of learned queries."""


DIRECTIONS = {
    "voc": Direction("@voc20", "maskx-train", "maskx-val"),
    "nonvoc": Direction("@nonvoc60", "maskx-train", "maskx-val"),
    "scenes": Direction(
        ", ".join(entry.panoptic for entry in (*THINGS[::2], *STUFF)),
        "panoptic-train",
        "panoptic-val",
        queries=True,
    ),
}
BASE = (
    "data.image_size=64",
    "data.batch_size=16",
    "loss.max_box_prompts=1",
    "model.prompt_maps=false",
    "optimizer.warmup_steps=10",
    "optimizer.ema_decay=0.95",
)
"""Overrides of the runs on COCO, for training of minutes."""
SHOWN = 0.3
"""Score from which pictures show the mask of a learned query."""
SHOWN_ARMS = {
    False: ("content only", "content + T", "all masks"),
    True: ("queries", "queries + T", "queries, all masks"),
}
"""Arms that pictures show, with boxes or with learned queries."""
NO_CONTENT = "model.label_content=false"
COLUMNS = ("arm", "IoU A", "IoU B", "IoU B, overlapping", "AP A", "AP B", "IoU B - reference")


@dataclass(frozen=True)
class Arm:
    """A row of the table."""

    overrides: tuple[str, ...] = ()
    all_masks: bool = False
    """B's masks are used as well: the oracle."""
    without_b: bool = False
    """B's boxes are left out as well, in the base too: no loss of a mask touches B, as in the
    paper."""
    queries: bool = False
    """Learned queries instead of box prompts."""
    reference: str = "content only"
    """The arm that it is compared with."""


def transfer(source: str, *settings: str) -> tuple[str, ...]:
    """Overrides that switch weight transfer on."""
    keys = (f"input={source}", *settings)
    return tuple(f"model.weight_transfer.{key}" for key in keys)


MLP = "model.box_mlp=true"
ARMS: Mapping[str, Arm] = {
    # the paths of the class into a box prompt
    "content only": Arm(),
    "content + T": Arm(transfer("cls+box")),
    "all masks": Arm(all_masks=True),
    "withheld": Arm((NO_CONTENT,)),
    "T only": Arm((NO_CONTENT, *transfer("cls")), reference="withheld"),
    "random rows": Arm((NO_CONTENT, *transfer("random")), reference="withheld"),
    # no loss of a mask on B
    "without B": Arm(without_b=True, reference="without B"),
    "without B, T": Arm(transfer("cls+box"), without_b=True, reference="without B"),
    "without B, random rows": Arm(transfer("random"), without_b=True, reference="without B"),
    # table 1c: the MLP
    "MLP": Arm((MLP,)),
    "T, MLP": Arm((MLP, *transfer("cls+box"))),
    # table 1a: the input of T
    "input random": Arm(transfer("random")),
    "input text": Arm(transfer("text")),
    "input cls": Arm(transfer("cls")),
    "input box": Arm(transfer("box")),
    # table 1b: its layers and activation
    "1 layer": Arm(transfer("cls+box", "layers=1")),
    "2 layers, ReLU": Arm(transfer("cls+box", "activation=relu")),
    "3 layers, LeakyReLU": Arm(transfer("cls+box", "layers=3")),
    "3 layers, ReLU": Arm(transfer("cls+box", "layers=3", "activation=relu")),
    # table 1d: gradients into the class weights
    "no stop-gradient": Arm(transfer("cls+box", "stop_gradient=false")),
    # learned queries
    "queries": Arm(queries=True, reference="queries"),
    "queries + T": Arm(transfer("cls"), queries=True, reference="queries"),
    "queries, all masks": Arm(all_masks=True, queries=True, reference="queries"),
}
"""Rows by name. `content + T` has the input cls+box, 2 layers, LeakyReLU and stopped gradients, and
so belongs to the tables 1a, 1b and 1d as well."""


def sets_folder(direction: Direction, arguments: argparse.Namespace) -> Path:
    """Folder of the sets of a direction, with all masks; a mask policy hides B's.

    Scenes are generated and COCO instances are converted if they are missing.
    """
    if direction.queries:
        return scene_sets(arguments.out)
    folder: Path = arguments.sets
    coco = arguments.data / "coco"
    for name, split in ((direction.train, "train2017"), (direction.val, "val2017")):
        if versions(folder / name):
            continue
        source = open_coco_instances(coco / "annotations" / f"instances_{split}.json", coco / split)
        options = ConvertOptions(name=name)
        convert(source, folder / name, options, arguments={"data": str(coco)})
    return folder


def policy(direction: Direction, name: str, rest: str = "box") -> dict[str, str]:
    """The mask policy of a set: masks of A, boxes of B (`none`: void instead)."""
    return {name: rest, f"{name}:{direction.masked}": "mask"}


def val_policies(data: ShardSet, direction: Direction) -> Mapping[int, str]:
    """Whether each class of the validation set belongs to A (mask) or to B (box)."""
    config = DataConfig.model_validate({"mask_policy": policy(direction, direction.val)})
    return mask_policies(direction.val, data.taxonomy, config)


def train_arm(name: str, title: str, seed: int, arguments: argparse.Namespace) -> Path:
    """Return the run of an arm; train its base and then the arm if they are missing."""
    arm, direction = ARMS[name], DIRECTIONS[title]
    data = [(str(resolve(sets_folder(direction, arguments) / direction.train)), 1.0)]
    rules = policy(direction, direction.train, "none" if arm.without_b else "box")
    items = ", ".join(f'"{key}" = "{value}"' for key, value in rules.items())
    masks_of_a = f"data.mask_policy={{{items}}}"
    recipe = arguments.recipe or ("dataseg-mini" if direction.queries else "box-labeler-mini")
    common = [*SETTINGS] if direction.queries else [*BASE, FROZEN_NORM]
    backbone = [] if direction.queries else backbone_overrides(arguments.data / WEIGHTS)
    start = train_once(
        f"base-without-b-{title}" if arm.without_b else f"base-{title}",
        seed,
        data,
        [*common, *backbone, masks_of_a],
        with_values(arguments, recipe=recipe, steps=arguments.base_steps),
    )
    overrides = [*common, f'model.init_from="{start}"', *arm.overrides]
    overrides += [] if arm.all_masks else [masks_of_a]
    folder = f"{slug(name)}-{title}"
    return train_once(folder, seed, data, overrides, with_values(arguments, recipe=recipe))


def with_values(arguments: argparse.Namespace, **values: object) -> argparse.Namespace:
    """The arguments with other values."""
    return argparse.Namespace(**vars(arguments) | values)


def slug(name: str) -> str:
    """An arm's name as part of a path."""
    return "-".join(name.replace(",", " ").replace("+", " ").split())


def score_file(name: str, title: str, seed: int, arguments: argparse.Namespace) -> Path:
    """File with the figures of an arm and a seed."""
    path: Path = arguments.out / "scores" / f"{slug(name)}-{title}-seed{seed}.json"
    return path


def scores(name: str, title: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Figures of an arm and a seed, cached; trains the arm if it is missing."""
    cache, direction = score_file(name, title, seed, arguments), DIRECTIONS[title]
    if not cache.exists():
        run = load_run(train_arm(name, title, seed, arguments), "auto")
        data = ShardSet.open(sets_folder(direction, arguments) / direction.val)
        score = score_queries if ARMS[name].queries else score_boxes
        cache.parent.mkdir(parents=True, exist_ok=True)
        draft = cache.with_suffix(".partial")
        draft.write_text(
            json.dumps(summarize(score(run, data), data, val_policies(data, direction)))
        )
        draft.replace(cache)
    figures: dict[str, Any] = json.loads(cache.read_text())
    return figures


def table_rows(
    measured: Mapping[str, Mapping[int, Mapping[str, float]]],
) -> Iterator[tuple[str, ...]]:
    """A row for each arm that was measured."""
    for name, by_seed in measured.items():
        reference = measured.get(ARMS[name].reference, {})
        shared = sorted(by_seed.keys() & reference.keys())
        differences = [by_seed[seed]["IoU B"] - reference[seed]["IoU B"] for seed in shared]
        is_reference = ARMS[name].reference == name
        figures = [
            cell([row[column] for row in by_seed.values()], 1 if "AP" in column else 3)
            for column in COLUMNS[1:-1]
        ]
        yield (
            f"{name} ({len(by_seed)})",
            *figures,
            "-" if is_reference or not shared else interval(differences, 3),
        )


def cell(values: Sequence[float | None], decimals: int) -> str:
    """Mean over the seeds and its interval; a dash where a group has no such object."""
    present = [value for value in values if value is not None]
    return interval(present, decimals) if len(present) == len(values) else "-"


def predictions(run: Run, data: ShardSet, samples: Sequence[Sample]) -> list[Sample]:
    """What a run shows in some images: masks for their boxes, or confident learned queries."""
    if run.recipe.loss.matching:
        embeddings, config = run.class_embeddings(data.taxonomy), run.recipe.inference
        model, classes = run.model, data.taxonomy
        proposals = predict_samples(
            model, embeddings, classes, data, "instance", config, samples=samples
        )
        return [replace(s, segments=above_threshold(s)) for s in proposals]
    predicted = [
        (sample, map(as_prediction, segments, masks))
        for sample, segments, masks in box_masks(run, data, samples)
    ]
    return [replace(sample, segments=tuple(filter(None, masks))) for sample, masks in predicted]


def above_threshold(sample: Sample) -> tuple[Segment, ...]:
    """The predicted segments that pictures show."""
    return tuple(s for s in sample.segments if s.score is not None and s.score >= SHOWN)


def draw(title: str, arguments: argparse.Namespace, count: int = 4) -> Picture | None:
    """Validation images with objects of A and B: the true masks and those of three arms."""
    direction, seed = DIRECTIONS[title], arguments.seeds[0]
    names = SHOWN_ARMS[direction.queries]
    folders = [arguments.out / "runs" / f"{slug(n)}-{title}-seed{seed}" for n in names]
    if not all(versions(folder) for folder in folders):
        return None
    data = ShardSet.open(sets_folder(direction, arguments) / direction.val)
    policies = val_policies(data, direction)

    def in_a(segment: Segment) -> bool:
        return policies[segment.class_id] == "mask"

    chosen = with_both_groups(data, in_a, count)
    columns = {"true masks": chosen}
    for name, folder in zip(names, folders, strict=True):
        columns[name] = predictions(load_run(resolve(folder), "auto"), data, chosen)
    return draw_columns(data, columns, in_a)


def main() -> None:
    parser = options(__doc__, out="maskx", seeds=[0, 1, 2])
    parser.set_defaults(recipe=None, steps=200)
    parser.add_argument("--data", type=Path, default=REAL_DATA, help="the real data")
    parser.add_argument("--base-steps", type=int, default=600, help="steps of the shared base")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    parser.add_argument(
        "--directions", nargs="+", choices=DIRECTIONS, default=list(DIRECTIONS), metavar="A"
    )
    parser.add_argument("--table", action="store_true", help="train nothing: only the table")
    arguments = parse(parser, "base_steps")
    pages = []
    for title in arguments.directions:
        direction = DIRECTIONS[title]
        if not direction.queries:
            names = (direction.train, direction.val)
            pin_inputs(arguments, names, arguments.data / WEIGHTS)
        arms = [name for name in arguments.arms if ARMS[name].queries == direction.queries]
        measured: dict[str, dict[int, dict[str, float]]] = {}
        for seed in arguments.seeds:
            for name in arms:
                if arguments.table and not score_file(name, title, seed, arguments).exists():
                    continue
                figures = scores(name, title, seed, arguments)
                measured.setdefault(name, {})[seed] = figures
                stderr.print(f"{title} {name} seed {seed}: IoU B {figures['IoU B']:.4f}")
        measured = {name: measured[name] for name in ARMS if name in measured}
        rows = list(table_rows(measured))
        heading = f"A = {direction.masked}"
        Console().print(table(heading, COLUMNS, rows))
        pages.append(f"{heading}\n\n{markdown(COLUMNS, rows)}")
        picture = None if arguments.table else draw(title, arguments)
        if picture is not None:
            save_png(picture, arguments.out / f"pictures-{title}.png")
    (arguments.out / "results.md").write_text("\n".join(pages))


if __name__ == "__main__":
    run_script(main)
