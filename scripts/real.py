"""The main job on real data (`make real`): three data sets of three kinds, one model, masks for
boxes, one table.

Converts COCO panoptic, CamVid and the box-only stand-in for Objects365, trains `dataseg-mini` on
the three together, pseudolabels the boxes of the stand-in's validation images and scores
everything. What a folder already holds is not done again, so a run that was stopped continues where
it was; give another --out to start over.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from experiments import REAL_DATA, WEIGHTS, markdown, pretrained
from numpy.typing import NDArray
from rich.console import Console

from segkit.benchmark import objects365
from segkit.commands.common import progress, stderr, table
from segkit.demo.sheet import Group, draw_sheet
from segkit.errors import InputError, SegkitError
from segkit.images.draw import save_png
from segkit.inference.predict import predict_set
from segkit.inference.pseudolabel import pseudolabel_set
from segkit.metrics.box_prompt_iou import (
    evaluate_box_prompts,
    filled_box,
    inscribed_ellipse,
    mask_iou,
)
from segkit.metrics.evaluate import evaluate
from segkit.runs.run import load_run
from segkit.runs.run_manifest import read_run_manifest
from segkit.sample import Box
from segkit.shards.publish import resolve, versions
from segkit.shards.reader import ShardSet
from segkit.sources.coco_panoptic import open_coco_panoptic
from segkit.sources.engine import ConvertOptions, convert
from segkit.sources.objects365 import open_objects365
from segkit.sources.semantic_masks import open_semantic
from segkit.sources.source import Source
from segkit.taxonomy import load_taxonomy
from segkit.training.run import Callbacks, train

RECIPE = "dataseg-mini"
STEPS = 2200
"""What two cores do in 40 minutes."""
RATES = {"coco": 2.0, "camvid": 1.0, "standin": 1.0}
"""How often a step draws each data set."""
CAMVID_VOID = 11
GRABCUT_LEAST, GRABCUT_ROUNDS, GRABCUT_LOST = 400, 3, 0.02
"""Boxes of no more pixels get no GrabCut; its iterations on the others; a cut that keeps less of
its box is lost.

What stands in for those decides the figure, for GrabCut loses many: of the 864 boxes of the
stand-in's validation set, 163 are small, three are the whole image, and 194 of the others come back
empty. Filled boxes for small and empty ones give 0.548, ellipses 0.587; ellipses for all cuts under
2 % give 0.630, and that is what is done here. (The data's notes have 0.631 and do not say what
stands in; cuts of OpenCV 4.11 and 4.14 are alike.)"""


def sources(data: Path, labels: Path) -> dict[str, Callable[[], Source]]:
    """How each set is opened; `labels` is the file for the classes of CamVid."""
    coco, camvid, standin = (
        data / "coco",
        data / "camvid",
        data / "objects365_standin" / "annotations",
    )

    def panoptic(split: str) -> Source:
        return open_coco_panoptic(
            coco / "annotations" / f"panoptic_{split}2017.json", coco / f"{split}2017"
        )

    def semantic(split: str) -> Source:
        folders = camvid / "images" / split, camvid / "annotations" / split
        return open_semantic(*folders, labels, ignore=[CAMVID_VOID])

    return {
        "coco-train": lambda: panoptic("train"),
        "coco-val": lambda: panoptic("val"),
        "camvid-train": lambda: semantic("train"),
        "camvid-val": lambda: semantic("test"),
        "standin-train": lambda: open_objects365(standin / "zhiyuan_objv2_train.json", coco),
        "standin-val": lambda: open_objects365(standin / "zhiyuan_objv2_val.json", coco),
    }


class Stages:
    """Runs each stage once, and keeps the seconds that it took beside its results."""

    def __init__(self, out: Path) -> None:
        self.file = out / "seconds.json"
        out.mkdir(parents=True, exist_ok=True)
        self.seconds: dict[str, float] = (
            json.loads(self.file.read_text()) if self.file.exists() else {}
        )

    def set(self, name: str, folder: Path, make: Callable[[], object]) -> ShardSet:
        """The newest version in `folder`, made first if there is none."""
        if not versions(folder):
            with self._timed(name):
                make()
        return ShardSet.open(folder)

    def run(self, folder: Path, steps: int, make: Callable[[], object]) -> Path:
        """The newest run in `folder`, trained first if there is none; InputError where it has
        another length."""
        if not versions(folder):
            with self._timed("train"):
                make()
        if (trained := read_run_manifest(folder).steps) != steps:
            raise InputError(
                f"holds a run of {trained} steps, not {steps}",
                file=folder,
                hint="give another --out",
            )
        return resolve(folder)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        stderr.print(f"{name} ...")
        started = time.perf_counter()
        try:
            yield
        finally:  # what was interrupted counts as well
            self.seconds[name] = round(
                self.seconds.get(name, 0.0) + time.perf_counter() - started, 1
            )
            self.file.write_text(json.dumps(self.seconds, indent=1) + "\n")


def train_model(arguments: argparse.Namespace, sets: dict[str, ShardSet], out: Path) -> None:
    """Train on the three training sets, or go on with a training that was interrupted."""
    overrides = [*pretrained(arguments.data / WEIGHTS), *arguments.set]
    data = [(str(sets[f"{name}-train"].path), rate) for name, rate in RATES.items()]
    with progress() as bar:
        task = bar.add_task("train", total=arguments.steps)
        callbacks = Callbacks(on_step=lambda record: bar.update(task, completed=record.step))
        train(
            RECIPE,
            data,
            out,
            steps=arguments.steps,
            overrides=overrides,
            resume=True,
            callbacks=callbacks,
        )


def grabcut_iou(truth: ShardSet, images: ShardSet) -> float:
    """Mean IoU of OpenCV's GrabCut started from each true box, over all objects but crowds."""
    from segkit.masks import rle

    scores = []
    by_id = {sample.id: sample for sample in images.samples()}
    for sample in truth.samples():
        image = np.ascontiguousarray(images.image(by_id[sample.id])[..., ::-1])
        for segment in sample.segments:
            if segment.mask is None or segment.is_crowd:
                continue
            found = inscribed_ellipse(segment.box, *image.shape[:2])
            area = segment.box[2] * segment.box[3]
            # it needs some background beside the box
            if area > GRABCUT_LEAST and not filled_box(segment.box, *image.shape[:2]).all():
                cut = grabcut(image, segment.box)
                found = cut if cut.sum() >= GRABCUT_LOST * area else found
            scores.append(mask_iou(rle.decode(segment.mask, *image.shape[:2]), found))
    return float(np.mean(scores))


