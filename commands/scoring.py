"""What `eval` and `benchmark` share: where predictions come from, and tables of figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.table import Table

from segkit.errors import InputError

from .common import progress, stderr, table

if TYPE_CHECKING:
    from segkit.manifest import Task
    from segkit.metrics.predictions import Predictions
    from segkit.shards.reader import ShardSet

CHECKPOINT_HELP = "Score this run: its predictions are made first."
PREDICTIONS_HELP = "Score these: a shard set, COCO results (JSON) or COCO panoptic (JSON + PNGs)."
SETTINGS_OPTION: list[str] = typer.Option(
    [], "--set", metavar="KEY=VALUE", help="Change how the run is asked, such as inference.score=0.3."
)
TASKS: "tuple[Task, ...]" = ("panoptic", "semantic", "instance")
Choice = TypeVar("Choice", bound=str)
_CLASSES = 20


def one_of(value: str, choices: Sequence[Choice], option: str) -> Choice:
    """The choice that the user gave; InputError where it is none."""
    for choice in choices:
        if value == choice:
            return choice
    raise InputError(f"{option} {value}", mend=f"one of {', '.join(choices)}")


def check_source(checkpoint: str | None, predictions: str | None) -> None:
    """Exactly one of the two must be given."""
    if (checkpoint is None) == (predictions is None):
        raise InputError("give --checkpoint RUN or --predictions SET|FILE", mend="one of the two")


def prediction_source(
    truth: "ShardSet",
    task: "Task",
    checkpoint: str | None,
    predictions: str | None,
    masks: Path | None,
    out: Path,
    device: str,
    settings: Sequence[str] = (),
) -> "tuple[ShardSet | Predictions, str | ShardSet]":
    """The predictions to score, made first where a checkpoint is given, and how to name them."""
    from segkit.metrics.predictions import SetPredictions, open_predictions

    if predictions is not None:
        opened = open_predictions(predictions, truth, masks)
        return opened, opened.shards if isinstance(opened, SetPredictions) else predictions
    from segkit.inference.predict import predict_set

    with progress() as bar:
        row = bar.add_task("predict", total=len(truth))
        place, advance = out / "predictions", lambda: bar.advance(row)
        made = predict_set(str(checkpoint), truth, task, place, device, advance, settings=settings)
    stderr.print(f"predictions: {made.path}", highlight=False, soft_wrap=True)
    return made, made


def warn(result: dict[str, Any]) -> None:
    """Notes on stderr about what a reader of the figures must know."""
    from segkit.metrics.transfer import stated

    if missing := result["images"]["without_prediction"]:
        count = result["images"]["evaluated"]
        stderr.print(
            f"note: {missing} of {count} images have no prediction; what they show counts as missed", soft_wrap=True
        )
    if boxes := result.get("without_mask"):
        stderr.print(f"note: {boxes} predictions have a box but no mask and count as nothing", soft_wrap=True)
    for note in stated(result.get("class_map", {})):
        stderr.print(f"note: {note}", highlight=False, soft_wrap=True)


def tables(result: dict[str, Any]) -> list[Table | str]:
    """The headline and the weakest classes."""
    heads = {"panoptic": _panoptic, "semantic": _semantic, "instance": _instance}
    made = [_given_boxes(result["given_boxes"])] if "given_boxes" in result else []
    return [heads[result["task"]](result), _per_class(result), *made]


def _panoptic(result: dict[str, Any]) -> Table:
    rows = [(group, *(result[group][key] for key in ("pq", "sq", "rq", "n"))) for group in ("all", "things", "stuff")]
    return table("Panoptic quality", ("classes", "PQ", "SQ", "RQ", "n"), rows)


def _semantic(result: dict[str, Any]) -> Table:
    keys = {"miou": "mIoU", "fwiou": "fwIoU", "pixel_accuracy": "pixel accuracy", "mean_accuracy": "mean accuracy"}
    keys |= {"classes_counted": "classes counted"}
    title = f"Semantic segmentation\n{result['absent_classes']}"
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


def _given_boxes(result: dict[str, Any]) -> Table:
    rows = [("all", result["mean_iou"]), *result["per_size"].items(), ("fill their box", result["filled"])]
    title = f"Masks for true boxes, mean IoU\n{result['masked']} of {result['boxes']} have one"
    shown = [(name, "-" if value is None else f"{value:.3f}") for name, value in rows]
    return table(title, ("objects", "0-1"), shown)
