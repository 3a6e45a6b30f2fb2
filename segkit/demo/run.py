"""The whole path on generated scenes: convert, train, pseudolabel, predict, evaluate, and a picture
of it all."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkit.demo.native import SPLITS, NativeSets, Split, write_native
from segkit.demo.sheet import Group, draw_sheet
from segkit.errors import InputError
from segkit.shards.reader import ShardSet

if TYPE_CHECKING:
    from segkit.benchmark.objects365 import Truth
    from segkit.sources.source import Source

TRAIN_SCENES, VAL_SCENES = 500, 60
"""Of each of the three data sets."""
STEPS = 1400
RECIPE = "dataseg-mini"
SETTINGS = (
    "data.image_size=128",
    "data.batch_size=8",
    "data.scale_min=0.8",
    "data.scale_max=1.5",
    "data.zoom_probability=0.4",
    "inference.image_size=128",
    "model.backbone=resnet10t",
    "model.queries=25",
    "optimizer.lr=1e-3",
    "optimizer.backbone_lr_factor=1.0",
    "optimizer.warmup_steps=30",
    "optimizer.ema_decay=0.99",
)
"""What differs from the recipe: the scenes are small and show few things, and the backbone starts
from nothing, from where a short residual network learns faster than MobileNetV2."""
RATES = {"panoptic": 2.0, "semantic": 1.0, "boxes": 1.0}
"""How often a step draws each data set: the panoptic one is the one with masks of single things."""
MARK = ".segkit-demo"
"""File by which a folder of generated scenes is told from a user's own."""

Progress = Callable[[str, int, int], None]
"""Told the stage, what is done of it, and how much there is to do."""


@dataclass(frozen=True)
class Demo:
    """What came of the demo."""

    metrics: dict[str, Any]
    """As `segkit demo --json` prints it: PQ, mIoU and AP in 0-100, IoU in 0-1, seconds of each
    stage."""
    run: Path
    sheet: Path
    """Contact sheet, PNG."""


@dataclass(frozen=True)
class _Validation:
    """The converted validation sets."""

    panoptic: ShardSet
    semantic: ShardSet
    boxes: ShardSet
    hidden: "Truth"
    """True masks of the boxes, which no stage reads before the scoring."""


@dataclass(frozen=True)
class _Found:
    """What the model says of them."""

    panoptic: ShardSet
    semantic: ShardSet
    instances: ShardSet
    """Found without the boxes."""
    pseudo: ShardSet
    """The boxes turned into masks."""


def run_demo(
    out: Path,
    *,
    steps: int = STEPS,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = lambda *_: None,
) -> Demo:
    """Go the whole path; a second run in the same folder generates the scenes anew and publishes
    new versions.

    Args:
        out: folder for everything.
        steps: of the training.
        seed: of the scenes and of the training.
        device: auto, cpu, cuda or cuda:N.
        progress: told about each stage.

    Raises:
        InputError: `out` holds a folder `native` that is not the demo's.
    """
    clock = _Clock(progress)
    with clock.stage("generate"):
        native = _generate(out / "native", seed)
    with clock.stage("convert"):
        train_sets, val = _convert(native, out / "sets", lambda done: progress("convert", done, 7))
    with clock.stage("train"):
        run = _train(
            train_sets,
            out / "run",
            steps,
            seed,
            device,
            lambda done: progress("train", done, steps),
        )
    with clock.stage("pseudolabel"):
        pseudo = _pseudolabel(run, val.boxes, out / "pseudo", device)
    with clock.stage("eval"):
        found = _predict(run, val, pseudo, out / "predictions", device)
        metrics = _evaluate(val, found)
    with clock.stage("picture"):
        sheet = out / "contact-sheet.png"
        _draw(val, found, metrics, sheet)
    return Demo({**metrics, "seconds": clock.seconds}, run, sheet)