def grabcut(image: NDArray[np.uint8], box: Box) -> NDArray[np.bool_]:
    """The foreground (H, W) that GrabCut finds in a box of a BGR image (H, W, 3)."""
    import cv2

    labels = np.zeros(image.shape[:2], np.uint8)
    x, y, width, height = (round(value) for value in box)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(
        image, labels, (x, y, width, height), *models, GRABCUT_ROUNDS, cv2.GC_INIT_WITH_RECT
    )
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def measure(
    arguments: argparse.Namespace, sets: dict[str, ShardSet], run: Path, stages: Stages
) -> dict[str, Any]:
    """Predict, pseudolabel and score; draws the contact sheet too."""
    out = arguments.out
    found = {
        name: stages.set(
            f"predict {name}",
            out / "predictions" / name,
            lambda name=name, task=task: predict_set(
                run, sets[f"{name}-val"], task, out / "predictions" / name
            ),
        )
        for name, task in (("coco", "panoptic"), ("camvid", "semantic"), ("standin", "instance"))
    }
    pseudo = stages.set(
        "pseudolabel",
        out / "pseudo",
        lambda: pseudolabel_set(load_run(run), sets["standin-val"], out / "pseudo"),
    )
    file = arguments.data / "objects365_standin" / "annotations" / "o365_instance_seg_val.json"
    source = objects365.open_file(file, arguments.data / "coco")
    checked = objects365.check(source, look_for_images=False)
    place = out / "sets" / "standin-truth"
    shards = stages.set(
        "convert standin-truth",
        place,
        lambda: objects365.ground_truth(
            source, checked, place, with_images=False, on_progress=lambda images: None
        ),
    )
    truth = objects365.Truth(checked, shards, shards.manifest.ledger.annotations.dropped)
    panoptic = evaluate(sets["coco-val"], found["coco"], "panoptic")
    semantic = evaluate(sets["camvid-val"], found["camvid"], "semantic")
    instance = objects365.score(truth, found["standin"])
    result = {
        "panoptic": {group: panoptic[group] for group in ("all", "things", "stuff")},
        "semantic": {key: semantic[key] for key in ("miou", "pixel_accuracy")},
        "instance": {key: instance[key] for key in ("ap", "ap50", "ap75")},
        "pseudo": evaluate_box_prompts(
            truth.shards.samples(), pseudo.samples(), truth.shards.taxonomy
        ),
    }
    if arguments.grabcut:
        result["pseudo"]["grabcut_iou"] = grabcut_iou(truth.shards, sets["standin-val"])
    groups = (
        Group("COCO: panoptic", 3, sets["coco-val"], found["coco"]),
        Group("CamVid: semantic", 2, sets["camvid-val"], found["camvid"]),
        Group(
            "Objects365 stand-in: boxes alone",
            3,
            truth.shards,
            found["standin"],
            sets["standin-val"],
            pseudo,
        ),
    )
    save_png(
        draw_sheet(groups, [(name, shown) for name, shown in rows(result)]),
        out / "contact-sheet.png",
    )
    return result


