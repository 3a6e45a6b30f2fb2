"""`segkit eval`: figures of predictions, as a table, metrics.json and a report."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.table import Table

from segkit.errors import InputError

from .common import JSON_OPTION, emit, progress, stderr, table

if TYPE_CHECKING:
    from segkit.manifest import Task
    from segkit.metrics.predictions import Predictions
    from segkit.shards.reader import ShardSet

_CLASSES = 20
TASKS: "tuple[Task, ...]" = ("panoptic", "semantic", "instance")
Choice = TypeVar("Choice", bound=str)


def evaluate(
    data: str = typer.Option(metavar="SET", help="Ground truth: a shard set."),
    task: str = typer.Option(metavar="panoptic|semantic|instance", help="What to score."),
    out: Path = typer.Option(help="Directory for metrics.json, report.html and, with --checkpoint, the predictions."),
    checkpoint: str = typer.Option(None, metavar="RUN", help="Score this run: its predictions are made first."),
    predictions: str = typer.Option(
        None, metavar="SET|FILE", help="Score these: a shard set, COCO results (JSON) or COCO panoptic (JSON + PNGs)."
    ),
    prediction_masks: Path = typer.Option(None, help="PNG folder of a COCO panoptic JSON, if not beside it."),
    by: str = typer.Option("mask", help="What makes an instance match: mask or box."),
    evaluator: str = typer.Option("hotcoco", help="COCO AP by hotcoco, faster-coco-eval or pycocotools."),
    device: str = typer.Option("cpu", help="Where --checkpoint runs."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Score predictions against ground truth: PQ, mIoU or COCO AP.

    Example: segkit eval --data work/coco-val --checkpoint work/run --task panoptic --out work/eval
    """
    from segkit.metrics.evaluate import Options, measure
    from segkit.metrics.record import described, write_json
    from segkit.shards.reader import ShardSet

    if (checkpoint is None) == (predictions is None):
        raise InputError("give --checkpoint RUN or --predictions SET|FILE", mend="one of the two")
    chosen, options = _one_of(task, TASKS, "--task"), Options(evaluator, _one_of(by, ("mask", "box"), "--by"))
    truth = ShardSet.open(data)
    source, spec = _source(truth, chosen, checkpoint, predictions, prediction_masks, out, device)
    measured = measure(truth, source, chosen, options)
    origin = {"data": described(truth), "predictions": described(spec)}
    result = {"task": task, **origin, **measured.metrics}
    write_json(out / "metrics.json", result)
    _warn(result)
    emit(result, schema="segkit.metrics/1", as_json=as_json, tables=_tables(result, out))


def _one_of(value: str, choices: Sequence[Choice], option: str) -> Choice:
    for choice in choices:
        if value == choice:
            return choice
    raise InputError(f"{option} {value}", mend=f"one of {', '.join(choices)}")


def _source(
    truth: "ShardSet",
    task: "Task",
    checkpoint: str | None,
    predictions: str | None,
    masks: Path | None,
    out: Path,
    device: str,
) -> "tuple[ShardSet | Predictions, str | ShardSet]":
    from segkit.metrics.predictions import SetPredictions, open_predictions

    if predictions is not None:
        opened = open_predictions(predictions, truth, masks)
        return opened, opened.shards if isinstance(opened, SetPredictions) else predictions
    from segkit.inference.predict import predict_set

    with progress() as bar:
        row = bar.add_task("predict", total=len(truth))
        made = predict_set(str(checkpoint), truth, task, out / "predictions", device, on_image=lambda: bar.advance(row))
    stderr.print(f"predictions: {made.path}", highlight=False)
    return made, made


def _warn(result: dict[str, Any]) -> None:
    if missing := result["images"]["without_prediction"]:
        count = result["images"]["evaluated"]
        stderr.print(f"note: {missing} of {count} images have no prediction; what they show counts as missed")
    if unmapped := result.get("class_map", {}).get("unmapped"):
        stderr.print(f"note: {len(unmapped)} predicted classes have no name in the ground truth and count as nothing")


def _tables(result: dict[str, Any], out: Path) -> list[Table | str]:
    heads = {"panoptic": _panoptic, "semantic": _semantic, "instance": _instance}
    return [heads[result["task"]](result), _per_class(result), f"{out / 'metrics.json'}"]


def _panoptic(result: dict[str, Any]) -> Table:
    rows = [(group, *(result[group][key] for key in ("pq", "sq", "rq", "n"))) for group in ("all", "things", "stuff")]
    return table("Panoptic quality", ("classes", "PQ", "SQ", "RQ", "n"), rows)


def _semantic(result: dict[str, Any]) -> Table:
    keys = {"miou": "mIoU", "fwiou": "fwIoU", "pixel_accuracy": "pixel accuracy", "mean_accuracy": "mean accuracy"}
    title = f"Semantic segmentation ({result['classes_counted']} classes, {result['absent_classes']})"
    return table(title, ("", "%"), [(name, result[key]) for key, name in keys.items()])


def _instance(result: dict[str, Any]) -> Table:
    keys = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", f"ar{result['max_dets'][-1]}")
    row = [result[key] for key in keys]
    return table(f"COCO AP by {result['by']} ({result['evaluator']})", ("", *keys), [("all classes", *row)])


def _per_class(result: dict[str, Any]) -> Table:
    """The weakest classes first: what to look at."""
    if result["task"] == "panoptic":
        rows = [(name, *row.values()) for name, row in result["per_class"].items() if row["pq"] is not None]
        columns: tuple[str, ...] = ("class", "PQ", "SQ", "RQ", "tp", "fp", "fn")
    else:
        rows = [(name, value) for name, value in result["per_class"].items() if value is not None]
        columns = ("class", "IoU" if result["task"] == "semantic" else "AP")
    shown = sorted(rows, key=lambda row: row[1])[:_CLASSES]
    return table(f"Weakest classes ({len(shown)} of {len(rows)})", columns, shown)
