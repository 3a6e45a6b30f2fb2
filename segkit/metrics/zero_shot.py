"""Figures of seen and unseen classes, as zero-shot segmentation reports them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from segkit.errors import InputError


def check_unseen(known: Collection[str], unseen: Sequence[str]) -> None:
    """Refuse unseen classes that are none of the classes that are scored."""
    if unknown := [name for name in unseen if name not in known]:
        message = f"unseen classes that the data does not have: {', '.join(unknown[:5])}"
        raise InputError(message, hint="see segkit inspect")


def zero_shot(per_class: Mapping[str, Any], unseen: Sequence[str], task: str) -> dict[str, Any]:
    """Mean over seen and over unseen classes, and their harmonic mean, in percent.

    Args:
        per_class: `per_class` of metrics.json.
        unseen: names of classes that training has not seen; all others are seen.
        task: the figure is PQ for panoptic, IoU for semantic, AP for instance.

    Raises:
        InputError: an unseen class is not in the vocabulary.
    """
    check_unseen(per_class, unseen)
    values = {name: row["pq"] if task == "panoptic" else row for name, row in per_class.items()}
    groups = {
        "seen": [
            value for name, value in values.items() if name not in set(unseen) and value is not None
        ],
        "unseen": [
            value for name, value in values.items() if name in set(unseen) and value is not None
        ],
    }
    means = {group: sum(found) / len(found) if found else None for group, found in groups.items()}
    seen, other = means["seen"], means["unseen"]
    harmonic = None
    if seen is not None and other is not None:
        harmonic = 2 * seen * other / (seen + other) if seen + other else 0.0
    counts = {f"{group}_classes": len(found) for group, found in groups.items()}
    return {
        "figure": {"panoptic": "pq", "semantic": "iou"}.get(task, "ap"),
        **means,
        "harmonic": harmonic,
        **counts,
    }