def rows(result: dict[str, Any]) -> Sequence[tuple[str, str]]:
    """Names and figures of the one table."""
    panoptic, pseudo = result["panoptic"], result["pseudo"]
    lines = [
        (
            "COCO PQ (all, things, stuff)",
            ", ".join(f"{panoptic[group]['pq']:.1f}" for group in panoptic),
        ),
        ("CamVid mIoU", f"{result['semantic']['miou']:.1f}"),
        (
            "Stand-in mask AP, AP50",
            f"{result['instance']['ap']:.1f}, {result['instance']['ap50']:.1f}",
        ),
        (
            "Pseudo-masks, mean IoU",
            f"{pseudo['mean_iou']:.3f} ({pseudo['masked']} of {pseudo['boxes']} boxes masked)",
        ),
        ("Filled boxes, mean IoU", f"{pseudo['filled_box_iou']:.3f}"),
        ("Inscribed ellipses, mean IoU", f"{pseudo['ellipse_iou']:.3f}"),
    ]
    return (
        [*lines, ("GrabCut, mean IoU", f"{pseudo['grabcut_iou']:.3f}")]
        if "grabcut_iou" in pseudo
        else lines
    )


def hardware() -> str:
    """Cores and processor, as the system names them."""
    cores = len(os.sched_getaffinity(0))
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
    return f"{cores} cores, {model}"


def recorded(
    arguments: argparse.Namespace, result: dict[str, Any], seconds: dict[str, float]
) -> str:
    """The table, the command and the hardware, ready for docs/results.md."""
    import torch

    settings = (
        "".join(f" --set {item}" for item in arguments.set) + " --grabcut" * arguments.grabcut
    )
    times = ", ".join(f"{name} {value / 60:.1f}" for name, value in seconds.items() if value >= 30)
    return (
        f"Command: `python scripts/real.py --steps {arguments.steps}{settings}`. "
        f"Hardware: {hardware()}, no GPU; torch {torch.__version__}. Minutes: {times}.\n\n"
        f"{markdown(('figure', 'value'), rows(result))}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("real-out"), help="folder for everything")
    parser.add_argument("--data", type=Path, default=REAL_DATA)
    parser.add_argument("--steps", type=int, default=STEPS, help="of the training")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe"
    )
    parser.add_argument(
        "--grabcut",
        action="store_true",
        help="score GrabCut on the same boxes, which takes minutes",
    )
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        parser.error(f"no real data at {arguments.data} (set SEGKIT_REAL_DATA)")
    stages = Stages(arguments.out)
    labels = arguments.out / "camvid-labels.txt"
    # The set's own labels.txt has the names in an order that its masks contradict; the taxonomy has
    # the masks' order.
    labels.write_text("\n".join(load_taxonomy("camvid-11").names) + "\n")
    sets = {
        name: stages.set(
            f"convert {name}",
            arguments.out / "sets" / name,
            lambda name=name, source=source: convert(
                source(),
                arguments.out / "sets" / name,
                ConvertOptions(name=name),
                arguments={"data": str(arguments.data)},
            ),
        )
        for name, source in sources(arguments.data, labels).items()
    }
    run = stages.run(
        arguments.out / "run",
        arguments.steps,
        lambda: train_model(arguments, sets, arguments.out / "run"),
    )
    result = measure(arguments, sets, run, stages)
    (arguments.out / "results.json").write_text(
        json.dumps({**result, "seconds": stages.seconds}, indent=1) + "\n"
    )
    (arguments.out / "results.md").write_text(recorded(arguments, result, stages.seconds))
    Console().print(table("Real data", ("figure", "value"), rows(result)))
    print(f"{arguments.out / 'results.md'}\n{arguments.out / 'contact-sheet.png'}")


if __name__ == "__main__":
    try:
        main()
    except SegkitError as error:
        stderr.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
