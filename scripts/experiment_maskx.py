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
different seeds; the table shows what is there. Writes results.md and pictures.png (A green, B red).
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from experiments import (
    FROZEN_NORM,
    REAL_DATA,
    WEIGHTS,
    backbone_overrides,
    interval,
    markdown,
    options,
    train_once,
)
from numpy.typing import NDArray
from rich.console import Console

from segkit.commands.common import stderr, table
from segkit.data.mask_policy import mask_policies
from segkit.demo.demo import SETTINGS, convert_scenes, generate_scenes
from segkit.demo.scenes import STUFF, THINGS
from segkit.images.draw import Picture, save_png
from segkit.images.picture_grid import Tile, picture_grid
from segkit.inference.box_masks import BoxMask, ImagePrompts
from segkit.inference.outputs import predict_samples
from segkit.inference.predict_boxes import predict_box_masks
from segkit.masks import rle
from segkit.masks.boxes import tight_box
from segkit.masks.iou import box_iou, mask_iou
from segkit.metrics.evaluate import evaluate
from segkit.recipes.schema import DataConfig
from segkit.runs.open_run import load_run
from segkit.runs.run import Run
from segkit.sample import Sample, Segment, is_object
from segkit.shards.publish import resolve, versions
from segkit.shards.reader import ShardSet
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
OVERLAP = 0.3
"""IoU of two boxes above which they count as overlapping."""
BASE = (
    "data.image_size=64",
    "data.batch_size=16",
    "loss.max_box_prompts=1",
    "model.prompt_maps=false",
    "optimizer.warmup_steps=10",
    "optimizer.ema_decay=0.95",
)
"""Overrides of the runs on COCO, for training of minutes."""
NO_CONTENT = "model.label_content=false"
COLUMNS = ("arm", "IoU A", "IoU B", "IoU B, overlapping", "AP A", "AP B", "IoU B - reference")


@dataclass(frozen=True)
class Arm:
    """A row of the table."""

    table: str
    overrides: tuple[str, ...] = ()
    all_masks: bool = False
    """B's masks are used as well: the oracle."""
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
    "content only": Arm("labels"),
    "content + T": Arm("labels", transfer("cls+box")),
    "all masks": Arm("labels", all_masks=True),
    "withheld": Arm("labels", (NO_CONTENT,)),
    "T only": Arm("labels", (NO_CONTENT, *transfer("cls")), reference="withheld"),
    "random rows": Arm("labels", (NO_CONTENT, *transfer("random")), reference="withheld"),
    "MLP": Arm("1c", (MLP,)),
    "T, MLP": Arm("1c", (MLP, *transfer("cls+box"))),
    "input random": Arm("1a", transfer("random")),
    "input text": Arm("1a", transfer("text")),
    "input cls": Arm("1a", transfer("cls")),
    "input box": Arm("1a", transfer("box")),
    "1 layer": Arm("1b", transfer("cls+box", "layers=1")),
    "2 layers, ReLU": Arm("1b", transfer("cls+box", "activation=relu")),
    "3 layers, LeakyReLU": Arm("1b", transfer("cls+box", "layers=3")),
    "3 layers, ReLU": Arm("1b", transfer("cls+box", "layers=3", "activation=relu")),
    "no stop-gradient": Arm("1d", transfer("cls+box", "stop_gradient=false")),
    "queries": Arm("queries", queries=True, reference="queries"),
    "queries + T": Arm("queries", transfer("cls"), queries=True, reference="queries"),
    "queries, all masks": Arm("queries", all_masks=True, queries=True, reference="queries"),
}
"""Rows by name. `content + T` has the input cls+box, 2 layers, LeakyReLU and stopped gradients, and
so belongs to the tables 1a, 1b and 1d as well."""


def sets_folder(direction: Direction, arguments: argparse.Namespace) -> Path:
    """Folder of the sets of a direction."""
    folder: Path = arguments.out / "scenes" if direction.queries else arguments.sets
    return folder


