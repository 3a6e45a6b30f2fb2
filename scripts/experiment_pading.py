"""Compare class heads for classes without examples, on generated scenes and on CamVid (PADing).

    python scripts/experiment_pading.py --part scenes --out pading
    python scripts/real.py                               # makes the shard sets of CamVid
    python scripts/experiment_pading.py --part camvid --sets real-out/sets --out pading

A run is trained on the seen part of a zero-shot split, with several seeds; every arm then changes
only its class head. `--head-seeds` repeats the second stage on each run. The script prints the
table, and writes PART.json, PART.md and PART.png. Finished runs, arms and seeds are reused, and an
interrupted run resumes; a last call with all seeds writes the table of all.

`--part scenes`: shapes whose classes are combinations of shape, color and pattern
(compositional_scenes.py). `--part camvid`: CamVid with three of its eleven classes held out, by
ignored pixels.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from compositional_scenes import SIZE, UNSEEN, write_scenes
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
    train_once,
)
from matplotlib.figure import Figure
from rich.console import Console
from zero_shot_arms import (
    ARMS,
    CURVES,
    Arm,
    Features,
    Unseen,
    choose_penalty,
    real_unseen_features,
)

from segkit.commands.common import stderr, table
from segkit.runs.open_run import load_run
from segkit.shards.reader import ShardSet
from segkit.shards.versions import resolve, versions
from segkit.shards.zero_shot_split import ClassSplit, ZeroShotRecord, split_zero_shot
from segkit.zeroshot.bank import FeatureBank
from segkit.zeroshot.collect_bank import BankCollector

PENALTIES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
FIGURES = ("seen", "unseen", "harmonic")
CAMVID_SPLIT = ClassSplit("camvid", ("bicyclist", "fence", "sidewalk"))
"""Each has a relative among the seen classes: pedestrian, building, road."""


@dataclass(frozen=True)
class Part:
    """The sets of a part, and what its recipe changes."""

    train: Path
    oracle: Path
    val: Path
    split: tuple[str, ...]
    overrides: tuple[str, ...]


SMALL = (
    "data.zoom_probability=0",
    "loss.box_prompts=0",
    "training.checkpoint_every=100",
    "optimizer.warmup_steps=30",
)
SCENES = (
    *SMALL,
    "model.backbone=test_efficientnet",
    *("model.queries=10", "model.rounds=1", "model.hidden_dim=64", "model.mask_dim=32"),
    *(f"data.image_size={SIZE}", "data.batch_size=16", "data.color_jitter=0"),
    *("data.scale_min=0.9", "data.scale_max=1.1"),
    *(f"inference.image_size={SIZE}", "inference.score=0.2"),
    *("optimizer.lr=2e-3", "optimizer.backbone_lr_factor=1"),
)
CAMVID = (
    *SMALL,
    *("model.queries=20", "model.rounds=1", "data.image_size=128", "inference.image_size=128"),
    *("optimizer.lr=1e-3", "data.scale_max=1.5"),
)


def scenes(arguments: argparse.Namespace) -> Part:
    """Generated scenes; images with a held-out combination are dropped from training."""
    folder: Path = arguments.out / f"scenes-{arguments.scenes}"
    if not versions(folder / "seen"):
        stderr.print("generate the scenes ...")
        train = write_scenes(folder / "train", arguments.scenes, seed=1)
        write_scenes(folder / "val", max(1, arguments.scenes // 6), seed=2)
        split_zero_shot(train, folder, ClassSplit("compositions", UNSEEN), "drop-image", {})
    places = (resolve(folder / name) for name in ("seen", "unseen", "val"))
    return Part(*places, split=UNSEEN, overrides=SCENES)


def camvid(arguments: argparse.Namespace) -> Part:
    """CamVid; the pixels of the held-out classes are void in training."""
    folder: Path = arguments.out / "camvid"
    pin_inputs(arguments, ("camvid-train", "camvid-val"), arguments.data / WEIGHTS)
    if not versions(folder / "seen"):
        train, split = ShardSet.open(arguments.sets / "camvid-train"), CAMVID_SPLIT
        split_zero_shot(train, folder, split, "ignore-pixels", {})
    places = (folder / "seen", folder / "unseen", arguments.sets / "camvid-val")
    overrides = (*CAMVID, *backbone_overrides(arguments.data / WEIGHTS))
    return Part(*map(resolve, places), split=CAMVID_SPLIT.unseen, overrides=overrides)


PARTS = {"scenes": scenes, "camvid": camvid}


def evaluate_run(part: Part, seed: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Figures of every arm for each second stage on a run, from the cache where they are there."""
    name = arguments.part
    path = train_once(name, seed, [(str(part.train), 1.0)], part.overrides, arguments)
    cache = arguments.out / "arms" / f"{name}-seed{seed}"
    cache.mkdir(parents=True, exist_ok=True)
    files = {
        (head_seed, arm.key): cache / f"{arm.key}-{0 if arm.settings is None else head_seed}.json"
        for head_seed in arguments.head_seeds
        for arm in ARMS
    }
    ceiling = cache / "ceiling.json"
    if not all(file.is_file() for file in (ceiling, *files.values())):
        inputs = Inputs.from_run(path, part)
        ceiling.write_text(json.dumps(inputs.features.ceiling()))
        for (head_seed, key), file in files.items():
            if not file.is_file():
                stderr.print(f"{cache.name}: {file.stem} ...")
                arm = next(arm for arm in ARMS if arm.key == key)
                figures = evaluate_arm(arm, inputs, head_seed, arguments)
                file.write_text(json.dumps(figures))
    return [
        {arm.key: json.loads(files[head_seed, arm.key].read_text()) for arm in ARMS}
        | {"ceiling": json.loads(ceiling.read_text())}
        for head_seed in arguments.head_seeds
    ]


