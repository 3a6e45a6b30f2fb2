"""What `eval`, `benchmark` and `predict` share: where predictions come from, and tables of
figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.table import Table

from segkit.errors import InputError

from .common import counted, counting, note, stderr, table

if TYPE_CHECKING:
    from segkit.metrics.predictions import Predictions
    from segkit.runs.run import Run
    from segkit.shards.manifest import Task
    from segkit.shards.reader import ShardSet
    from segkit.taxonomy import Taxonomy

CHECKPOINT_HELP = "Score this run: its predictions are made first."
PREDICTIONS_HELP = "Score these: a shard set, COCO results (JSON) or COCO panoptic (JSON + PNGs)."
SETTINGS_OPTION: list[str] = typer.Option(
    [],
    "--set",
    metavar="KEY=VALUE",
    help="Override an inference setting of the run, such as inference.batch_size=4.",
)
TASKS: "tuple[Task, ...]" = ("panoptic", "semantic", "instance")
Choice = TypeVar("Choice", bound=str)
_CLASSES = 20
_INTERVAL = "95 % interval"


def one_of(value: str, choices: Sequence[Choice], option: str) -> Choice:
    """The choice that the user gave; InputError where it is none."""
    for choice in choices:
        if value == choice:
            return choice
    raise InputError(f"{option} {value}", hint=f"one of {', '.join(choices)}")


def check_source(
    checkpoint: str | None, predictions: str | None, settings: Sequence[str], task: "Task"
) -> None:
    """Require exactly one of the two, and a run that takes the settings; imports no torch."""
    from segkit.runs.run_manifest import open_run

    if (checkpoint is None) == (predictions is None):
        raise InputError("give --checkpoint RUN or --predictions SET|FILE", hint="one of the two")
    if checkpoint is not None:
        open_run(checkpoint, settings, task)


def refuse_idle(*options: tuple[str, bool, str]) -> None:
    """Refuse the first option that would do nothing: its name, whether it is one, and what it goes
    with."""
    for option, idle, partner in options:
        if idle:
            raise InputError(
                f"{option} does nothing here: it goes with {partner}", hint="leave it out"
            )


def for_runs(
    checkpoint: str | None, settings: Sequence[str], device: str
) -> tuple[tuple[str, bool, str], ...]:
    """The options that do nothing without a run, as `refuse_idle` takes them."""
    given = {"--set": bool(settings), "--device": device != "auto"}
    return tuple(
        (option, idle and checkpoint is None, "--checkpoint") for option, idle in given.items()
    )


def run_for(taxonomy: "Taxonomy", checkpoint: str, device: str, settings: Sequence[str]) -> "Run":
    """The run, loaded; names of the taxonomy that its text encoder has not read yet are encoded."""
    from segkit.runs.run import load_run
    from segkit.text.embeddings import EmbeddingStore

    run = load_run(checkpoint, device, settings)
    EmbeddingStore(run.encoding).add(run.missing_words(taxonomy))
    return run


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
    from segkit.inference.outputs import predict_set

    run = run_for(truth.taxonomy, str(checkpoint), device, settings)
    with counting("predict", len(truth)) as advance:
        made = predict_set(run, truth, task, out / "predictions", on_image=advance)
    stderr.print(f"predictions: {made.path}", highlight=False, soft_wrap=True)
    return made, made


def warn(result: dict[str, Any]) -> None:
    """Notes on stderr about what a reader of the figures must know."""
    from segkit.metrics.class_mapping import class_map_notes

    if missing := result["images"]["without_prediction"]:
        of = f"{missing} of {counted(result['images']['evaluated'], 'image')}"
        note(
            f"{of} {'has' if missing == 1 else 'have'} no prediction; what they show counts as missed"
        )
    if boxes := result.get("without_mask"):
        note(
            f"{counted(boxes, 'prediction has', 'predictions have')} a box but no mask, and no share in the figures"
        )
    for line in class_map_notes(result.get("class_map", {})):
        note(line)


def tables(result: dict[str, Any], truth: "ShardSet") -> list[Table | str]:
    """The headline and the weakest classes; of equally weak ones those of most segments come
    first."""
    heads = {"panoptic": _panoptic, "semantic": _semantic, "instance": _instance}
    asked = {"zero_shot": _zero_shot, "given_boxes": _given_boxes}
    made = [show(result[key]) for key, show in asked.items() if key in result]
    segments = {name: counts.segments for name, counts in truth.manifest.statistics.classes.items()}
    return [heads[result["task"]](result), _per_class(result, segments), *made]


def _panoptic(result: dict[str, Any]) -> Table:
    rows: list[tuple[object, ...]] = []
    for kind, figures in (("", result), ("boundary ", result.get("boundary", {}))):
        for group in ("all", "things", "stuff") if figures else ():
            rows.append((kind + group, *(figures[group][key] for key in ("pq", "sq", "rq", "n"))))
            names = ("pq", "sq", "rq") if group == "all" else (f"pq {group}",)
            if "bootstrap" in result:
                rows.append((_INTERVAL, *(_interval(result, kind + name) for name in names)))
    return table("Panoptic quality", ("classes", "PQ", "SQ", "RQ", "n"), rows)


def _semantic(result: dict[str, Any]) -> Table:
    keys = ("miou", "fwiou", "pixel_accuracy", "mean_accuracy", "classes_counted")
    return _figures(f"Semantic segmentation\n{result['absent_classes']}", keys, result)


def _instance(result: dict[str, Any]) -> Table:
    keys = [
        "ap",
        "ap50",
        "ap75",
        "ap_small",
        "ap_medium",
        "ap_large",
        f"ar{result['max_dets'][-1]}",
    ]
    outlined = (
        {f"boundary {key}": result["boundary"][key] for key in keys} if "boundary" in result else {}
    )
    title = f"{result['protocol'].upper()} AP by {result['by']} ({result['evaluator']})"
    return _figures(title, (*keys, *outlined), result | outlined)


def _figures(title: str, keys: Sequence[str], result: dict[str, Any]) -> Table:
    """A line a figure, with its interval where intervals were asked for."""
    from segkit.metrics.output import figure_name

    if "bootstrap" not in result:
        return table(title, ("", "%"), [(figure_name(key), result[key]) for key in keys])
    rows = [(figure_name(key), result[key], _interval(result, key)) for key in keys]
    return table(title, ("", "%", _INTERVAL), rows)


def _interval(result: dict[str, Any], name: str) -> str | None:
    """None where the figure has none, or is not defined in any draw."""
    low, high = result["bootstrap"]["intervals"].get(name, (None, None))
    return None if low is None else f"{low:.2f} to {high:.2f}"


def _per_class(result: dict[str, Any], segments: Mapping[str, int]) -> Table | str:
    """The weakest classes first: what to look at."""
    if result["task"] == "panoptic":
        rows = [
            (name, *row.values())
            for name, row in result["per_class"].items()
            if row["pq"] is not None
        ]
        columns: tuple[str, ...] = ("class", "PQ", "SQ", "RQ", "tp", "fp", "fn")
    else:
        rows = [(name, value) for name, value in result["per_class"].items() if value is not None]
        columns = ("class", "IoU" if result["task"] == "semantic" else "AP")
    weak = sorted(
        (row for row in rows if round(row[1], 2) < 100), key=lambda row: (row[1], -segments[row[0]])
    )
    perfect = len(rows) - len(weak)
    if perfect and not weak:
        return f"No weak class: {perfect} of {len(rows)} at 100"
    shown = weak[:_CLASSES]
    title = f"Weakest classes ({len(shown)} of {len(rows)}" + (
        f", {perfect} at 100 left out)" if perfect else ")"
    )
    return table(title, columns, shown)


def _zero_shot(found: dict[str, Any]) -> Table:
    figure = {"pq": "PQ", "iou": "IoU", "ap": "AP"}[found["figure"]]
    rows = [
        (group, found.get(f"{group}_classes"), found[group])
        for group in ("seen", "unseen", "harmonic")
    ]
    return table(f"Zero-shot: mean {figure} of classes with a figure", ("", "classes", "%"), rows)


def _given_boxes(result: dict[str, Any]) -> Table:
    rows = [
        ("all", result["mean_iou"]),
        *result["per_size"].items(),
        ("fill their box", result["filled"]),
    ]
    title = f"Masks for true boxes, mean IoU\n{result['masked']} of {result['boxes']} have one"
    shown = [(name, "-" if value is None else f"{value:.3f}") for name, value in rows]
    return table(title, ("objects", "0-1"), shown)
