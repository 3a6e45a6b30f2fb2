"""`segkit benchmark`: figures on published benchmarks, beside the rows that others have
published."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from segkit.storage import writable_local

from .common import JSON_OPTION, counted, counting, emit, note, table
from .scoring import (
    CHECKPOINT_HELP,
    PREDICTIONS_HELP,
    SETTINGS_OPTION,
    check_source,
    for_runs,
    one_of,
    prediction_source,
    refuse_idle,
    tables,
    warn,
)

if TYPE_CHECKING:
    from segkit.benchmark.objects365 import FileCheck
    from segkit.benchmark.published import Published
    from segkit.shards.manifest import Task
    from segkit.shards.reader import ShardSet

app = typer.Typer(
    no_args_is_help=True,
    help="Score a run or predictions on a benchmark, beside its published rows.",
)

_DATA = typer.Option(metavar="SET", help="The benchmark's data, converted.")
_CHECKPOINT = typer.Option(None, metavar="RUN", help=CHECKPOINT_HELP)
_PREDICTIONS = typer.Option(None, metavar="SET|FILE", help=PREDICTIONS_HELP)
_OUT = typer.Option(
    metavar="DIR",
    parser=writable_local,
    help="Directory for metrics.json and, with --checkpoint, the predictions.",
)
_DEVICE = typer.Option(
    "auto", "--device", help="Where --checkpoint runs: auto, cpu, cuda or cuda:N."
)
_SCHEMA = "segkit.benchmark/1"


@app.command()
def objects365(
    annotations: Path = typer.Option(help="o365_instance_seg_val.json, or a file in its format."),
    images: Path = typer.Option(help="Folder of the images, in any layout of the archives."),
    out: Path = typer.Option(
        metavar="DIR",
        parser=writable_local,
        help="Directory for metrics.json and, with --checkpoint, the predictions and results.json.",
    ),
    checkpoint: str = _CHECKPOINT,
    predictions: str = _PREDICTIONS,
    evaluator: str = typer.Option(
        "hotcoco", help="COCO AP by hotcoco, faster-coco-eval or pycocotools."
    ),
    training_set: str = typer.Option(
        None,
        metavar="SET",
        help="Objects365's training images, converted: what counts as rare (else the file's own).",
    ),
    settings: list[str] = SETTINGS_OPTION,
    device: str = _DEVICE,
    as_json: bool = JSON_OPTION,
) -> None:
    """Mask AP on the 1,000 Objects365 images with masks: what box-only training data teaches of
    shapes.

    Example: segkit benchmark objects365 --annotations o365_instance_seg_val.json --images val
    --checkpoint work/run --out work/bench
    """
    from segkit.benchmark import objects365 as benchmark
    from segkit.benchmark.published import published
    from segkit.export.prediction_files import write_results
    from segkit.metrics.instance import EVALUATORS
    from segkit.metrics.output import origin
    from segkit.shards.reader import ShardSet

    check_source(checkpoint, predictions, settings, "instance")
    refuse_idle(*for_runs(checkpoint, settings, device))
    one_of(evaluator, tuple(EVALUATORS), "--evaluator")
    training = None if training_set is None else ShardSet.open(training_set)
    source = benchmark.open_file(annotations, images)
    checked = benchmark.check(source, look_for_images=checkpoint is not None)
    _tell(checked, annotations)
    with counting("read", checked.images) as advance:
        place, with_images = out / "ground-truth", checkpoint is not None
        truth = benchmark.ground_truth(
            source, checked, place, with_images=with_images, on_progress=advance
        )
    found, spec = prediction_source(
        truth.shards, "instance", checkpoint, predictions, None, out, device, settings
    )
    rows = published("objects365")
    origins = {"data": origin(truth.shards), "predictions": origin(spec)}
    result = {
        "benchmark": rows.name,
        **origins,
        **benchmark.evaluate_objects365(truth, found, evaluator, training),
        **_rows(rows),
    }
    if isinstance(found, ShardSet):
        write_results(out / "results.json", found.samples())
    _finish(result, truth.shards, rows, out, as_json, [_sizes(result, training_set)])


_TRANSFER = "open-vocabulary"
"""The set's class list and kind decide which benchmark it is."""


def _add(name: str, what: str, data_set: str) -> None:
    """The command of a benchmark whose data is one set."""
    example = f"segkit benchmark {name} --data {data_set} --checkpoint work/run --out work/bench"

    @app.command(name, help=f"{what}\n\nExample: {example}")
    def command(
        data: str = _DATA,
        out: Path = _OUT,
        checkpoint: str = _CHECKPOINT,
        predictions: str = _PREDICTIONS,
        settings: list[str] = SETTINGS_OPTION,
        device: str = _DEVICE,
        as_json: bool = JSON_OPTION,
    ) -> None:
        _compare(name, data, checkpoint, predictions, out, settings, device, as_json)


