"""Run every stage on generated scenes: convert, train, pseudolabel, predict, evaluate, draw."""

import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkit.demo.layouts import SPLITS, NativeSets, Split, write_native_sets
from segkit.demo.sheet import Group, draw_sheet
from segkit.errors import InputError, UnchangedWarning
from segkit.shards.reader import ShardSet

if TYPE_CHECKING:
    from segkit.benchmark.objects365_instances import GroundTruth
    from segkit.sources.source import Source

TRAIN_SCENES, VAL_SCENES = 500, 60
"""Scenes of each of the three data sets."""
STEPS = 1600
RECIPE = "dataseg-mini"
SETTINGS = (
    "data.image_size=128",
    "data.batch_size=8",
    "data.scale_min=0.8",
    "data.scale_max=1.5",
    "data.zoom_probability=0.4",
    "inference.image_size=128",
    "loss.box_prompts=0.1",
    "loss.dense=0",
    "model.backbone=resnet10t",
    "model.class_scale=10",
    "model.queries=25",
    "model.rounds=1",
    "optimizer.lr=1e-3",
    "optimizer.backbone_lr_factor=1.0",
    "optimizer.warmup_steps=30",
    "optimizer.ema_decay=0.99",
)
"""Changes to the recipe: scenes are small and show few things, so a decoder of one round is enough,
and from random weights a short residual network learns faster than MobileNetV2."""
WEIGHTS = {"panoptic": 2.0, "semantic": 1.0, "boxes": 1.0}
"""Sampling weight of each data set. Only the panoptic set has masks of single things."""
MARK = ".segkit-demo"
"""File that marks a folder of generated scenes, so that no other folder is emptied."""

Progress = Callable[[str, int, int], None]
"""Called with the stage, the work done and the work in total."""


@dataclass(frozen=True)
class DemoResult:
    """Figures and files of a demo."""

    metrics: dict[str, Any]
    """PQ, mIoU and AP in 0-100, IoU in 0-1, seconds of each stage; `segkit demo --json` prints
    them."""
    run: Path
    sheet: Path
    """Contact sheet, PNG."""


@dataclass(frozen=True)
class ValidationSets:
    """The converted validation sets."""

    panoptic: ShardSet
    semantic: ShardSet
    boxes: ShardSet
    hidden: "GroundTruth"
    """True masks of the boxes; no stage reads them before the evaluation."""


@dataclass(frozen=True)
class _Predictions:
    """Outputs of the model on the validation sets."""

    panoptic: ShardSet
    semantic: ShardSet
    instances: ShardSet
    """Predicted without the boxes."""
    pseudo: ShardSet
    """Masks predicted from the boxes."""


def run_demo(
    out: Path,
    *,
    steps: int = STEPS,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = lambda *_: None,
) -> DemoResult:
    """Run all stages.

    A second run in the same folder regenerates the scenes, trains another version of the run, and
    publishes further versions of what differs from before. It resumes the training of an
    interrupted one with the same settings.

    Args:
        out: folder for all files.
        steps: training steps.
        seed: seed of the scenes and of training.
        device: auto, cpu, cuda or cuda:N.
        progress: called as stages advance.

    Raises:
        InputError: `out` contains a folder `native` that the demo did not write.
    """
    with warnings.catch_warnings():  # nobody asked for each of these sets
        warnings.simplefilter("ignore", UnchangedWarning)
        return _run_stages(out, steps, seed, device, progress)


def _run_stages(out: Path, steps: int, seed: int, device: str, progress: Progress) -> DemoResult:
    timer = _StageTimer(progress)
    with timer.stage("generate"):
        native = generate_scenes(out / "native", seed)
    with timer.stage("convert"):
        train_sets, val = convert_scenes(
            native, out / "sets", lambda done: progress("convert", done, 7)
        )
    with timer.stage("train"):
        run = _train(
            train_sets,
            out / "run",
            steps,
            seed,
            device,
            lambda done: progress("train", done, steps),
        )
    with timer.stage("pseudolabel"):
        pseudo = _pseudolabel(run, val.boxes, out / "pseudo", device)
    with timer.stage("eval"):
        predictions = _predict(run, val, pseudo, out / "predictions", device)
        metrics = _evaluate(val, predictions)
    with timer.stage("picture"):
        sheet = out / "contact-sheet.png"
        _draw(val, predictions, metrics, sheet)
    return DemoResult({**metrics, "seconds": timer.seconds}, run, sheet)


