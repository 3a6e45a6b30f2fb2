"""Run every stage on real data (`make real`): three data sets of three kinds, one model, one table.

    python scripts/real.py --out real-out --grabcut

Converts COCO panoptic, CamVid and the box-only stand-in for Objects365, trains `dataseg-mini` on
all three, predicts masks for the boxes of the stand-in's validation images, and evaluates. An
interrupted run continues where it stopped, since each stage keeps its result in --out; give another
--out to start over.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from experiments import REAL_DATA, WEIGHTS, backbone_overrides, markdown, run_script
from rich.console import Console

from segkit.benchmark import objects365_instances
from segkit.commands.common import stderr, table
from segkit.commands.progress import progress
from segkit.demo.sheet import Group, draw_sheet
from segkit.errors import InputError
from segkit.images.draw import save_png
from segkit.inference.open_teacher import open_teacher
from segkit.inference.outputs import predict_set
from segkit.inference.pseudolabel import pseudolabel
from segkit.metrics.box_prompt_iou import evaluate_box_prompts
from segkit.metrics.evaluate import evaluate
from segkit.runs.open_run import load_run
from segkit.runs.run_manifest import read_run_manifest
from segkit.shards.reader import ShardSet
from segkit.shards.versions import resolve, versions
from segkit.sources.coco_panoptic import open_coco_panoptic
from segkit.sources.engine import ConvertOptions, convert
from segkit.sources.objects365 import open_objects365
from segkit.sources.semantic_masks import open_semantic
from segkit.sources.source import Source
from segkit.taxonomy import load_taxonomy
from segkit.training.train import train
from segkit.training.trainer import Callbacks

RECIPE = "dataseg-mini"
STEPS = 6000
"""About 40 minutes on two idle cores, 80 on one of a busy machine."""
SAMPLING_WEIGHTS = {"coco": 2.0, "camvid": 1.0, "standin": 2.0}
CAMVID_VOID = 11


class Stages:
    """Runs each stage once and records its duration in `seconds.json`."""

    def __init__(self, out: Path) -> None:
        self.file = out / "seconds.json"
        out.mkdir(parents=True, exist_ok=True)
        self.seconds: dict[str, float] = {}
        if self.file.exists():
            self.seconds = json.loads(self.file.read_text())

    def shard_set(self, name: str, folder: Path, make: Callable[[], object]) -> ShardSet:
        """Open the newest set in `folder`; call `make` first if there is none."""
        if not versions(folder):
            with self._timed(name):
                make()
        return ShardSet.open(folder)

    def run(self, folder: Path, steps: int, make: Callable[[], object]) -> Path:
        """Return the newest run in `folder`; call `make` first if there is none.

        Raises:
            InputError: the run has another number of steps.
        """
        if not versions(folder):
            with self._timed("train"):
                make()
        if (trained := read_run_manifest(folder).steps) != steps:
            raise InputError(
                f"this run has {trained} steps, not {steps}", file=folder, hint="give another --out"
            )
        return resolve(folder)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        stderr.print(f"{name} ...")
        started = time.perf_counter()
        try:
            yield
        finally:  # an interrupted attempt counts too
            seconds = self.seconds.get(name, 0.0) + time.perf_counter() - started
            self.seconds[name] = round(seconds, 1)
            self.file.write_text(json.dumps(self.seconds, indent=1) + "\n")


def sources(data: Path, labels: Path) -> dict[str, Callable[[], Source]]:
    """Return a function that opens the source of each set; `labels` lists CamVid's classes."""
    coco, camvid = data / "coco", data / "camvid"
    standin = data / "objects365_standin" / "annotations"

    def panoptic(split: str) -> Source:
        annotations = coco / "annotations" / f"panoptic_{split}2017.json"
        return open_coco_panoptic(annotations, coco / f"{split}2017")

    def semantic(split: str) -> Source:
        images, masks = camvid / "images" / split, camvid / "annotations" / split
        return open_semantic(images, masks, labels, ignore=[CAMVID_VOID])

    return {
        "coco-train": lambda: panoptic("train"),
        "coco-val": lambda: panoptic("val"),
        "camvid-train": lambda: semantic("train"),
        "camvid-val": lambda: semantic("test"),
        "standin-train": lambda: open_objects365(standin / "zhiyuan_objv2_train.json", coco),
        "standin-val": lambda: open_objects365(standin / "zhiyuan_objv2_val.json", coco),
    }


