"""`segkit benchmark`: evaluate on a published benchmark, beside the published figures."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from segkit.atomic import folder_lock
from segkit.errors import plural
from segkit.storage import writable_local

from .common import emit, note, table
from .progress import progress_bar
from .scoring import PredictionSource, tables, warn
from .shared_options import (
    ADDRESS_OPTION,
    CHECKPOINT_DEVICE_OPTION,
    CHECKPOINT_OPTION,
    DEVICES_OPTION,
    ENGINE_OPTION,
    EVALUATOR_OPTION,
    IMAGES_ROOT_OPTION,
    PREDICTIONS_OPTION,
    SETTINGS_OPTION,
    parse_choice,
    parse_workers,
    reject_unused,
)

if TYPE_CHECKING:
    from segkit.benchmark.objects365_instances import FileCheck
    from segkit.benchmark.published import Benchmark
    from segkit.shards.manifest import Task
    from segkit.shards.reader import ShardSet

app = typer.Typer(
    no_args_is_help=True,
    help="Evaluate a run or predictions on a benchmark, beside its published figures.\n\n"
    "Example: segkit benchmark coco-panoptic --data work/coco-val --checkpoint work/run "
    "--out work/bench",
)

_SCHEMA = "segkit.benchmark/1"
_TRANSFER = "open-vocabulary"
"""The benchmark whose published figures the set's class list and kind decide."""
_SET_BENCHMARKS = {
    "ade-semantic": ("ADE20K semantic segmentation (mIoU over 150 classes).", "work/ade-val"),
    "ade-panoptic": (
        "ADE20K panoptic segmentation (PQ) of a model that saw only semantic ADE labels.",
        "work/ade-panoptic-val",
    ),
    "coco-panoptic": ("COCO panoptic segmentation (PQ over 133 classes).", "work/coco-val"),
    _TRANSFER: (
        "Direct transfer: a data set that the model was not trained on, of which it gets only the"
        " class names.\n\n"
        "Figures are published for Pascal Context 59 and 459, COCO (semantic), Cityscapes and"
        " ADE20K (panoptic); the set's class list and kind decide which apply.",
        "work/context-59",
    ),
}
"""Benchmarks whose data is one set: name -> description and the set of the example."""


@app.command()
def objects365(
    annotations: Path = typer.Option(help="o365_instance_seg_val.json, or a file in its format."),
    images: Path = typer.Option(help="Folder of the images, in any layout of the archives."),
    out: Path = typer.Option(
        metavar="DIR",
        parser=writable_local,
        help="Directory for metrics.json and, with --checkpoint, the predictions and results.json.",
    ),
    checkpoint: str | None = CHECKPOINT_OPTION,
    predictions: str | None = PREDICTIONS_OPTION,
    evaluator: str = EVALUATOR_OPTION,
    training_set: str | None = typer.Option(
        None,
        metavar="SET",
        help="Objects365's training images, converted, to separate rare from frequent classes;"
        " by default the file's own images.",
    ),
    settings: list[str] = SETTINGS_OPTION,
    device: str = CHECKPOINT_DEVICE_OPTION,
    engine: str = ENGINE_OPTION,
    devices: str = DEVICES_OPTION,
    address: str | None = ADDRESS_OPTION,
) -> None:
    """Mask AP on the 1,000 Objects365 images with masks, of models trained on its boxes.

    Example: segkit benchmark objects365 --annotations o365_instance_seg_val.json --images val
    --checkpoint work/run --out work/bench
    """
    from segkit.benchmark import objects365_instances as benchmark
    from segkit.benchmark.published import load_benchmark
    from segkit.export.prediction_files import write_results
    from segkit.metrics.instance import EVALUATORS
    from segkit.shards.coco_image_ids import coco_ids_by_sample
    from segkit.shards.reader import ShardSet

    options = PredictionSource(
        checkpoint, predictions, settings, parse_workers(engine, devices, device, address)
    )
    options.check("instance")
    reject_unused(*options.unused_options())
    parse_choice(evaluator, tuple(EVALUATORS), "--evaluator")
    training = None if training_set is None else ShardSet.open(training_set)
    with_images = checkpoint is not None
    source = benchmark.open_annotations(annotations, images)
    check = benchmark.check_file(source, find_images=with_images)
    if training is not None:
        benchmark.check_training_set(source.taxonomy, training)
    if checkpoint is not None:
        options.workers.require()
    _note_differences(check, annotations)
    with folder_lock(out):
        with progress_bar("read", check.images) as advance:
            truth = benchmark.convert_ground_truth(
                source, check, out / "ground-truth", with_images=with_images, on_progress=advance
            )
        opened, spec = options.open(truth.shards, "instance", out)
        figures = benchmark.evaluate_objects365(truth, opened, evaluator, training)
        if isinstance(opened, ShardSet):
            samples = opened.samples(check_masks=True)
            write_results(out / "results.json", samples, coco_ids_by_sample(truth.shards))
        published = load_benchmark("objects365")
        more = [_mask_and_box_table(figures, training_set)]
        _finish(published, figures, truth.shards, spec, out, more)