class _StageTimer:
    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage and report its start as 0 of 1 and its end as 1 of 1."""
        self._progress(name, 0, 1)
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 1)
        total = sum(seconds for stage, seconds in self.seconds.items() if stage != "total")
        self.seconds["total"] = round(total, 1)
        self._progress(name, 1, 1)


def generate_scenes(root: Path, seed: int) -> NativeSets:
    """Generate the three data sets in their native layouts, in place of an earlier demo's.

    Raises:
        InputError: `root` exists, but no demo wrote it.
    """
    if root.exists() and not (root / MARK).is_file():
        raise InputError(
            "the demo would empty this folder, but did not write it",
            file=root,
            hint="give another --out",
        )
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    (root / MARK).touch()
    return write_native_sets(root, train=TRAIN_SCENES, val=VAL_SCENES, seed=seed)


def convert_scenes(
    native: NativeSets, out: Path, on_set: Callable[[int], None]
) -> tuple[list[ShardSet], ValidationSets]:
    """Convert all sets: training sets in the order of `WEIGHTS`, and validation sets."""
    sets: dict[str, ShardSet] = {}
    for split in SPLITS:
        for name, source in _sources(native, split).items():
            sets[f"{name}-{split}"] = _convert_one(source, out / f"{name}-{split}", split)
            on_set(len(sets))
    hidden = _hidden(native, out / "hidden-val")
    on_set(len(sets) + 1)
    train = [sets[f"{name}-train"] for name in WEIGHTS]
    return train, ValidationSets(
        sets["panoptic-val"], sets["semantic-val"], sets["boxes-val"], hidden
    )


def _sources(native: NativeSets, split: Split) -> "dict[str, Source]":
    from segkit.sources.ade import open_ade
    from segkit.sources.coco_panoptic import open_coco_panoptic
    from segkit.sources.objects365 import open_objects365

    folder = {"train": "training", "val": "validation"}[split]
    return {
        "panoptic": open_coco_panoptic(native.coco_panoptic(split), native.coco_images(split)),
        "semantic": open_ade(native.ade, folder, classes=native.ade_classes),
        "boxes": open_objects365(native.objects365_boxes(split), native.objects365_images),
    }


def _hidden(native: NativeSets, out: Path) -> "GroundTruth":
    from segkit.benchmark.objects365_instances import (
        check_file,
        convert_ground_truth,
        open_annotations,
    )

    source = open_annotations(native.objects365_masks, native.objects365_images)
    check = check_file(source, find_images=False)
    return convert_ground_truth(
        source, check, out, with_images=False, on_progress=lambda images: None
    )


def _convert_one(source: "Source", out: Path, split: Split) -> ShardSet:
    from segkit.sources.engine import ConvertOptions, convert

    arguments = {"annotations": str(source.annotations)}
    report = convert(source, out, ConvertOptions(split=split, workers=1), arguments=arguments)
    assert report.published is not None
    return report.published


def _train(
    sets: Sequence[ShardSet],
    out: Path,
    steps: int,
    seed: int,
    device: str,
    on_step: Callable[[int], None],
) -> Path:
    from segkit.distributed import choose_device, native_precision
    from segkit.stopping import StoppedError
    from segkit.training.interrupted import OtherRunError
    from segkit.training.train import train
    from segkit.training.trainer import Callbacks

    callbacks = Callbacks(on_step=lambda record: on_step(record.step))
    precision = native_precision(choose_device(device))  # bf16 steps take less time
    overrides = (*SETTINGS, f"training.precision={precision}", f"training.seed={seed}")
    data = [
        (str(shards.path), weight) for shards, weight in zip(sets, WEIGHTS.values(), strict=True)
    ]

    def attempt(*, resume: bool) -> Path:
        return train(
            RECIPE,
            data,
            out,
            steps=steps,
            device=device,
            overrides=overrides,
            callbacks=callbacks,
            resume=resume,
            restart=not resume,
        )

    try:
        try:
            return attempt(resume=True)
        except OtherRunError:  # an interrupted demo of other settings
            return attempt(resume=False)
    except StoppedError as error:
        raise error.with_advice("the same command continues") from None


def _pseudolabel(run: Path, boxes: ShardSet, out: Path, device: str) -> ShardSet:
    from segkit.inference.pseudolabel import pseudolabel
    from segkit.runs.open_run import load_run

    return pseudolabel(load_run(run, device), boxes, out)[0]


def _predict(
    run: Path, val: ValidationSets, pseudo: ShardSet, out: Path, device: str
) -> _Predictions:
    """Predict each validation set by the task of its labels; instances for the boxes."""
    from segkit.inference.outputs import predict_set
    from segkit.runs.open_run import load_run

    loaded = load_run(run, device)
    panoptic = predict_set(loaded, val.panoptic, "panoptic", out / "panoptic")
    semantic = predict_set(loaded, val.semantic, "semantic", out / "semantic")
    instances = predict_set(loaded, val.boxes, "instance", out / "instances")
    return _Predictions(panoptic, semantic, instances, pseudo)


def _evaluate(val: ValidationSets, predictions: _Predictions) -> dict[str, Any]:
    from segkit.benchmark.objects365_instances import evaluate_objects365
    from segkit.metrics.box_prompt_iou import evaluate_box_prompts
    from segkit.metrics.evaluate import evaluate

    panoptic = evaluate(val.panoptic, predictions.panoptic, "panoptic").metrics
    semantic = evaluate(val.semantic, predictions.semantic, "semantic").metrics
    instance = evaluate_objects365(val.hidden, predictions.instances)
    hidden = val.hidden.shards
    pseudo = evaluate_box_prompts(
        hidden.samples(check_masks=True),
        predictions.pseudo.samples(check_masks=True),
        hidden.taxonomy,
    )
    return {
        "panoptic": panoptic["all"] | {group: panoptic[group] for group in ("things", "stuff")},
        "semantic": {key: semantic[key] for key in ("miou", "pixel_accuracy")},
        "instance": {key: instance[key] for key in ("ap", "ap50", "ap75")},
        "pseudo": pseudo,
    }


def _draw(
    val: ValidationSets, predictions: _Predictions, metrics: dict[str, Any], path: Path
) -> None:
    from segkit.images.draw import save_png

    groups = (
        Group("COCO layout: panoptic", 2, val.panoptic, predictions.panoptic),
        Group("ADE20K layout: semantic", 2, val.semantic, predictions.semantic),
        Group(
            "Objects365 layout: boxes only",
            3,
            val.hidden.shards,
            predictions.instances,
            val.boxes,
            predictions.pseudo,
        ),
    )
    save_png(draw_sheet(groups, figure_lines(metrics)), path)


def figure_lines(metrics: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Write the figures of a demo as lines of text: name and value."""
    pseudo = metrics["pseudo"]
    return (
        ("Panoptic quality", f"{metrics['panoptic']['pq']:.1f}"),
        ("Semantic mIoU", f"{metrics['semantic']['miou']:.1f}"),
        ("Mask AP, trained on boxes", f"{metrics['instance']['ap']:.1f}"),
        ("Mean IoU of pseudo-masks", f"{pseudo['mean_iou']:.2f}"),
        (
            "of filled boxes, ellipses",
            f"{pseudo['filled_box_iou']:.2f}, {pseudo['ellipse_iou']:.2f}",
        ),
    )
