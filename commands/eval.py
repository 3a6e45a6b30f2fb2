"""`segkit eval`: evaluate predictions; prints a table, writes metrics.json and a report."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from segkit.atomic import folder_lock
from segkit.errors import InputError, plural
from segkit.parse import read_lines
from segkit.storage import location, writable_local

from .common import emit, note, table
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
    TASKS,
    complete_task,
    parse_choice,
    parse_workers,
    reject_unused,
)

if TYPE_CHECKING:
    from segkit.metrics.objects import IouType
    from segkit.metrics.task_metrics import EvalOptions
    from segkit.shards.manifest import Task
    from segkit.shards.reader import ShardSet

MAX_ANALYZED_IMAGES = 5_000
"""Images up to which detections and TIDE errors are computed too, which takes memory."""
MAX_DETS = 100
COMPARE_SAMPLES = 1_000
"""Draws of a comparison without --bootstrap."""
_COMPARE_SCHEMA = "segkit.compare/1"


def evaluate(
    data: str = typer.Option(metavar="SET", help="Ground truth: a shard set."),
    task: str = typer.Option(
        metavar="panoptic|semantic|instance",
        help="The task to evaluate the predictions for.",
        autocompletion=complete_task,
    ),
    out: Path = typer.Option(
        metavar="DIR",
        parser=writable_local,
        help="Directory for metrics.json, report.html and, with --checkpoint, the predictions.",
    ),
    checkpoint: str | None = CHECKPOINT_OPTION,
    predictions: str | None = PREDICTIONS_OPTION,
    compare: tuple[str, str] = typer.Option(
        None,
        metavar="A B",
        help="Compare two predictions (as --predictions takes them) for the same images.",
    ),
    prediction_masks: Path | None = typer.Option(
        None,
        metavar="DIR",
        parser=location,
        help="Folder of the PNGs of a COCO panoptic JSON, where it is not beside the JSON.",
    ),
    iou_type: str = typer.Option("mask", "--by", help="Match instances by mask or by box."),
    evaluator: str = EVALUATOR_OPTION,
    max_dets: int = typer.Option(
        MAX_DETS, min=1, help="Detections that count, of each class in each image."
    ),
    boundary: bool = typer.Option(
        False, "--boundary", help="Also compute the figures by boundary IoU (slow)."
    ),
    bootstrap: int = typer.Option(
        0,
        min=0,
        help="Draws of the images for 95 % intervals, such as 1000;"
        f" --compare draws {COMPARE_SAMPLES:,} by default.",
    ),
    unseen: Path | None = typer.Option(
        None,
        help="Text file of the classes that were not seen in training, one a line; by default"
        " those that the run of --checkpoint records.",
    ),
    given_boxes: bool = typer.Option(
        False,
        "--given-boxes",
        help="The predictions are masks for the true boxes (pseudolabel): also compute their IoU"
        " by size and class.",
    ),
    settings: list[str] = SETTINGS_OPTION,
    device: str = CHECKPOINT_DEVICE_OPTION,
    engine: str = ENGINE_OPTION,
    devices: str = DEVICES_OPTION,
    address: str | None = ADDRESS_OPTION,
    images_root: list[str] = IMAGES_ROOT_OPTION,
) -> None:
    """Evaluate predictions against ground truth: PQ, mIoU or COCO AP.

    Example: segkit eval --data work/coco-val --checkpoint work/run --task panoptic --out work/eval
    """
    from segkit.metrics.class_mapping import task_class_names
    from segkit.metrics.evaluate import check_task
    from segkit.metrics.instance import EVALUATORS
    from segkit.metrics.task_metrics import EvalOptions
    from segkit.metrics.zero_shot import check_unseen
    from segkit.shards.reader import ShardSet

    chosen = parse_choice(task, TASKS, "--task")
    compared: IouType = parse_choice(iou_type, ("mask", "box"), "--by")
    parse_choice(evaluator, tuple(EVALUATORS), "--evaluator")
    source = PredictionSource(
        checkpoint,
        predictions,
        settings,
        parse_workers(engine, devices, device, address),
        prediction_masks,
    )
    instances, by_box = chosen == "instance", compared == "box"
    no_boundary = chosen == "semantic" or by_box
    no_boxes = not (instances and predictions)
    reject_unused(
        ("--by", by_box and not instances, "--task instance"),
        ("--evaluator", evaluator != "hotcoco" and not instances, "--task instance"),
        ("--evaluator", evaluator != "hotcoco" and bool(compare), "--checkpoint or --predictions"),
        ("--max-dets", max_dets != MAX_DETS and not instances, "--task instance"),
        ("--boundary", boundary and no_boundary, "--task panoptic or instance, by masks"),
        ("--given-boxes", given_boxes and no_boxes, "--task instance --predictions SET"),
        ("--unseen", bool(unseen and compare), "--checkpoint or --predictions"),
        ("--prediction-masks", bool(prediction_masks) and not predictions, "--predictions FILE"),
        *source.unused_options(),
    )
    if not compare:
        source.check(chosen, groups_unseen=unseen is None)
    elif checkpoint or predictions:
        hint = "leave --checkpoint and --predictions out"
        raise InputError("--compare A B names both predictions", hint=hint)
    truth = ShardSet.open(data)
    evaluated, unseen_classes = task_class_names(truth.taxonomy, chosen), _class_names(unseen)
    if unseen is None and not compare:
        recorded, labels = source.unseen_classes(chosen), truth.taxonomy.unique_names
        named = {labels[c.id] for c in truth.taxonomy.categories if c.name in recorded}
        unseen_classes = [name for name in evaluated if name in named]
    few_images = len(truth) <= MAX_ANALYZED_IMAGES
    options = EvalOptions(
        evaluator,
        compared,
        max_dets=(*(limit for limit in (1, 10) if limit < max_dets), max_dets),
        detections=few_images,
        boundary=boundary,
        tide=few_images,
        bootstrap=bootstrap,
        unseen=unseen_classes,
        box_prompts=given_boxes,
    )
    check_task(truth, chosen, options)
    check_unseen(evaluated, unseen_classes)
    if checkpoint is not None:
        truth.require_images()
    with folder_lock(out):
        if compare:
            _compare(truth, compare, chosen, options, out)
        else:
            _evaluate(truth, source, chosen, options, out)


def _evaluate(
    truth: "ShardSet", source: PredictionSource, task: "Task", options: "EvalOptions", out: Path
) -> None:
    from segkit.atomic import write_text
    from segkit.metrics.evaluate import evaluate as evaluate_set
    from segkit.metrics.output import METRICS_SCHEMA, origin, write_json
    from segkit.metrics.predictions import as_predictions
    from segkit.report.build import report

    opened, spec = source.open(truth, task, out)
    predictions = as_predictions(opened, truth)
    evaluation = evaluate_set(truth, predictions, task, options, workers=source.workers)
    result: dict[str, Any] = {"task": task, "data": origin(truth), "predictions": origin(spec)}
    result |= evaluation.metrics
    file = out / "report.html"
    file.unlink(missing_ok=True)  # an older one never stands beside new figures
    write_json(out / "metrics.json", result)  # first: they took hours, and the report may fail
    warn(result, truth)
    write_text(file, report(result, evaluation, truth, predictions))
    printed = [*tables(result, truth), str(file)]
    emit(result, schema=METRICS_SCHEMA, tables=printed)


def _compare(
    truth: "ShardSet", specs: tuple[str, str], task: "Task", options: "EvalOptions", out: Path
) -> None:
    from segkit.metrics.evaluate import compare
    from segkit.metrics.output import (
        figure_name,
        origin,
        prediction_notes,
        truth_notes,
        write_json,
    )
    from segkit.metrics.predictions import SetPredictions, open_predictions

    options = replace(options, bootstrap=options.bootstrap or COMPARE_SAMPLES)
    a, b = (open_predictions(spec, truth, task=task) for spec in specs)
    differences = compare(truth, a, b, task, options)
    result = {"data": origin(truth), "a": specs[0], "b": specs[1], **differences}
    for name, side, spec in zip("ab", (a, b), specs, strict=True):
        source = origin(side.shards if isinstance(side, SetPredictions) else spec)
        result["predictions"][name] = source | result["predictions"][name]
    write_json(out / "compare.json", result, _COMPARE_SCHEMA)
    for text in truth_notes(result, truth):
        note(text)
    for name, side in result["predictions"].items():
        for text in prediction_notes(side):
            note(f"{name}: {text}")
    rows = []
    for name, row in result["figures"].items():
        low, high = ("-" if edge is None else f"{edge:+.2f}" for edge in row["interval"])
        ahead = "-" if row["b_better"] is None else f"{100 * row['b_better']:.1f} %"
        figures = (row["a"], row["b"], row["difference"])
        rows.append((figure_name(name), *figures, f"{low} to {high}", ahead))
    counts = f"{plural(result['images'], 'image')}, {plural(options.bootstrap, 'draw')}"
    title = (f"a = {specs[0]}", f"b = {specs[1]}", counts)
    columns = ("", "a", "b", "b - a", "95 % interval", "b ahead")
    emit(result, schema=_COMPARE_SCHEMA, tables=[table(title, columns, rows)])


def _class_names(file: Path | None) -> list[str]:
    if file is None:
        return []
    names = [line for _, line in read_lines(file, hint="give a text file, one class name a line")]
    if not names:
        raise InputError("contains no class name", file=file, hint="write one class name a line")
    return names
