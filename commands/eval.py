"""`segkit eval`: figures of predictions, as a table, metrics.json and a report."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from segkit.errors import InputError
from segkit.storage import location, writable_local

from .common import JSON_OPTION, counted, emit, table
from .scoring import (
    CHECKPOINT_HELP,
    PREDICTIONS_HELP,
    SETTINGS_OPTION,
    TASKS,
    check_source,
    for_runs,
    one_of,
    prediction_source,
    refuse_idle,
    tables,
    warn,
)

if TYPE_CHECKING:
    from segkit.metrics.evaluate import EvalOptions
    from segkit.metrics.objects import IouType
    from segkit.shards.manifest import Task
    from segkit.shards.reader import ShardSet

_ANALYSED = 5_000
"""Images up to which instances are also iou_type one by one, which takes memory."""
_MAX_DETS = 100
_SAMPLES = 1_000
"""Draws of a comparison where --bootstrap says nothing."""


def evaluate(
    data: str = typer.Option(metavar="SET", help="Ground truth: a shard set."),
    task: str = typer.Option(metavar="panoptic|semantic|instance", help="What to score."),
    out: Path = typer.Option(
        metavar="DIR",
        parser=writable_local,
        help="Directory for metrics.json, report.html and, with --checkpoint, the predictions.",
    ),
    checkpoint: str = typer.Option(None, metavar="RUN", help=CHECKPOINT_HELP),
    predictions: str = typer.Option(None, metavar="SET|FILE", help=PREDICTIONS_HELP),
    compare: tuple[str, str] = typer.Option(
        None,
        metavar="A B",
        help="Compare two predictions (as --predictions takes them) for the same images.",
    ),
    prediction_masks: Path = typer.Option(
        None,
        metavar="DIR",
        parser=location,
        help="PNG folder of a COCO panoptic JSON, if not beside it.",
    ),
    by: str = typer.Option("mask", help="What makes an instance match: mask or box."),
    evaluator: str = typer.Option(
        "hotcoco", help="COCO AP by hotcoco, faster-coco-eval or pycocotools."
    ),
    max_dets: int = typer.Option(
        _MAX_DETS, min=1, help="Detections that count, of each class in each image."
    ),
    boundary: bool = typer.Option(False, "--boundary", help="Also score by boundary IoU (slow)."),
    bootstrap: int = typer.Option(
        0,
        min=0,
        help=f"Draws of the images for 95 % intervals, such as 1000; --compare draws {_SAMPLES:,} by itself.",
    ),
    unseen: Path = typer.Option(
        None, help="Text file of classes that training has not seen, one a line."
    ),
    given_boxes: bool = typer.Option(
        False,
        "--given-boxes",
        help="Predictions are masks for the true boxes (pseudolabel): IoU by size and class.",
    ),
    settings: list[str] = SETTINGS_OPTION,
    device: str = typer.Option(
        "auto", "--device", help="Where --checkpoint runs: auto, cpu, cuda or cuda:N."
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Score predictions against ground truth: PQ, mIoU or COCO AP.

    Example: segkit eval --data work/coco-val --checkpoint work/run --task panoptic --out work/eval
    """
    from segkit.metrics.class_mapping import task_class_names
    from segkit.metrics.evaluate import EvalOptions, check_task
    from segkit.metrics.instance import EVALUATORS
    from segkit.metrics.zero_shot import check_unseen
    from segkit.shards.reader import ShardSet

    chosen = one_of(task, TASKS, "--task")
    iou_type: IouType = one_of(by, ("mask", "box"), "--by")
    instances, outlined = chosen == "instance", chosen != "semantic" and iou_type == "mask"
    refuse_idle(
        ("--by", iou_type != "mask" and not instances, "--task instance"),
        ("--evaluator", one_of(evaluator, tuple(EVALUATORS), "--evaluator") != "hotcoco" and not instances,
         "--task instance"),
        ("--max-dets", max_dets != _MAX_DETS and not instances, "--task instance"),
        ("--boundary", boundary and not outlined, "--task panoptic or instance, by masks"),
        ("--given-boxes", given_boxes and not (instances and predictions), "--task instance --predictions SET"),
        ("--unseen", bool(unseen and compare), "--checkpoint or --predictions"),
        ("--prediction-masks", bool(prediction_masks) and not predictions, "--predictions FILE"),
        *for_runs(checkpoint, settings, device),
    )  # fmt: skip
    if not compare:
        check_source(checkpoint, predictions, settings, chosen)
    elif checkpoint or predictions:
        raise InputError(
            "--compare takes both predictions itself",
            hint="leave --checkpoint and --predictions out",
        )
    truth, new = ShardSet.open(data), _names(unseen)
    limits = tuple(sorted({limit for limit in (1, 10) if limit < max_dets} | {max_dets}))
    few = len(truth) <= _ANALYSED
    options = EvalOptions(
        evaluator,
        iou_type,
        limits,
        detections=few,
        boundary=boundary,
        tide=few,
        bootstrap=bootstrap,
        unseen=tuple(new),
        box_prompts=given_boxes,
    )
    check_task(truth, chosen, options)
    check_unseen(task_class_names(truth.taxonomy, chosen), new)
    if compare:
        _compare(truth, compare, chosen, options, bootstrap or _SAMPLES, out, as_json)
        return
    source, spec = prediction_source(
        truth, chosen, checkpoint, predictions, prediction_masks, out, device, settings
    )
    _score(truth, source, spec, chosen, options, out, as_json)