class _Clock:
    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; its end is told as 1 of 1."""
        self._progress(name, 0, 1)
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 1)
        self.seconds["total"] = round(
            sum(value for key, value in self.seconds.items() if key != "total"), 1
        )
        self._progress(name, 1, 1)


def _generate(root: Path, seed: int) -> NativeSets:
    if root.exists() and not (root / MARK).is_file():
        raise InputError(
            "the folder is not the demo's, and would be emptied",
            file=root,
            hint="give another --out",
        )
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    (root / MARK).touch()
    return write_native(root, train=TRAIN_SCENES, val=VAL_SCENES, seed=seed)


def _convert(
    native: NativeSets, out: Path, on_set: Callable[[int], None]
) -> tuple[list[ShardSet], _Validation]:
    """Convert all sets: those to train on, and those to validate on."""
    made: dict[str, ShardSet] = {}
    for split in SPLITS:
        for name, source in _sources(native, split).items():
            made[f"{name}-{split}"] = _convert_one(source, out / f"{name}-{split}", split)
            on_set(len(made))
    hidden = _hidden(native, out / "hidden-val")
    on_set(len(made) + 1)
    train = [made[f"{name}-train"] for name in RATES]
    return train, _Validation(made["panoptic-val"], made["semantic-val"], made["boxes-val"], hidden)


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


def _hidden(native: NativeSets, out: Path) -> "Truth":
    from segkit.benchmark.objects365 import check, ground_truth, open_file

    source = open_file(native.objects365_masks, native.objects365_images)
    checked = check(source, look_for_images=False)
    return ground_truth(source, checked, out, with_images=False, on_progress=lambda images: None)


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
    from segkit.training.run import Callbacks, train

    callbacks = Callbacks(on_step=lambda record: on_step(record.step))
    overrides = (*SETTINGS, f"training.seed={seed}")
    data = [(str(shards.path), rate) for shards, rate in zip(sets, RATES.values(), strict=True)]
    return train(
        RECIPE, data, out, steps=steps, device=device, overrides=overrides, callbacks=callbacks
    )


def _pseudolabel(run: Path, boxes: ShardSet, out: Path, device: str) -> ShardSet:
    from segkit.inference.pseudolabel import pseudolabel_set
    from segkit.runs.run import load_run

    return pseudolabel_set(load_run(run, device), boxes, out)[0]


def _predict(run: Path, val: _Validation, pseudo: ShardSet, out: Path, device: str) -> _Found:
    """Predictions for each validation set, by the task that its labels allow; for the boxes,
    instances."""
    from segkit.inference.predict import predict_set

    panoptic = predict_set(run, val.panoptic, "panoptic", out / "panoptic", device)
    semantic = predict_set(run, val.semantic, "semantic", out / "semantic", device)
    instances = predict_set(run, val.boxes, "instance", out / "instances", device)
    return _Found(panoptic, semantic, instances, pseudo)


def _evaluate(val: _Validation, found: _Found) -> dict[str, Any]:
    from segkit.benchmark.objects365 import score
    from segkit.metrics.box_prompt_iou import evaluate_box_prompts
    from segkit.metrics.evaluate import evaluate

    panoptic = evaluate(val.panoptic, found.panoptic, "panoptic")
    semantic = evaluate(val.semantic, found.semantic, "semantic")
    instance = score(val.hidden, found.instances)
    hidden = val.hidden.shards
    pseudo = evaluate_box_prompts(hidden.samples(), found.pseudo.samples(), hidden.taxonomy)
    return {
        "panoptic": panoptic["all"] | {group: panoptic[group] for group in ("things", "stuff")},
        "semantic": {key: semantic[key] for key in ("miou", "pixel_accuracy")},
        "instance": {key: instance[key] for key in ("ap", "ap50", "ap75")},
        "pseudo": pseudo,
    }


def _draw(val: _Validation, found: _Found, metrics: dict[str, Any], path: Path) -> None:
    from segkit.images.draw import save_png

    groups = (
        Group("COCO layout: panoptic", 2, val.panoptic, found.panoptic),
        Group("ADE20K layout: semantic", 2, val.semantic, found.semantic),
        Group(
            "Objects365 layout: boxes alone",
            3,
            val.hidden.shards,
            found.instances,
            val.boxes,
            found.pseudo,
        ),
    )
    save_png(draw_sheet(groups, note_of(metrics)), path)


def note_of(metrics: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """The figures of a demo as lines of text: name and value."""
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
