"""Predictions to evaluate and tables of figures, for `eval`, `benchmark` and `predict`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from segkit.errors import InputError

from .common import note, print_line, table
from .progress import progress_bar
from .shared_options import Unused

if TYPE_CHECKING:
    from segkit.metrics.predictions import Predictions
    from segkit.runs.run import Run
    from segkit.shards.manifest import Task
    from segkit.shards.reader import ShardSet
    from segkit.taxonomy import Taxonomy
    from segkit.workers.devices import Workers

_MAX_CLASSES = 20
"""Classes in the table of the weakest."""
_INTERVAL = "95 % interval"


@dataclass(frozen=True)
class PredictionSource:
    """The options that say which predictions a command evaluates."""

    checkpoint: str | None
    predictions: str | None
    settings: Sequence[str]
    workers: "Workers"
    masks: Path | None = None
    """Folder of the PNGs of a COCO panoptic JSON."""

    def unused_options(self) -> tuple[Unused, ...]:
        """The options that do nothing without a run."""
        without_run = self.checkpoint is None
        return (
            ("--set", bool(self.settings) and without_run, "--checkpoint"),
            ("--device", self.workers.device != "auto" and without_run, "--checkpoint"),
            ("--engine", self.workers.engine != "local" and without_run, "--checkpoint"),
            ("--devices", not self.workers.in_process and without_run, "--checkpoint"),
        )

    def check(self, task: "Task", *, groups_unseen: bool = False) -> None:
        """Require a run or predictions, and a run that takes the settings; imports no torch.

        `groups_unseen`: whether the run's unseen classes group the figures.
        """
        from segkit.runs.open_run import check_inference

        if (self.checkpoint is None) == (self.predictions is None):
            message = "give --checkpoint RUN or --predictions SET|FILE"
            raise InputError(message, hint="give one of the two")
        if self.checkpoint is not None:
            check_inference(self.checkpoint, self.settings, task, groups_unseen=groups_unseen)

    def unseen_classes(self, task: "Task") -> tuple[str, ...]:
        """The classes that the run records as unseen in training; imports no torch."""
        from segkit.hub import is_hugging_face
        from segkit.runs.open_run import read_run_files

        if self.checkpoint is None or is_hugging_face(self.checkpoint):
            return ()
        recipe = read_run_files(self.checkpoint, self.settings, task).recipe
        return recipe.inference.unseen

    def open(
        self, truth: "ShardSet", task: "Task", out: Path
    ) -> "tuple[ShardSet | Predictions, str | ShardSet]":
        """Open the predictions, or predict with the run into a set under `out`.

        Returns:
            The predictions, and their origin: a file or a set.
        """
        from segkit.metrics.predictions import SetPredictions, open_predictions

        if self.predictions is not None:
            opened = open_predictions(self.predictions, truth, self.masks, task=task)
            if isinstance(opened, SetPredictions):
                return opened, opened.shards
            return opened, self.predictions
        from segkit.inference.outputs import predict_set

        device = self.workers.caller_device
        run = load_run_for(truth.taxonomy, str(self.checkpoint), device, self.settings)
        lowest = run.recipe.inference.instance_score
        if task == "instance" and lowest > 0:
            fix = "for AP, give --set inference.instance_score=0"
            note(f"instances that score below {lowest:g} are left out; {fix}")
        with progress_bar(f"predict {truth.path.parent.name}", len(truth)) as advance:
            shards = predict_set(
                run,
                truth,
                task,
                out / "predictions",
                workers=self.workers,
                force=True,
                on_images=advance,
                on_resume=advance.resume,
            )
        print_line(f"predictions: {shards.path}")
        return shards, shards


def load_run_for(
    taxonomy: "Taxonomy", checkpoint: str, device: str, settings: Sequence[str]
) -> "Run":
    """Load a run and encode the names of a taxonomy that its text encoder has not read yet.

    Notes say which classes it cannot tell apart.
    """
    from segkit.runs.open_run import load_run
    from segkit.text.embeddings import EmbeddingStore
    from segkit.text.indistinct import indistinct_notes

    run = load_run(checkpoint, device, settings)
    run.class_embeddings(taxonomy)
    for text in indistinct_notes(taxonomy.categories, EmbeddingStore(run.encoding)):
        note(text)
    return run


def warn(result: dict[str, Any], truth: "ShardSet") -> None:
    """Print notes on stderr that a reader of the figures must know; the report has them too."""
    from segkit.metrics.output import evaluation_notes

    for text in evaluation_notes(result, truth):
        note(text)


def tables(result: dict[str, Any], truth: "ShardSet") -> list[Table | str]:
    """The headline figures and the weakest classes.

    Of equally weak classes, those with the most segments come first.
    """
    headlines = {"panoptic": _panoptic, "semantic": _semantic, "instance": _instance}
    optional = {"zero_shot": _zero_shot, "given_boxes": _box_prompts}
    more = [show(result[key]) for key, show in optional.items() if key in result]
    segments = {name: counts.segments for name, counts in truth.manifest.statistics.classes.items()}
    return [headlines[result["task"]](result), _weakest_classes(result, segments), *more]


def _panoptic(result: dict[str, Any]) -> Table:
    rows: list[tuple[object, ...]] = []
    for prefix, figures in (("", result), ("boundary ", result.get("boundary", {}))):
        for group in ("all", "things", "stuff") if figures else ():
            rows.append((prefix + group, *(figures[group][key] for key in ("pq", "sq", "rq", "n"))))
            names = ("pq", "sq", "rq") if group == "all" else (f"pq {group}",)
            if "bootstrap" in result:
                rows.append((_INTERVAL, *(_interval(result, prefix + name) for name in names)))
    return table("Panoptic quality", ("classes", "PQ", "SQ", "RQ", "n"), rows)


def _semantic(result: dict[str, Any]) -> Table:
    keys = ("miou", "fwiou", "pixel_accuracy", "mean_accuracy", "classes_counted")
    return _figures(("Semantic segmentation", result["absent_classes"]), keys, result)


def _instance(result: dict[str, Any]) -> Table:
    recall = f"ar{result['max_dets'][-1]}"
    keys = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", recall)
    boundary = {}
    if "boundary" in result:
        boundary = {f"boundary {key}": result["boundary"][key] for key in keys}
    boxes = {}
    if "box" in result:
        boxes = {f"box {key}": result["box"][key] for key in ("ap", "ap50", "ap75")}
    title = f"{result['protocol'].upper()} AP by {result['by']} ({result['evaluator']})"
    return _figures(title, (*keys, *boundary, *boxes), result | boundary | boxes)


def _figures(title: str | Sequence[str], keys: Sequence[str], result: dict[str, Any]) -> Table:
    """A row for each figure, with its interval where intervals were computed."""
    from segkit.metrics.output import figure_name

    if "bootstrap" not in result:
        return table(title, ("", "%"), [(figure_name(key), result[key]) for key in keys])
    rows = [(figure_name(key), result[key], _interval(result, key)) for key in keys]
    return table(title, ("", "%", _INTERVAL), rows)


def _interval(result: dict[str, Any], name: str) -> str | None:
    """None where the figure has no interval, or is not defined in any draw."""
    low, high = result["bootstrap"]["intervals"].get(name, (None, None))
    return None if low is None else f"{low:.2f} to {high:.2f}"


def _weakest_classes(result: dict[str, Any], segments: Mapping[str, int]) -> Table | str:
    per_class = result["per_class"].items()
    if result["task"] == "panoptic":
        rows = [(name, *row.values()) for name, row in per_class if row["pq"] is not None]
        columns: tuple[str, ...] = ("class", "PQ", "SQ", "RQ", "tp", "fp", "fn")
    else:
        rows = [(name, value) for name, value in per_class if value is not None]
        columns = ("class", "IoU" if result["task"] == "semantic" else "AP")
    weak = [row for row in rows if round(row[1], 2) < 100]
    weak.sort(key=lambda row: (row[1], -segments[row[0]]))
    perfect = len(rows) - len(weak)
    if perfect and not weak:
        return f"No weak class: {perfect} of {len(rows)} at 100"
    listed = weak[:_MAX_CLASSES]
    left_out = f", {perfect} at 100 left out" if perfect else ""
    title = f"Weakest classes ({len(listed)} of {len(rows)}{left_out})"
    return table(title, columns, listed)


def _zero_shot(means: dict[str, Any]) -> Table:
    from segkit.metrics.zero_shot import zero_shot_rows

    columns, rows = zero_shot_rows(means)
    title = ("Zero-shot: means of classes with a figure, %", "mask recall: with any class")
    return table(title, columns, rows)


def _box_prompts(figures: dict[str, Any]) -> Table:
    title = (
        "Masks for true boxes, mean IoU",
        f"{figures['masked']} of {figures['boxes']} objects have a mask",
    )
    rows = {"all": figures["mean_iou"], **figures["per_size"], "fill their box": figures["filled"]}
    cells = [(name, "-" if value is None else f"{value:.3f}") for name, value in rows.items()]
    return table(title, ("objects", "0-1"), cells)