def make_sets(direction: Direction, arguments: argparse.Namespace) -> None:
    """Convert the COCO instances or the demo's scenes, with all masks; a mask policy hides B's."""
    folder = sets_folder(direction, arguments)
    if all(versions(folder / name) for name in (direction.train, direction.val)):
        return
    if direction.queries:
        native = generate_scenes(arguments.out / "native", 0)
        convert_scenes(native, folder, lambda done: None)
        return
    coco = arguments.data / "coco"
    for name, split in ((direction.train, "train2017"), (direction.val, "val2017")):
        source = open_coco_instances(coco / "annotations" / f"instances_{split}.json", coco / split)
        options = ConvertOptions(name=name)
        convert(source, folder / name, options, arguments={"data": str(coco)})


def policy(direction: Direction, name: str) -> dict[str, str]:
    """The mask policy of a set: masks of A, boxes of B."""
    return {name: "box", f"{name}:{direction.masked}": "mask"}


def val_policies(data: ShardSet, direction: Direction) -> Mapping[int, str]:
    """Whether each class of the validation set belongs to A (mask) or to B (box)."""
    config = DataConfig.model_validate({"mask_policy": policy(direction, direction.val)})
    return mask_policies(direction.val, data.taxonomy, config)


def train_arm(name: str, title: str, seed: int, arguments: argparse.Namespace) -> Path:
    """Return the run of an arm; train its base and then the arm if they are missing."""
    arm, direction = ARMS[name], DIRECTIONS[title]
    data = [(str(resolve(sets_folder(direction, arguments) / direction.train)), 1.0)]
    rules = policy(direction, direction.train).items()
    items = ", ".join(f'"{key}" = "{value}"' for key, value in rules)
    hidden = f"data.mask_policy={{{items}}}"
    recipe = "dataseg-mini" if direction.queries else "box-labeler-mini"
    common = [*SETTINGS] if direction.queries else [*BASE, FROZEN_NORM]
    backbone = [] if direction.queries else backbone_overrides(arguments.data / WEIGHTS)
    start = train_once(
        f"base-{title}",
        seed,
        data,
        [*common, *backbone, hidden],
        with_values(arguments, recipe=recipe, steps=arguments.base_steps),
    )
    overrides = [*common, f'model.init_from="{start}"', *arm.overrides]
    overrides += [] if arm.all_masks else [hidden]
    folder = f"{slug(name)}-{title}"
    return train_once(folder, seed, data, overrides, with_values(arguments, recipe=recipe))


def with_values(arguments: argparse.Namespace, **values: object) -> argparse.Namespace:
    """The arguments with other values."""
    return argparse.Namespace(**vars(arguments) | values)


def slug(name: str) -> str:
    """An arm's name as part of a path."""
    return "-".join(name.replace(",", " ").replace("+", " ").split())


def objects(sample: Sample) -> list[Segment]:
    """The segments that count: no crowds, no ignored ones, none outside of the image."""
    return [s for s in sample.segments if is_object(s) and s.mask is not None]


def overlapping(segments: Sequence[Segment]) -> NDArray[np.bool_]:
    """Whether each box overlaps another by more than OVERLAP, (N,)."""
    boxes = [segment.box for segment in segments]
    ious = box_iou(boxes, boxes)
    np.fill_diagonal(ious, 0.0)
    return np.asarray((ious > OVERLAP).any(axis=1))


def box_masks(run: Run, data: ShardSet) -> Iterator[tuple[Sample, list[Segment], list[BoxMask]]]:
    """Masks for the true boxes of each image, with their labels."""
    samples = [sample for sample in data.samples() if objects(sample)]
    prompts = (
        ImagePrompts(
            data.image(sample),
            [segment.box for segment in objects(sample)],
            [data.taxonomy.index[segment.class_id] for segment in objects(sample)],
        )
        for sample in samples
    )
    config = run.recipe.inference.model_copy(update={"batch_size": 32})
    embeddings, size = run.class_embeddings(data.taxonomy), run.recipe.data.image_size
    masks = predict_box_masks(run.model, embeddings, prompts, config, crop_size=size)
    for sample, predicted in zip(samples, masks, strict=True):
        yield sample, objects(sample), predicted


