"""Build the report of a labeling: counts, scores, sizes, classes, pictures, and IoU if known."""

from typing import Any

import numpy as np
from markupsafe import Markup

from segkit import __version__
from segkit.masks.boxes import AREAS
from segkit.report import figures
from segkit.report.compared_masks import Comparison
from segkit.report.labeled_boxes import Floats, HiddenTruth, LabeledBoxes
from segkit.report.object_gallery import gallery_groups
from segkit.report.page import Page, Section, fragment, html, plain_table
from segkit.report.reliability import calibration_section
from segkit.runs.calibration import Calibration, calibration_error, reliability
from segkit.shards.reader import ShardSet

BINS = 25
"""Columns of a histogram."""


def labeling_report(
    layer: ShardSet,
    boxes: LabeledBoxes,
    *,
    score_name: str,
    calibration: Calibration | None = None,
    truth: HiddenTruth | None = None,
    comparison: Comparison | None = None,
) -> str:
    """Write the report of a label layer as HTML.

    Args:
        layer: the layer.
        boxes: its boxes.
        score_name: what the score of a mask means, such as `mean probability`.
        calibration: of the run that predicted the masks.
        truth: the true masks of the boxes.
        comparison: of the masks with those of other teachers.
    """
    masked = boxes.is_masked
    scores = boxes.score[masked]
    counted = np.count_nonzero(masked)
    cards = [
        ("masks", f"{counted:,}"),
        ("boxes without a mask", f"{len(masked) - counted:,}"),
        (f"median {score_name}", _figure(_quantile(scores, 0.5))),
    ]
    iou = boxes.iou[boxes.is_known & masked]
    if len(iou):
        cards.insert(0, ("mean IoU of the masks", _figure(float(iou.mean()))))
    sections = [
        _comparison_section(comparison),
        Section("IoU of the masks", _histogram(iou, "IoU of each mask with the true one")),
        _score_section(boxes, score_name),
        *([] if calibration is None else [calibration_section(calibration)]),
        Section("Scores", _score_table(scores) + _histogram(scores, f"{score_name} of each mask")),
        Section("Sizes", _size_table(boxes), "By the area of the box, with COCO's bounds."),
        Section("Classes", _class_table(layer, boxes)),
        _gallery_section(layer, boxes, truth, score_name),
    ]
    images = f"{len(layer):,} image{'' if len(layer) == 1 else 's'}"
    page = Page(
        title=f"Labeling of {layer.manifest.name}",
        lead=f"{len(masked):,} boxes in {images}; IoU and scores from 0 to 1",
        cards=cards,
        sections=sections,
        facts=_facts(layer),
    )
    return html(page)


def iou_summary(boxes: LabeledBoxes, comparison: Comparison | None) -> dict[str, Any]:
    """The IoU of a layer's masks with the true ones, as the command prints it.

    Returns:
        `boxes`: number of boxes whose true mask is known; `masked`: of those with a mask;
        `mean_iou` of the masks, `mean_iou_all` with 0 for boxes without one; `compared`: number of
        boxes that the teachers in `compared_iou` were compared on.
    """
    known = boxes.iou[boxes.is_known]
    masks = known[~np.isnan(known)]
    means = {} if comparison is None else {k: float(v.mean()) for k, v in comparison.iou.items()}
    return {
        "boxes": len(known),
        "masked": len(masks),
        "mean_iou": float(masks.mean()) if len(masks) else None,
        "mean_iou_all": float(np.nan_to_num(known).mean()) if len(known) else None,
        "compared": 0 if comparison is None else len(comparison.rows.area),
        "compared_iou": means,
    }


def _comparison_section(comparison: Comparison | None) -> Section:
    """Mean IoU of each teacher, by size."""
    if comparison is None:
        return Section("IoU by teacher", Markup())
    groups = {size: comparison.rows.in_size(size) for size in AREAS}
    rows = [
        (name, *(_figure(_mean(iou[group])) for group in groups.values()))
        for name, iou in comparison.iou.items()
    ]
    rows.append(("boxes", *(f"{np.count_nonzero(group):,}" for group in groups.values())))
    lead = (
        "Mean IoU with the true masks, on the same boxes for all: masks of this set whose truth is"
        " known, spread evenly over the images. A teacher without a mask for a box counts 0."
    )
    return Section("IoU by teacher", plain_table(("teacher", *groups), rows), lead)