def convert_sets(arguments: argparse.Namespace, stages: Stages) -> dict[str, ShardSet]:
    """Convert all training and validation sets."""
    labels = arguments.out / "camvid-labels.txt"
    # CamVid's labels.txt contradicts the order of its masks; the taxonomy has the masks' order.
    labels.write_text("\n".join(load_taxonomy("camvid-11").names) + "\n")
    sets = {}
    for name, open_source in sources(arguments.data, labels).items():
        folder = arguments.out / "sets" / name

        def make(name: str = name, open_source: Callable[[], Source] = open_source) -> None:
            options, record = ConvertOptions(name=name), {"data": str(arguments.data)}
            convert(open_source(), arguments.out / "sets" / name, options, arguments=record)

        sets[name] = stages.shard_set(f"convert {name}", folder, make)
    return sets


def open_truth(arguments: argparse.Namespace, stages: Stages) -> objects365_instances.GroundTruth:
    """Convert the hidden masks of the stand-in's validation set."""
    file = arguments.data / "objects365_standin" / "annotations" / "o365_instance_seg_val.json"
    source = objects365_instances.open_annotations(file, arguments.data / "coco")
    checked = objects365_instances.check_file(source, find_images=False)
    folder = arguments.out / "sets" / "standin-truth"

    def make() -> None:
        objects365_instances.convert_ground_truth(
            source, checked, folder, with_images=False, on_progress=lambda images: None
        )

    shards = stages.shard_set("convert standin-truth", folder, make)
    return objects365_instances.GroundTruth(
        checked, shards, shards.manifest.ledger.annotations.dropped
    )


def train_model(arguments: argparse.Namespace, sets: dict[str, ShardSet], out: Path) -> None:
    """Train on the three training sets, or resume an interrupted run."""
    weights = zip(SAMPLING_WEIGHTS, arguments.weights, strict=True)
    data = [(str(sets[f"{name}-train"].path), weight) for name, weight in weights]
    with progress() as bar:
        task = bar.add_task("train", total=arguments.steps)
        train(
            RECIPE,
            data,
            out,
            steps=arguments.steps,
            overrides=[*backbone_overrides(arguments.data / WEIGHTS), *arguments.set],
            resume=True,
            callbacks=Callbacks(on_step=lambda record: bar.update(task, completed=record.step)),
        )


def predict(
    arguments: argparse.Namespace, sets: dict[str, ShardSet], run: Path, stages: Stages
) -> dict[str, ShardSet]:
    """Predict the validation sets, and masks for the stand-in's boxes (`pseudo`)."""
    predictions = {}
    for name, task in (("coco", "panoptic"), ("camvid", "semantic"), ("standin", "instance")):
        folder = arguments.out / "predictions" / name

        def make(name: str = name, task: Any = task, folder: Path = folder) -> None:
            predict_set(load_run(run, "auto"), sets[f"{name}-val"], task, folder)

        predictions[name] = stages.shard_set(f"predict {name}", folder, make)
    folder = arguments.out / "pseudo"
    predictions["pseudo"] = stages.shard_set(
        "pseudolabel",
        folder,
        lambda: pseudolabel(load_run(run, "auto"), sets["standin-val"], folder),
    )
    if arguments.grabcut:
        out = arguments.out / "grabcut"
        predictions["grabcut"] = stages.shard_set(
            "grabcut", out, lambda: pseudolabel(open_teacher("grabcut"), sets["standin-val"], out)
        )
    return predictions


def score(
    arguments: argparse.Namespace,
    sets: dict[str, ShardSet],
    predictions: dict[str, ShardSet],
    truth: objects365_instances.GroundTruth,
) -> dict[str, Any]:
    """Evaluate all predictions."""
    panoptic = evaluate(sets["coco-val"], predictions["coco"], "panoptic").metrics
    semantic = evaluate(sets["camvid-val"], predictions["camvid"], "semantic").metrics
    instance = objects365_instances.evaluate_objects365(truth, predictions["standin"])
    pseudo = score_masks(truth.shards, predictions["pseudo"])
    if arguments.grabcut:
        pseudo["grabcut_iou"] = score_masks(truth.shards, predictions["grabcut"])["mean_iou"]
    return {
        "panoptic": {group: panoptic[group] for group in ("all", "things", "stuff")},
        "semantic": {key: semantic[key] for key in ("miou", "pixel_accuracy")},
        "instance": {key: instance[key] for key in ("ap", "ap50", "ap75")},
        "pseudo": pseudo,
    }


