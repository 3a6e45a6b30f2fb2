"""From an evaluation to the sections of its report."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit import __version__
from segkit.metrics import detections, panoptic, semantic
from segkit.metrics.class_mapping import stated
from segkit.metrics.evaluate import Measured, names, thing_classes
from segkit.metrics.labels import label
from segkit.metrics.predictions import Predictions
from segkit.report import figures
from segkit.report.gallery import ends, gallery, shown
from segkit.report.page import Page, Section, html, plain_table
from segkit.shards.reader import ShardSet

Floats = NDArray[np.float64]
IMAGES = 6
"""Images at each end of the gallery."""
CONFUSED = 14
"""Classes in the confusion matrix: the most a phone can show."""
_APS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
MIN_SCORE = 0.3
"""Instances of lower score are not drawn: the pictures would be full of them."""


def report(result: dict[str, Any], measured: Measured, truth: ShardSet, source: Predictions) -> str:
    """The report of an evaluation as HTML.

    Args:
        result: what metrics.json holds.
        measured: the rows that it was made from.
        truth: ground truth, with images where the gallery is to show them.
        source: the predictions.
    """
    sections, cards = _TASKS[result["task"]](result, measured, truth)
    sections.append(_images(measured, truth, source, result["task"]))
    title = f"{cards[0][0]} {cards[0][1]}: {truth.manifest.name}"
    count = result["images"]["evaluated"]
    lead = f"{result['task']} segmentation, {count:,} images, {len(truth.taxonomy.categories)} classes; figures in %"
    return html(
        Page(
            title,
            lead,
            cards,
            [s for s in sections if s.body],
            _notes(result),
            _facts(result, truth),
        )
    )


def _panoptic(
    result: dict[str, Any], measured: Measured, truth: ShardSet
) -> tuple[list[Section], list[Any]]:
    keys, groups = ("pq", "sq", "rq", "n"), ("all", "things", "stuff")
    cards = [("PQ", result["all"]["pq"]), ("SQ", result["all"]["sq"]), ("RQ", result["all"]["rq"])]
    cards += [("PQ things", result["things"]["pq"]), ("PQ stuff", result["stuff"]["pq"])]
    found = {name: row for name, row in result["per_class"].items() if row["pq"] is not None}
    points = [(name, row["sq"], row["rq"], row["tp"] + row["fn"]) for name, row in found.items()]
    table = plain_table(
        ("", "PQ", "SQ", "RQ", "classes"), [(g, *(result[g][k] for k in keys)) for g in groups]
    )
    bars = [
        (n, row["pq"], f"{row['tp']} found, {row['fp']} too many, {row['fn']} missed")
        for n, row in found.items()
    ]
    matched = (
        measured.panoptic.iou[measured.panoptic.outcome == 0]
        if measured.panoptic is not None
        else np.zeros(0)
    )
    return [
        Section("Panoptic quality", table + _intervals(result) + _zero_shot(result)),
        Section("Boundaries", _boundary_quality(result), "The same, with the smaller of mask IoU and boundary IoU."),
        Section("Classes", figures.bars(_best_first(bars), unit="PQ")),
        Section("Shape and recognition", figures.scatter(points), "A dot is a class, its size the number of segments. "
                "Low: shapes are wrong. Left: segments are not found, or invented."),
        Section("IoU of the matches", figures.histogram(matched, 0.5, 1.0, 25, "IoU of matched segments")),
        _confusion(measured, truth),
    ], _cards(cards)  # fmt: skip


def _semantic(
    result: dict[str, Any], measured: Measured, truth: ShardSet
) -> tuple[list[Section], list[Any]]:
    cards = [
        (label(key), result[key]) for key in ("miou", "fwiou", "pixel_accuracy", "mean_accuracy")
    ]
    bars = [(name, value, "") for name, value in result["per_class"].items() if value is not None]
    scores = image_scores(measured, len(truth.taxonomy.categories))[0] / 100
    images = figures.histogram(
        scores[~np.isnan(scores)], 0.0, 1.0, 25, "mIoU of each image by itself"
    )
    return [
        Section("Intervals", _intervals(result) + _zero_shot(result)),
        Section("Classes", figures.bars(_best_first(bars), unit="IoU")),
        _confusion(measured, truth),
        Section("IoU of the images", images),
    ], _cards(cards)


def _instance(
    result: dict[str, Any], measured: Measured, truth: ShardSet
) -> tuple[list[Section], list[Any]]:
    cards = [(f"{result['by']} AP", result["ap"]), *((label(key), result[key]) for key in _APS[1:])]
    bars = [(name, value, "") for name, value in result["per_class"].items() if value is not None]
    iou = measured.detections.object_iou if measured.detections is not None else np.zeros(0)
    overlap = "IoU of each object with the best prediction of its class"
    return [
        Section("Intervals", _intervals(result) + _zero_shot(result)),
        Section("Classes", figures.bars(_best_first(bars), unit="AP")),
        Section("Overlap", figures.histogram(iou, 0.0, 1.0, 25, overlap) if len(iou) else ""),
        Section(
            "Masks for true boxes",
            _given_boxes(result),
            "Mean IoU, 0-1; an object without a mask counts 0.",
        ),
        Section(
            "Errors",
            _errors(result),
            "What the AP at IoU 0.5 would gain if an error were mended (TIDE).",
        ),
        Section(
            "Confusion",
            _confused(result),
            "Objects most often found as another class (score 0.3 and more).",
        ),
        Section(
            "Boundaries",
            _boundary_ap(result),
            "The same, with the smaller of mask IoU and boundary IoU.",
        ),
    ], _cards(cards)


_TASKS: dict[
    str, Callable[[dict[str, Any], Measured, ShardSet], tuple[list[Section], list[Any]]]
] = {
    "panoptic": _panoptic,
    "semantic": _semantic,
    "instance": _instance,
}


def _cards(cards: Sequence[tuple[str, float | None]]) -> list[tuple[str, str]]:
    return [(name, "-" if value is None else f"{value:.1f}") for name, value in cards]


def _best_first(rows: Sequence[tuple[str, float, str]]) -> list[tuple[str, float, str]]:
    return sorted(rows, key=lambda row: -row[1])


def _intervals(result: dict[str, Any]) -> str:
    given = result.get("bootstrap")
    if not given:
        return ""
    edges = given["intervals"].items()
    rows = [
        (label(name), "-" if low is None else f"{low:.2f} - {high:.2f}")
        for name, (low, high) in edges
    ]
    level = f"{given['confidence']:.0%} interval, {given['samples']} draws of the images"
    return plain_table(("", level), rows)


def _zero_shot(result: dict[str, Any]) -> str:
    given = result.get("zero_shot")
    if not given:
        return ""
    counts = (given["seen_classes"], given["unseen_classes"], None)
    keys = ("seen", "unseen", "harmonic")
    rows = [(key, given[key], count) for key, count in zip(keys, counts, strict=True)]
    return plain_table(("zero-shot", given["figure"].upper(), "classes"), rows)


def _boundary_quality(result: dict[str, Any]) -> str:
    if "boundary" not in result:
        return ""
    rows = [
        (g, *(result["boundary"][g][k] for k in ("pq", "sq", "rq")))
        for g in ("all", "things", "stuff")
    ]
    return plain_table(("", "PQ", "SQ", "RQ"), rows)


def _boundary_ap(result: dict[str, Any]) -> str:
    if "boundary" not in result:
        return ""
    return plain_table(
        ("", *map(label, _APS)), [("boundary", *(result["boundary"][key] for key in _APS))]
    )


def _given_boxes(result: dict[str, Any]) -> str:
    given = result.get("given_boxes")
    if not given:
        return ""
    rows = [("all", given["mean_iou"]), *given["per_size"].items(), *given["per_class"].items()]
    filled = "-" if given["filled"] is None else f"{given['filled']:.1%}"
    note = f"<p>{given['masked']} of {given['boxes']} objects have a mask; {filled} of the masks fill their box.</p>"
    return note + plain_table(
        ("objects", "IoU"), [(n, None if v is None else f"{v:.3f}") for n, v in rows]
    )


def _confused(result: dict[str, Any]) -> str:
    given = result.get("confusion")
    if not given:
        return ""
    rows = [(f"{pair['true']} found as {pair['predicted']}", pair["count"]) for pair in given]
    return plain_table(("", "objects"), rows)


def _errors(result: dict[str, Any]) -> str:
    given = result.get("errors")
    if not given:
        return ""
    rows = [(name, row["gain"], row["count"]) for name, row in given.items()]
    return plain_table(("error", "AP50 gained", "how many"), rows)


def _confusion(measured: Measured, truth: ShardSet) -> Section:
    """The classes that lose most pixels to others."""
    rows, labels = measured.semantic, names(truth.taxonomy)
    if rows is None:
        return Section("Confusion", "")
    pixels = semantic.confusion(rows, len(labels))
    lost = pixels.sum(1) - np.diagonal(pixels)
    chosen = np.sort(
        np.argsort(-lost, kind="stable")[: min(CONFUSED, int(np.count_nonzero(pixels.sum(1))))]
    )
    if not len(chosen):
        return Section("Confusion", "")
    columns = np.append(chosen, len(labels))
    shares = pixels[np.ix_(chosen, columns)] / np.maximum(pixels[chosen].sum(1, keepdims=True), 1)
    lead = "Share of the pixels of a class (row) that each class was predicted for: the classes that lose most pixels."
    return Section("Confusion", figures.matrix([labels[k] for k in chosen], shares), lead)


def _images(measured: Measured, truth: ShardSet, source: Predictions, task: str) -> Section:
    scores, what = image_scores(measured, len(truth.taxonomy.categories))
    worst, best = ends(scores, IMAGES)
    classes = truth.taxonomy.categories if task != "instance" else thing_classes(truth.taxonomy)
    chosen, least = frozenset(c.id for c in classes), MIN_SCORE if task == "instance" else 0.0
    parts = []
    for heading, indices in (("Worst", worst), ("Best", best)):
        pictures = [
            shown(
                truth,
                source,
                i,
                f"{measured.image_ids[i]}: {what} {scores[i]:.1f}",
                chosen=chosen,
                least_score=least,
            )
            for i in indices
        ]
        parts.append(f"<h3>{heading}</h3>{gallery(pictures)}" if pictures else "")
    return Section("Images", "".join(parts), "Ground truth left, prediction right.")


def image_scores(measured: Measured, classes: int) -> tuple[Floats, str]:
    """(I,) a score in percent for each image, NaN where there is nothing to score, and its name."""
    images = len(measured.image_ids)
    if measured.panoptic is not None:
        return 100 * panoptic.image_quality(measured.panoptic, images, classes), "PQ"
    if measured.detections is not None:
        return 100 * detections.image_scores(measured.detections, images), "mean IoU of objects"
    if measured.semantic is not None:
        return 100 * semantic.image_iou(measured.semantic, images, classes), "mIoU"
    return np.full(images, np.nan), ""


def _notes(result: dict[str, Any]) -> list[str]:
    """What a reader must know about the figures."""
    notes = []
    if missing := result["images"]["without_prediction"]:
        notes.append(
            f"{missing} of {result['images']['evaluated']} images have no prediction; they count as missed."
        )
    if result.get("several_crowds"):
        notes.append(f"{result['several_crowds']} false positives lie in several crowds of their class: panopticapi, "
                     "and so this figure, looks at the last crowd only.")  # fmt: skip
    return notes + stated(result.get("class_map", {}))


def _facts(result: dict[str, Any], truth: ShardSet) -> list[tuple[str, str]]:
    facts = [("data", _version(result["data"])), ("predictions", _version(result["predictions"]))]
    if "absent_classes" in result:
        facts.append(
            ("absent classes", f"{result['absent_classes']}: {result['classes_counted']} classes")
        )
    if "evaluator" in result:
        counted = (
            "of an image, by the rules of LVIS"
            if result["protocol"] == "lvis"
            else "of a class in an image"
        )
        facts.append(
            ("evaluator", f"{result['evaluator']}, at most {result['max_dets'][-1]} {counted}")
        )
    return [*facts, ("taxonomy", truth.taxonomy.name), ("segkit", __version__)]


def _version(given: dict[str, Any]) -> str:
    path = Path(given["path"])
    if "digest" not in given:
        return path.name
    return f"{path.parent.name} v{given['version']} ({given['digest'][:12]})"