def _score_section(boxes: LabeledBoxes, score_name: str) -> Section:
    """The reliability diagram of the scores, where the truth is known."""
    chosen = boxes.is_known & boxes.is_masked
    if not chosen.any():
        return Section("Score and IoU", Markup())
    bins = reliability(boxes.score[chosen], boxes.iou[chosen])
    lead = (
        f"Each dot is a group of masks of similar {score_name}; on the line, it equals their IoU."
        f" Mean distance from the line, weighted by masks: {calibration_error(bins):.3f}."
    )
    return Section("Score and IoU", figures.reliability(bins, score_name), lead)


def _score_table(scores: Floats) -> Markup:
    if not len(scores):
        return Markup()
    quantiles = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
    cells = [_figure(_quantile(scores, quantile)) for quantile in quantiles]
    return plain_table(
        ("share of the masks at or below", *(f"{quantile:.0%}" for quantile in quantiles)),
        [("score", *cells)],
    )


def _size_table(boxes: LabeledBoxes) -> Markup:
    columns, rows = _group_columns(boxes), []
    for size in AREAS:
        rows.append((size, *_group_row(boxes, boxes.in_size(size))))
    return plain_table(("boxes", *columns), rows)


def _class_table(layer: ShardSet, boxes: LabeledBoxes) -> Markup:
    """The classes with boxes, the most frequent first."""
    labels, counts = np.unique(boxes.label, return_counts=True)
    order = labels[np.argsort(-counts, kind="stable")].tolist()
    names = layer.taxonomy.names
    rows = [(names[k], *_group_row(boxes, boxes.label == k)) for k in order]
    return fragment("tall", body=plain_table(("class", *_group_columns(boxes)), rows))


def _group_columns(boxes: LabeledBoxes) -> tuple[str, ...]:
    known = ("mean IoU",) if boxes.is_known.any() else ()
    return ("boxes", "masks", "mean score", *known)


def _group_row(boxes: LabeledBoxes, group: np.ndarray) -> tuple[str, ...]:
    """Counts, mean score and, where any is known, mean IoU of the masks of a group of boxes."""
    masks = group & boxes.is_masked
    counts = (f"{np.count_nonzero(group):,}", f"{np.count_nonzero(masks):,}")
    row = (*counts, _figure(_mean(boxes.score[masks])))
    if not boxes.is_known.any():
        return row
    return (*row, _figure(_mean(boxes.iou[masks & boxes.is_known])))


def _gallery_section(
    layer: ShardSet, boxes: LabeledBoxes, truth: HiddenTruth | None, score_name: str
) -> Section:
    by_iou = bool((boxes.is_known & boxes.is_masked).any())
    ranking = boxes.iou if by_iou else boxes.score
    groups = gallery_groups(
        layer, boxes, ranking, "IoU" if by_iou else score_name, truth if by_iou else None
    )
    left = "true mask" if by_iou else "box"
    body = fragment("gallery", groups=groups, left=left, right="mask").strip()
    return Section("Masks", body, f"{left.capitalize()} left, mask of this set right.")


def _histogram(values: Floats, label: str) -> Markup:
    return figures.histogram(values, 0.0, 1.0, BINS, label) if len(values) else Markup()


def _facts(layer: ShardSet) -> list[tuple[str, str]]:
    manifest = layer.manifest
    keys = ("teacher", "strategy", "data", "min_score", "min_iou", "tta", "resolve_overlaps")
    arguments = [(k, str(manifest.arguments[k])) for k in keys if k in manifest.arguments]
    version = f"{layer.path.parent.name} v{layer.version} ({manifest.digest[:12]})"
    return [
        ("set", version),
        *arguments,
        ("taxonomy", layer.taxonomy.name),
        ("segkit", __version__),
    ]


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None


def _quantile(values: Floats, quantile: float) -> float | None:
    return float(np.quantile(values, quantile)) if len(values) else None


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