@dataclass(frozen=True)
class Inputs:
    """What the arms of a run share."""

    bank: FeatureBank
    features: Features
    oracle: Unseen
    penalty: float
    """Of the calibrated text classifier."""

    @classmethod
    def from_run(cls, path: Path, part: Part) -> "Inputs":
        """Collect the bank, the proposals of the validation set and the oracle's features."""
        # class heads train on the CPU, and classify the features of the run there
        run, train_set = load_run(path, "cpu"), ShardSet.open(part.train)
        record = ZeroShotRecord.from_set(train_set)
        assert record is not None
        bank = BankCollector(run, train_set, record, no_object=20).collect()
        features = Features.from_run(run, ShardSet.open(part.val), part.split)
        oracle = real_unseen_features(run, ShardSet.open(part.oracle), record, bank)
        return cls(bank, features, oracle, choose_penalty(run, bank, PENALTIES, seed=0))


def evaluate_arm(
    arm: Arm, inputs: Inputs, head_seed: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Seen, unseen and harmonic figures of an arm, and its seen-unseen curve if it has one."""
    features = inputs.features
    head = arm.train(features.run, inputs.bank, inputs.oracle, head_seed, arguments.arm_set)
    penalty = inputs.penalty if arm.calibrated else 0.0
    figures = {**features.evaluate(head, penalty), "penalty": penalty}
    if arm.key in CURVES and head_seed == arguments.head_seeds[0]:
        points = {value: features.evaluate(head, value) for value in PENALTIES}
        figures["curve"] = {
            str(value): [point["seen"], point["unseen"]] for value, point in points.items()
        }
    return figures


def draw(results: Sequence[Mapping[str, Any]], figure_name: str, file: Path) -> None:
    """Draw the seen-unseen curve of some arms, the mean over the runs."""
    figure = Figure(figsize=(6, 4.6), layout="constrained")
    axes = figure.subplots()
    for arm in ARMS:
        curves = [arms[arm.key]["curve"] for arms in results if "curve" in arms[arm.key]]
        if curves:
            points = np.array([list(curve.values()) for curve in curves]).mean(0)
            axes.plot(points[:, 0], points[:, 1], marker="o", markersize=3, label=arm.label)
    axes.set(xlabel=f"{figure_name}, seen classes", ylabel=f"{figure_name}, unseen classes")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = options(__doc__, out="pading", seeds=[0, 1, 2, 3, 4])
    parser.add_argument("--part", choices=PARTS, default="scenes")
    parser.add_argument("--data", type=Path, default=REAL_DATA, help="the real data")
    parser.add_argument("--scenes", type=int, default=1500, help="generated training scenes")
    parser.add_argument(
        "--head-seeds", type=int, nargs="+", default=[0], help="second stages on each run"
    )
    parser.add_argument(
        "--arm-set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting of the second stage",
    )
    parser.add_argument("--train-only", action="store_true", help="train the runs and stop")
    arguments = parse(parser, "scenes", "arm_set")
    part = PARTS[arguments.part](arguments)
    if arguments.train_only:
        for seed in arguments.seeds:
            data = [(str(part.train), 1.0)]
            train_once(arguments.part, seed, data, part.overrides, arguments)
        return
    results = [row for seed in arguments.seeds for row in evaluate_run(part, seed, arguments)]
    name = {"pq": "PQ", "iou": "mIoU"}[results[0][ARMS[0].key]["figure"]]
    rows = []
    for arm in ARMS:
        count = 1 if arm.settings is None else len(arguments.head_seeds)
        chosen = results[:: len(arguments.head_seeds) // count]
        cells = (interval([row[arm.key][key] for row in chosen], 1) for key in FIGURES)
        rows.append((arm.label, *cells))
    ceiling = interval([row["ceiling"] for row in results[:: len(arguments.head_seeds)]], 1)
    columns = ("class head", *(f"{name} {key}" for key in FIGURES))
    (arguments.out / f"{arguments.part}.json").write_text(json.dumps(results, indent=1) + "\n")
    text = f"\nMasks of unseen classes that some proposal covers: {ceiling} %\n"
    (arguments.out / f"{arguments.part}.md").write_text(markdown(columns, rows) + text)
    draw(results, name, arguments.out / f"{arguments.part}.png")
    stages = f"{len(arguments.seeds)} runs, {len(arguments.head_seeds)} second stages on each"
    Console().print(table(f"{arguments.part}: {stages}", columns, rows))
    Console().print(text.strip())


if __name__ == "__main__":
    run_script(main)