def as_prediction(segment: Segment, mask: BoxMask) -> Segment | None:
    """A predicted segment of a box's class; None for an empty mask."""
    full_mask = mask.mask
    if not full_mask.any():
        return None
    return replace(
        segment,
        mask=rle.encode(full_mask),
        box=tight_box(full_mask),
        area=float(full_mask.sum()),
        mask_from="prediction",
        score=mask.score,
        source_id=None,
        source_polygon=None,
    )


def score_boxes(run: Run, data: ShardSet) -> dict[str, Any]:
    """IoU, class and overlap of every object, and AP by class, of masks for true boxes."""
    rows: list[tuple[int, float, bool]] = []
    predictions: dict[str, Sample] = {s.id: replace(s, segments=()) for s in data.samples()}
    for sample, segments, masks in box_masks(run, data):
        flags = overlapping(segments)
        predicted = [as_prediction(*pair) for pair in zip(segments, masks, strict=True)]
        for segment, mask, flag in zip(segments, masks, flags, strict=True):
            truth = rle.decode(segment.mask or b"", sample.height, sample.width)
            rows.append((segment.class_id, mask_iou(mask.mask, truth), bool(flag)))
        kept = tuple(segment for segment in predicted if segment is not None)
        predictions[sample.id] = replace(sample, segments=kept)
    ap = evaluate(data, predictions.values(), "instance").metrics["per_class"]
    return {"objects": rows, "ap": ap}


def score_queries(run: Run, data: ShardSet) -> dict[str, Any]:
    """As `score_boxes`, of the best proposal of each object, without boxes."""
    embeddings, config = run.class_embeddings(data.taxonomy), run.recipe.inference
    samples = list(predict_samples(run.model, embeddings, data.taxonomy, data, "instance", config))
    proposals = {sample.id: sample for sample in samples}
    rows: list[tuple[int, float, bool]] = []
    for sample in data.samples():
        size = sample.height, sample.width
        segments = objects(sample)
        masks = {s.mask for s in proposals[sample.id].segments if s.mask is not None}
        decoded = [rle.decode(mask, *size) for mask in masks]
        for segment, flag in zip(segments, overlapping(segments) if segments else (), strict=True):
            truth = rle.decode(segment.mask or b"", *size)
            best = max((mask_iou(mask, truth) for mask in decoded), default=0.0)
            rows.append((segment.class_id, best, bool(flag)))
    return {"objects": rows, "ap": evaluate(data, samples, "instance").metrics["per_class"]}


def cached(name: str, title: str, seed: int, arguments: argparse.Namespace) -> Path:
    """File with the figures of an arm and a seed."""
    path: Path = arguments.out / "scores" / f"{slug(name)}-{title}-seed{seed}.json"
    return path


