"""Write the sections of a report: one function per task, and the tables that tasks share."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from segkit.metrics.evaluate import EvalResult
from segkit.metrics.output import figure_name
from segkit.metrics.panoptic import TRUE_POSITIVE
from segkit.metrics.zero_shot import zero_shot_rows
from segkit.report import figures
from segkit.report.page import Section, fragment, plain_table

Card = tuple[str, str]
"""Name and figure of a headline card."""
MATRIX_CLASSES = 14
"""Classes in the confusion matrix: the most that fit on a phone."""
BINS = 25
"""Columns of a histogram."""
_GROUPS = ("all", "things", "stuff")
_QUALITIES = ("pq", "sq", "rq")
_AP_KEYS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def panoptic_sections(
    result: dict[str, Any], evaluation: EvalResult
) -> tuple[list[Section], list[Card]]:
    """Write the sections and headline cards of a panoptic evaluation."""
    cards = [
        *((key.upper(), result["all"][key]) for key in _QUALITIES),
        ("PQ things", result["things"]["pq"]),
        ("PQ stuff", result["stuff"]["pq"]),
    ]
    classes = {name: row for name, row in result["per_class"].items() if row["pq"] is not None}
    bars = [
        (name, row["pq"], f"{row['tp']} matched, {row['fp']} unmatched, {row['fn']} missed")
        for name, row in classes.items()
    ]
    points = [
        figures.ClassPoint(name, row["sq"], row["rq"], row["tp"] + row["fn"])
        for name, row in classes.items()
    ]
    matched = np.zeros(0)
    if evaluation.panoptic is not None:
        rows = evaluation.panoptic.rows
        matched = rows.iou[rows.outcome == TRUE_POSITIVE]
    sections = [
        Section("Panoptic quality", _quality(result) + _intervals(result) + _zero_shot(result)),
        Section(
            "Boundaries",
            _boundary_quality(result),
            "The same figures with the smaller of mask IoU and boundary IoU.",
        ),
        Section("Classes", figures.bars(_best_first(bars), unit="PQ")),
        Section(
            "Shape and recognition",
            figures.scatter(points),
            "Each dot is a class; its size is the number of segments. Low: wrong shapes."
            " Left: missed or false segments.",
        ),
        Section(
            "IoU of matches",
            figures.histogram(matched, 0.5, 1.0, BINS, "IoU of matched segments"),
        ),
        _confusion_matrix(evaluation),
    ]
    return sections, _format(cards)


def semantic_sections(
    result: dict[str, Any], evaluation: EvalResult
) -> tuple[list[Section], list[Card]]:
    """Write the sections and headline cards of a semantic evaluation."""
    keys = ("miou", "fwiou", "pixel_accuracy", "mean_accuracy")
    scores = np.zeros(0) if evaluation.semantic is None else evaluation.semantic.per_image()
    scores = scores[~np.isnan(scores)]
    sections = [
        Section("Intervals", _intervals(result) + _zero_shot(result)),
        Section("Classes", figures.bars(_class_bars(result), unit="IoU")),
        _confusion_matrix(evaluation),
        Section("IoU of images", figures.histogram(scores, 0.0, 1.0, BINS, "mIoU of each image")),
    ]
    return sections, _format([(figure_name(key), result[key]) for key in keys])


def instance_sections(
    result: dict[str, Any], evaluation: EvalResult
) -> tuple[list[Section], list[Card]]:
    """Write the sections and headline cards of an instance evaluation."""
    cards = [
        (f"{result['by']} AP", result["ap"]),
        *((figure_name(key), result[key]) for key in _AP_KEYS[1:]),
    ]
    matches = evaluation.detections
    iou = np.zeros(0) if matches is None else matches.rows.object_iou
    title = "IoU of each object with the best prediction of its class"
    sections = [
        Section("Intervals", _intervals(result) + _zero_shot(result)),
        Section("Classes", figures.bars(_class_bars(result), unit="AP")),
        Section("Overlap", figures.histogram(iou, 0.0, 1.0, BINS, title) if len(iou) else Markup()),
        Section(
            "Masks for true boxes",
            _box_masks(result),
            "Mean IoU, 0-1; an object without a mask counts 0.",
        ),
        Section(
            "Errors",
            _tide_errors(result),
            "The AP at IoU 0.5 that would be gained without each kind of error (TIDE).",
        ),
        Section(
            "Confusion",
            _confused_classes(result),
            "The classes most often predicted for objects of another class (score 0.3 and more).",
        ),
        Section(
            "Boundaries",
            _boundary_ap(result),
            "The same figures with the smaller of mask IoU and boundary IoU.",
        ),
    ]
    return sections, _format(cards)


def _format(cards: Sequence[tuple[str, float | None]]) -> list[Card]:
    return [(name, "-" if value is None else f"{value:.1f}") for name, value in cards]


def _class_bars(result: dict[str, Any]) -> list[tuple[str, float, str]]:
    classes = result["per_class"].items()
    return _best_first([(name, value, "") for name, value in classes if value is not None])


def _best_first(rows: Sequence[tuple[str, float, str]]) -> list[tuple[str, float, str]]:
    return sorted(rows, key=lambda row: -row[1])


def _quality(result: dict[str, Any]) -> Markup:
    keys = (*_QUALITIES, "n")
    rows = [(group, *(result[group][key] for key in keys)) for group in _GROUPS]
    return plain_table(("", "PQ", "SQ", "RQ", "classes"), rows)


def _boundary_quality(result: dict[str, Any]) -> Markup:
    if "boundary" not in result:
        return Markup()
    boundary = result["boundary"]
    rows = [(group, *(boundary[group][key] for key in _QUALITIES)) for group in _GROUPS]
    return plain_table(("", "PQ", "SQ", "RQ"), rows)


def _boundary_ap(result: dict[str, Any]) -> Markup:
    if "boundary" not in result:
        return Markup()
    row = ("boundary", *(result["boundary"][key] for key in _AP_KEYS))
    return plain_table(("", *map(figure_name, _AP_KEYS)), [row])


def _intervals(result: dict[str, Any]) -> Markup:
    bootstrap = result.get("bootstrap")
    if not bootstrap:
        return Markup()
    rows = [
        (figure_name(name), "-" if low is None else f"{low:.2f} - {high:.2f}")
        for name, (low, high) in bootstrap["intervals"].items()
    ]
    draws = f"{bootstrap['samples']} draws of the images"
    return plain_table(("", f"{bootstrap['confidence']:.0%} interval, {draws}"), rows)


def _zero_shot(result: dict[str, Any]) -> Markup:
    scores = result.get("zero_shot")
    if not scores:
        return Markup()
    columns, rows = zero_shot_rows(scores)
    return plain_table(columns, rows)


def _box_masks(result: dict[str, Any]) -> Markup:
    scores = result.get("given_boxes")
    if not scores:
        return Markup()
    rows = [("all", scores["mean_iou"]), *scores["per_size"].items(), *scores["per_class"].items()]
    filled = "-" if scores["filled"] is None else f"{scores['filled']:.1%}"
    counts = {"masked": scores["masked"], "boxes": scores["boxes"], "filled": filled}
    cells = [(name, None if iou is None else f"{iou:.3f}") for name, iou in rows]
    return fragment("box_masks", **counts) + plain_table(("objects", "IoU"), cells)


def _confused_classes(result: dict[str, Any]) -> Markup:
    pairs = result.get("confusion")
    if not pairs:
        return Markup()
    rows = [(f"{pair['true']} predicted as {pair['predicted']}", pair["count"]) for pair in pairs]
    return plain_table(("", "objects"), rows)


def _tide_errors(result: dict[str, Any]) -> Markup:
    errors = result.get("errors")
    if not errors:
        return Markup()
    rows = [(name, error["gain"], error["count"]) for name, error in errors.items()]
    return plain_table(("error", "AP50 gained", "count"), rows)


def _confusion_matrix(evaluation: EvalResult) -> Section:
    """Show the classes with the most wrong pixels."""
    if evaluation.semantic is None:
        return Section("Confusion", Markup())
    class_names = evaluation.semantic.class_names
    pixels = evaluation.semantic.confusion()  # (N, N + 1)
    wrong = pixels.sum(1) - np.diagonal(pixels)
    present = np.flatnonzero(pixels.sum(1))
    ranked = present[np.argsort(-wrong[present], kind="stable")]
    classes = np.sort(ranked[:MATRIX_CLASSES])
    if not len(classes):
        return Section("Confusion", Markup())
    columns = np.append(classes, len(class_names))
    totals = np.maximum(pixels[classes].sum(1, keepdims=True), 1)
    shares = pixels[np.ix_(classes, columns)] / totals
    return Section(
        "Confusion",
        figures.matrix([class_names[k] for k in classes], shares),
        "The classes with the most wrong pixels: the share of each true class (row) that was"
        " predicted as each class (column).",
    )