_add("ade-semantic", "ADE20K semantic segmentation (mIoU over 150 classes).", "work/ade-val")
_add(
    "ade-panoptic",
    "ADE20K panoptic segmentation (PQ) of a model that saw semantic ADE labels only.",
    "work/ade-panoptic-val",
)
_add("coco-panoptic", "COCO panoptic segmentation (PQ over 133 classes).", "work/coco-val")


_add(
    _TRANSFER,
    "Direct transfer: a data set that the model was not trained on, with only its class names given.\n\n"
    "Pascal Context 59 and 459, COCO (semantic), Cityscapes and ADE20K (panoptic) have published rows; the set's class "
    "list and kind decide which.",
    "work/context-59",
)


def _compare(
    name: str,
    data: str,
    checkpoint: str | None,
    predictions: str | None,
    out: Path,
    settings: Sequence[str],
    device: str,
    as_json: bool,
) -> None:
    """Score a set for the task that a benchmark's metric belongs to."""
    from segkit.benchmark.published import other_classes, published, transfer_benchmark
    from segkit.metrics.evaluate import EvalOptions, check_task, evaluate
    from segkit.metrics.output import origin
    from segkit.shards.reader import ShardSet

    refuse_idle(*for_runs(checkpoint, settings, device))
    truth = ShardSet.open(data)
    rows = published(transfer_benchmark(truth) if name == _TRANSFER else name)
    task: Task = "panoptic" if rows.metric == "pq" else "semantic"
    check_source(checkpoint, predictions, settings, task)
    check_task(truth, task, EvalOptions())
    for difference in (differences := other_classes(rows, truth)):
        note(f"{data}: {difference}")
    found, spec = prediction_source(
        truth, task, checkpoint, predictions, None, out, device, settings
    )
    metrics = evaluate(truth, found, task).metrics | {"differences": differences}
    origins = {"data": origin(truth), "predictions": origin(spec)}
    result = {"benchmark": rows.name, **origins, **metrics, **_rows(rows)}
    _finish(result, truth, rows, out, as_json, [])


def _finish(
    result: dict[str, Any],
    truth: "ShardSet",
    rows: "Published",
    out: Path,
    as_json: bool,
    more: list[Table | str],
) -> None:
    from segkit.metrics.output import write_json

    write_json(out / "metrics.json", result, _SCHEMA)
    warn(result)
    written = f"{out / 'metrics.json'}"
    shown = [*tables(result, truth), *more, _beside(result, rows), written]
    emit(result, schema=_SCHEMA, as_json=as_json, tables=shown)


def _tell(checked: "FileCheck", annotations: Path) -> None:
    """How the file differs from the published one, and which images are missing."""
    for difference in checked.differences:
        note(f"{annotations.name}: {difference}")
    if missing := checked.missing_images:
        some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        of = f"{len(missing)} of {counted(checked.images, 'image')}"
        note(f"{of} {'is' if len(missing) == 1 else 'are'} missing and not scored: {some}")


def _rows(rows: "Published") -> dict[str, Any]:
    from dataclasses import asdict

    return {"published": [asdict(row) for row in rows.rows]}


def _beside(result: dict[str, Any], rows: "Published") -> Table:
    """The measured figure on top of the published ones."""
    measured = result["all"]["pq"] if rows.metric == "pq" else result[rows.metric]
    images = f"measured here, {counted(result['images']['evaluated'], 'image')}"
    lines = [
        ("this one", "", images, measured),
        *((r.model, r.backbone, r.trained_on, r.value) for r in rows.rows),
    ]
    sources = sorted({row.source for row in rows.rows})
    return table(
        f"{rows.title}\npublished by {'; '.join(sources)}",
        ("model", "backbone", "trained on", "%"),
        lines,
    )


def _sizes(result: dict[str, Any], training_set: str | None) -> Table:
    from segkit.metrics.output import figure_name

    keys = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    groups = ("ap_rare", "ap_common", "ap_frequent")
    rows = [(figure_name(key), result[key], result["box"][key]) for key in (*keys, *groups)]
    counted_in = training_set or "this file's own images, for want of --training-set"
    return table(
        f"By mask and by box\nrare, common and frequent in {counted_in}",
        ("", "masks", "boxes"),
        rows,
    )
