"""Mean figures over seen and unseen classes, as zero-shot segmentation reports them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from segkit.errors import InputError
from segkit.shards.manifest import Task

_FIGURES = {"panoptic": "pq", "semantic": "iou", "instance": "ap"}
Means = dict[str, float | None]


def check_unseen(class_names: Collection[str], unseen: Sequence[str]) -> None:
    """Refuse unseen classes that are not among the evaluated classes."""
    if unknown := [name for name in unseen if name not in class_names]:
        message = f"unseen classes that the data does not have: {', '.join(unknown[:5])}"
        raise InputError(message, hint="see segkit inspect")


def compute_zero_shot(
    per_class: Mapping[str, Any],
    unseen: Sequence[str],
    task: Task,
    ap50: Mapping[str, float | None] | None = None,
) -> dict[str, Any]:
    """Mean over seen and over unseen classes, and their harmonic mean, in percent.

    Args:
        per_class: `per_class` of metrics.json.
        unseen: names of the classes that were not seen in training.
        task: decides the figure: PQ for panoptic (SQ and RQ too), IoU for semantic, AP for
            instance (AP50 too).
        ap50: AP50 of each class, for the instance task.

    Raises:
        InputError: an unseen class is not in the vocabulary.
    """
    check_unseen(per_class, unseen)
    columns: dict[str, Mapping[str, float | None]] = {_FIGURES[task]: per_class}
    if task == "panoptic":
        keys = ("pq", "sq", "rq")
        columns = {key: {name: row[key] for name, row in per_class.items()} for key in keys}
    if ap50 is not None:
        columns["ap50"] = ap50
    figure, *further = columns
    values = columns[figure]
    counted = {
        f"{group}_classes": sum(
            value is not None and (name in unseen) == (group == "unseen")
            for name, value in values.items()
        )
        for group in ("seen", "unseen")
    }
    means = {key: _means(columns[key], unseen) for key in columns}
    return {"figure": figure, **means[figure], **counted, **{key: means[key] for key in further}}


def zero_shot_rows(figures: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """The columns and rows of a table of the `zero_shot` object of metrics.json."""
    names = {"pq": "PQ", "sq": "SQ", "rq": "RQ", "iou": "mIoU", "ap": "AP", "ap50": "AP50"}
    means = {figures["figure"]: figures} | {key: figures[key] for key in names if key in figures}
    recall = figures.get("mask_recall", {})
    rows = [
        [
            group,
            figures.get(f"{group}_classes"),
            *(column[group] for column in means.values()),
            recall.get(group),
        ]
        for group in ("seen", "unseen", "harmonic")
    ]
    return ["zero-shot", "classes", *(names[key] for key in means), "mask recall"], rows


def _means(values: Mapping[str, float | None], unseen: Sequence[str]) -> Means:
    """Means of the classes with a figure: `seen`, `unseen`, and the harmonic mean of the two."""
    groups: dict[str, list[float]] = {"seen": [], "unseen": []}
    for name, value in values.items():
        if value is not None:
            groups["unseen" if name in unseen else "seen"].append(value)
    means: Means = {
        group: sum(numbers) / len(numbers) if numbers else None for group, numbers in groups.items()
    }
    return {**means, "harmonic": _harmonic_mean(means["seen"], means["unseen"])}


def _harmonic_mean(first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return None
    return 2 * first * second / (first + second) if first + second else 0.0