def _score(
    truth: "ShardSet",
    source: Any,
    spec: "str | ShardSet",
    task: "Task",
    options: "EvalOptions",
    out: Path,
    as_json: bool,
) -> None:
    from segkit.metrics.evaluate import evaluate
    from segkit.metrics.output import origin, write_json, write_text
    from segkit.metrics.predictions import as_predictions
    from segkit.report.build import report

    predicted = as_predictions(source, truth)
    evaluation = evaluate(truth, predicted, task, options)
    result = {
        "task": task,
        "data": origin(truth),
        "predictions": origin(spec),
        **evaluation.metrics,
    }
    write_json(out / "metrics.json", result)
    write_text(out / "report.html", report(result, evaluation, truth, predicted))
    warn(result)
    emit(
        result,
        schema="segkit.metrics/1",
        as_json=as_json,
        tables=[*tables(result, truth), f"{out / 'report.html'}"],
    )


def _compare(
    truth: "ShardSet",
    both: tuple[str, str],
    task: "Task",
    options: "EvalOptions",
    samples: int,
    out: Path,
    as_json: bool,
) -> None:
    from segkit.metrics.evaluate import compare
    from segkit.metrics.output import figure_name, origin, write_json
    from segkit.metrics.predictions import open_predictions

    a, b = (open_predictions(spec, truth) for spec in both)
    found = compare(truth, a, b, task, options, samples)
    result = {"data": origin(truth), "a": both[0], "b": both[1], **found}
    write_json(out / "compare.json", result, "segkit.compare/1")
    rows = []
    for name, row in result["figures"].items():
        low, high = ("-" if edge is None else f"{edge:+.2f}" for edge in row["interval"])
        better = "-" if row["b_better"] is None else f"{100 * row['b_better']:.1f} %"
        rows.append(
            (figure_name(name), row["a"], row["b"], row["difference"], f"{low} to {high}", better)
        )
    title = f"a = {both[0]}\nb = {both[1]}\n{counted(result['images'], 'image')}, {counted(samples, 'draw')}"
    columns = ("", "a", "b", "b - a", "95 % interval", "b ahead")
    emit(result, schema="segkit.compare/1", as_json=as_json, tables=[table(title, columns, rows)])


def _names(file: Path | None) -> list[str]:
    if file is None:
        return []
    if not file.is_file():
        raise InputError(
            "no such file", file=file, hint="give a text file with one class name a line"
        )
    names = [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]
    if not names:
        raise InputError("names no class", file=file, hint="write one class name a line")
    return names