def score_masks(truth: ShardSet, predictions: ShardSet) -> dict[str, Any]:
    """Return the figures of `evaluate_box_prompts` for a label layer of the boxes."""
    return evaluate_box_prompts(truth.samples(), predictions.samples(), truth.taxonomy)


def draw(
    result: dict[str, Any],
    sets: dict[str, ShardSet],
    predictions: dict[str, ShardSet],
    truth: objects365_instances.GroundTruth,
    file: Path,
) -> None:
    """Draw the contact sheet."""
    groups = (
        Group("COCO: panoptic", 3, sets["coco-val"], predictions["coco"]),
        Group("CamVid: semantic", 2, sets["camvid-val"], predictions["camvid"]),
        Group(
            "Objects365 stand-in: boxes only",
            3,
            truth.shards,
            predictions["standin"],
            sets["standin-val"],
            predictions["pseudo"],
        ),
    )
    save_png(draw_sheet(groups, figures(result)), file)


def figures(result: dict[str, Any]) -> Sequence[tuple[str, str]]:
    """Return the names and values of the table."""
    panoptic, instance, pseudo = result["panoptic"], result["instance"], result["pseudo"]
    pq = ", ".join(f"{group['pq']:.1f}" for group in panoptic.values())
    masked = f"{pseudo['masked']} of {pseudo['boxes']} boxes masked"
    rows = [
        ("COCO PQ (all, things, stuff)", pq),
        ("CamVid mIoU", f"{result['semantic']['miou']:.1f}"),
        ("Stand-in mask AP, AP50", f"{instance['ap']:.1f}, {instance['ap50']:.1f}"),
        ("Pseudo-masks, mean IoU", f"{pseudo['mean_iou']:.3f} ({masked})"),
        ("Filled boxes, mean IoU", f"{pseudo['filled_box_iou']:.3f}"),
        ("Inscribed ellipses, mean IoU", f"{pseudo['ellipse_iou']:.3f}"),
    ]
    if "grabcut_iou" in pseudo:
        rows.append(("GrabCut, mean IoU", f"{pseudo['grabcut_iou']:.3f}"))
    return rows


def hardware() -> str:
    """Return the number of cores and the processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(os.sched_getaffinity(0))} cores, {names[0] if names else platform.machine()}"


def results_page(
    arguments: argparse.Namespace, result: dict[str, Any], seconds: dict[str, float]
) -> str:
    """Write command, hardware, durations and table as Markdown."""
    changes = "".join(f" --set {item}" for item in arguments.set)
    if arguments.weights != list(SAMPLING_WEIGHTS.values()):
        changes += " --weights " + " ".join(f"{weight:g}" for weight in arguments.weights)
    grabcut = " --grabcut" if arguments.grabcut else ""
    times = ", ".join(f"{name} {value / 60:.1f}" for name, value in seconds.items() if value >= 30)
    return (
        f"Command: `python scripts/real.py --steps {arguments.steps}{changes}{grabcut}`. "
        f"Hardware: {hardware()}, no GPU; torch {torch.__version__}. Minutes: {times}.\n\n"
        f"{markdown(('figure', 'value'), figures(result))}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("real-out"), help="folder for all files")
    parser.add_argument("--data", type=Path, default=REAL_DATA)
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps")
    parser.add_argument(
        "--weights",
        nargs=3,
        type=float,
        default=list(SAMPLING_WEIGHTS.values()),
        metavar=tuple(name.upper() for name in SAMPLING_WEIGHTS),
        help="sampling weights of the three training sets",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a recipe key"
    )
    parser.add_argument(
        "--grabcut", action="store_true", help="evaluate GrabCut on the same boxes (takes minutes)"
    )
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        parser.error(f"no real data at {arguments.data} (set SEGKIT_REAL_DATA)")
    stages, out = Stages(arguments.out), arguments.out
    sets = convert_sets(arguments, stages)
    run = stages.run(
        out / "run", arguments.steps, lambda: train_model(arguments, sets, out / "run")
    )
    predictions = predict(arguments, sets, run, stages)
    truth = open_truth(arguments, stages)
    result = score(arguments, sets, predictions, truth)
    draw(result, sets, predictions, truth, out / "contact-sheet.png")
    record = {**result, "seconds": stages.seconds}
    (out / "results.json").write_text(json.dumps(record, indent=1) + "\n")
    (out / "results.md").write_text(results_page(arguments, result, stages.seconds))
    Console().print(table("Real data", ("figure", "value"), figures(result)))
    print(f"{out / 'results.md'}\n{out / 'contact-sheet.png'}")


if __name__ == "__main__":
    run_script(main)