def scores(name: str, title: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Figures of an arm and a seed, cached; trains the arm if it is missing."""
    cache, direction = cached(name, title, seed, arguments), DIRECTIONS[title]
    if not cache.exists():
        run = load_run(train_arm(name, title, seed, arguments))
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


def summarize(
    measured: Mapping[str, Any], data: ShardSet, policies: Mapping[int, str]
) -> dict[str, float]:
    """Means over the objects and the classes of A and of B."""
    class_ids, ious, flags = (np.array(column) for column in zip(*measured["objects"], strict=True))
    in_a = np.array([policies[int(class_id)] == "mask" for class_id in class_ids])
    figures: dict[str, float] = {}
    for group, chosen in (("A", in_a), ("B", ~in_a)):
        crowded = chosen & flags.astype(bool)
        figures[f"IoU {group}"], figures[f"boxes {group}"] = ious[chosen].mean(), int(chosen.sum())
        figures[f"IoU {group}, overlapping"] = ious[crowded].mean()
        figures[f"boxes {group}, overlapping"] = int(crowded.sum())
        wanted = "mask" if group == "A" else "box"
        names = [data.taxonomy.unique_names[i] for i, value in policies.items() if value == wanted]
        aps = [measured["ap"][name] for name in names if measured["ap"].get(name) is not None]
        figures[f"AP {group}"] = float(np.mean(aps))
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
            interval([row[column] for row in by_seed.values()], 1 if "AP" in column else 3)
            for column in COLUMNS[1:-1]
        ]
        yield (
            f"{name} ({len(by_seed)})",
            *figures,
            "-" if is_reference or not shared else interval(differences, 3),
        )


def paint(image: Picture, masks: Sequence[tuple[NDArray[np.bool_], bool]]) -> Picture:
    """Tint masks green (A) or red (B), the largest first."""
    canvas = image.astype(np.float32)
    for mask, in_a in sorted(masks, key=lambda item: -int(item[0].sum())):
        color = np.array((40, 190, 70) if in_a else (220, 50, 50), np.float32)
        canvas[mask] = 0.5 * canvas[mask] + 0.5 * color
    painted: Picture = canvas.astype(np.uint8)
    return painted


def draw(title: str, arguments: argparse.Namespace, count: int = 5) -> Picture | None:
    """Validation images with boxes of A and B: the true masks and those of two arms."""
    names, seed = ("content only", "content + T", "all masks"), arguments.seeds[0]
    folders = [arguments.out / "runs" / f"{slug(n)}-{title}-seed{seed}" for n in names]
    if not all(versions(folder) for folder in folders):
        return None
    direction = DIRECTIONS[title]
    data = ShardSet.open(sets_folder(direction, arguments) / direction.val)
    policies = val_policies(data, direction)

    def in_a(segment: Segment) -> bool:
        return policies[segment.class_id] == "mask"

    def both(sample: Sample) -> int:
        flags = [in_a(segment) for segment in objects(sample)]
        return min(sum(flags), len(flags) - sum(flags)) if 4 <= len(flags) <= 14 else 0

    chosen = sorted(data.samples(), key=both, reverse=True)[:count]
    keep = {sample.id for sample in chosen}
    tiles: dict[str, list[Tile]] = {sample.id: [] for sample in chosen}
    for sample in chosen:
        size = sample.height, sample.width
        masks = [(rle.decode(s.mask or b"", *size), in_a(s)) for s in objects(sample)]
        tiles[sample.id].append(Tile(paint(data.image(sample), masks), "true masks"))
    for name, folder in zip(names, folders, strict=True):
        run = load_run(resolve(folder))
        for sample, segments, predicted in box_masks(run, data):
            if sample.id in keep:
                pairs = zip(predicted, segments, strict=True)
                masks = [(mask.mask, in_a(segment)) for mask, segment in pairs]
                tiles[sample.id].append(Tile(paint(data.image(sample), masks), name))
    rows = [tile for sample in chosen for tile in tiles[sample.id]]
    return picture_grid(rows, width=300, columns=len(names) + 1)


def main() -> None:
    parser = options(__doc__, out="maskx", seeds=[0, 1, 2])
    parser.set_defaults(steps=200)
    parser.add_argument("--data", type=Path, default=REAL_DATA, help="the real data")
    parser.add_argument("--base-steps", type=int, default=600, help="steps of the shared base")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    parser.add_argument(
        "--directions", nargs="+", choices=DIRECTIONS, default=list(DIRECTIONS), metavar="A"
    )
    parser.add_argument("--table", action="store_true", help="train nothing: only the table")
    arguments = parser.parse_args()
    pages = []
    for title in arguments.directions:
        direction = DIRECTIONS[title]
        make_sets(direction, arguments)
        arms = [name for name in arguments.arms if ARMS[name].queries == direction.queries]
        measured: dict[str, dict[int, dict[str, float]]] = {}
        for seed in arguments.seeds:
            for name in arms:
                if arguments.table and not cached(name, title, seed, arguments).exists():
                    continue
                figures = scores(name, title, seed, arguments)
                measured.setdefault(name, {})[seed] = figures
                stderr.print(f"{title} {name} seed {seed}: IoU B {figures['IoU B']:.4f}")
        measured = {name: measured[name] for name in ARMS if name in measured}
        rows = list(table_rows(measured))
        heading = f"A = {direction.masked}"
        Console().print(table(heading, COLUMNS, rows))
        pages.append(f"{heading}\n\n{markdown(COLUMNS, rows)}")
        picture = draw(title, arguments)
        if picture is not None:
            save_png(picture, arguments.out / f"pictures-{title}.png")
    (arguments.out / "results.md").write_text("\n".join(pages))


if __name__ == "__main__":
    main()
