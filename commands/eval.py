"""`segkit eval`: figures of predictions, as a table, metrics.json and a report."""

from pathlib import Path

import typer

from .common import JSON_OPTION, emit
from .scoring import CHECKPOINT_HELP, PREDICTIONS_HELP, TASKS, check_source, one_of, prediction_source, tables, warn


def evaluate(
    data: str = typer.Option(metavar="SET", help="Ground truth: a shard set."),
    task: str = typer.Option(metavar="panoptic|semantic|instance", help="What to score."),
    out: Path = typer.Option(help="Directory for metrics.json, report.html and, with --checkpoint, the predictions."),
    checkpoint: str = typer.Option(None, metavar="RUN", help=CHECKPOINT_HELP),
    predictions: str = typer.Option(None, metavar="SET|FILE", help=PREDICTIONS_HELP),
    prediction_masks: Path = typer.Option(None, help="PNG folder of a COCO panoptic JSON, if not beside it."),
    by: str = typer.Option("mask", help="What makes an instance match: mask or box."),
    evaluator: str = typer.Option("hotcoco", help="COCO AP by hotcoco, faster-coco-eval or pycocotools."),
    device: str = typer.Option("cpu", help="Where --checkpoint runs."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Score predictions against ground truth: PQ, mIoU or COCO AP.

    Example: segkit eval --data work/coco-val --checkpoint work/run --task panoptic --out work/eval
    """
    from segkit.metrics.evaluate import Options, as_predictions, measure
    from segkit.metrics.record import described, write_json, write_text
    from segkit.report.build import report
    from segkit.shards.reader import ShardSet

    check_source(checkpoint, predictions)
    chosen = one_of(task, TASKS, "--task")
    options = Options(evaluator, one_of(by, ("mask", "box"), "--by"), details=True)
    truth = ShardSet.open(data)
    source, spec = prediction_source(truth, chosen, checkpoint, predictions, prediction_masks, out, device)
    predicted = as_predictions(source, truth)
    measured = measure(truth, predicted, chosen, options)
    origin = {"data": described(truth), "predictions": described(spec)}
    result = {"task": task, **origin, **measured.metrics}
    write_json(out / "metrics.json", result)
    write_text(out / "report.html", report(result, measured, truth, predicted))
    warn(result)
    emit(result, schema="segkit.metrics/1", as_json=as_json, tables=[*tables(result), f"{out / 'report.html'}"])
