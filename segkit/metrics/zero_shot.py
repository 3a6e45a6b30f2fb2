"""Mean figures over seen and unseen classes, as zero-shot segmentation reports them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from segkit.errors import InputError
from segkit.shards.manifest import Task

_FIGURES = {"panoptic": "pq", "semantic": "iou", "instance": "ap"}


def check_unseen(class_names: Collection[str], unseen: Sequence[str]) -> None:
    """Refuse unseen classes that are not among the evaluated classes."""
    if unknown := [name for name in unseen if name not in class_names]:
        message = f"unseen classes that the data does not have: {', '.join(unknown[:5])}"
        raise InputError(message, hint="see segkit inspect")


def compute_zero_shot(
    per_class: Mapping[str, Any], unseen: Sequence[str], task: Task
) -> dict[str, Any]:
    """Mean over seen and over unseen classes, and their harmonic mean, in percent.

    Args:
        per_class: `per_class` of metrics.json.
        unseen: names of the classes that were not seen in training.
        task: decides the figure: PQ for panoptic, IoU for semantic, AP for instance.

    Raises:
        InputError: an unseen class is not in the vocabulary.
    """
    check_unseen(per_class, unseen)
    groups: dict[str, list[float]] = {"seen": [], "unseen": []}
    for name, row in per_class.items():
        value = row["pq"] if task == "panoptic" else row
        if value is not None:
            groups["unseen" if name in unseen else "seen"].append(value)
    means = {
        group: sum(values) / len(values) if values else None for group, values in groups.items()
    }
    return {
        "figure": _FIGURES[task],
        **means,
        "harmonic": _harmonic_mean(means["seen"], means["unseen"]),
        **{f"{group}_classes": len(values) for group, values in groups.items()},
    }


def _harmonic_mean(first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return None
    return 2 * first * second / (first + second) if first + second else 0.0