def _add_command(name: str, description: str, data_set: str) -> None:
    """Add the command of a benchmark whose data is one set."""
    example = f"segkit benchmark {name} --data {data_set} --checkpoint work/run --out work/bench"

    @app.command(name, help=f"{description}\n\nExample: {example}")
    def command(
        data: str = typer.Option(metavar="SET", help="The benchmark's data, converted."),
        out: Path = typer.Option(
            metavar="DIR",
            parser=writable_local,
            help="Directory for metrics.json and, with --checkpoint, the predictions.",
        ),
        checkpoint: str | None = CHECKPOINT_OPTION,
        predictions: str | None = PREDICTIONS_OPTION,
        settings: list[str] = SETTINGS_OPTION,
        device: str = CHECKPOINT_DEVICE_OPTION,
        engine: str = ENGINE_OPTION,
        devices: str = DEVICES_OPTION,
        address: str | None = ADDRESS_OPTION,
        images_root: list[str] = IMAGES_ROOT_OPTION,
    ) -> None:
        options = PredictionSource(
            checkpoint, predictions, settings, parse_workers(engine, devices, device, address)
        )
        _evaluate_set(name, data, options, out)


for _name, _texts in _SET_BENCHMARKS.items():
    _add_command(_name, *_texts)


def _evaluate_set(name: str, data: str, options: PredictionSource, out: Path) -> None:
    """Evaluate a set for the task of the benchmark's metric."""
    from segkit.benchmark.published import class_differences, load_benchmark, transfer_benchmark
    from segkit.metrics.evaluate import check_task, evaluate
    from segkit.metrics.task_metrics import EvalOptions
    from segkit.shards.reader import ShardSet

    reject_unused(*options.unused_options())
    truth = ShardSet.open(data)
    published = load_benchmark(transfer_benchmark(truth) if name == _TRANSFER else name)
    task: Task = "panoptic" if published.metric == "pq" else "semantic"
    options.check(task)
    check_task(truth, task, EvalOptions())
    if options.checkpoint is not None:
        truth.require_images()
    differences = class_differences(published, truth)
    for difference in differences:
        note(f"{data}: {difference}")
    with folder_lock(out):
        opened, spec = options.open(truth, task, out)
        evaluation = evaluate(truth, opened, task, workers=options.workers)
        figures = evaluation.metrics | {"differences": differences}
        _finish(published, figures, truth, spec, out, [])


def _finish(
    published: "Benchmark",
    figures: dict[str, Any],
    truth: "ShardSet",
    spec: "str | ShardSet",
    out: Path,
    more: list[Table],
) -> None:
    """Write metrics.json and print the figures."""
    from segkit.metrics.output import origin, write_json

    result = {
        "benchmark": published.name,
        "data": origin(truth),
        "predictions": origin(spec),
        **figures,
        "published": [asdict(row) for row in published.rows],
    }
    file = out / "metrics.json"
    write_json(file, result, _SCHEMA)
    warn(result, truth)
    printed = [*tables(result, truth), *more, _published_table(result, published), str(file)]
    emit(result, schema=_SCHEMA, tables=printed)


def _note_differences(check: "FileCheck", annotations: Path) -> None:
    """Note how the file differs from the published one, and which images are missing."""
    for difference in check.differences:
        note(f"{annotations.name}: {difference}")
    if missing := check.missing_images:
        names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        count = f"{len(missing)} of {plural(check.images, 'image')}"
        verb = "is" if len(missing) == 1 else "are"
        note(f"{count} {verb} missing and not evaluated: {names}")


def _published_table(result: dict[str, Any], published: "Benchmark") -> Table:
    """The evaluated figure above the published ones."""
    value = result["all"]["pq"] if published.metric == "pq" else result[published.metric]
    images = f"measured here, {plural(result['images']['evaluated'], 'image')}"
    rows = [
        ("this run", "", images, value),
        *((row.model, row.backbone, row.trained_on, row.value) for row in published.rows),
    ]
    sources = sorted({row.source for row in published.rows})
    title = (published.title, f"published by {'; '.join(sources)}")
    return table(title, ("model", "backbone", "trained on", "%"), rows)


def _mask_and_box_table(figures: dict[str, Any], training_set: str | None) -> Table:
    from segkit.metrics.output import figure_name

    keys = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    groups = ("ap_rare", "ap_common", "ap_frequent")
    rows = [(figure_name(key), figures[key], figures["box"][key]) for key in (*keys, *groups)]
    counted_in = training_set or "the file's own images (no --training-set)"
    title = ("By mask and by box", f"rare, common and frequent in {counted_in}")
    return table(title, ("", "masks", "boxes"), rows)
