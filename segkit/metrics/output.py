"""Files that an evaluation writes, such as metrics.json; names and notes for its figures."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkit import __version__
from segkit.atomic import write_text
from segkit.errors import plural
from segkit.metrics.class_mapping import class_map_notes
from segkit.sample import Segment
from segkit.shards.manifest import Task
from segkit.shards.reader import ShardSet
from segkit.storage import location

_PLURALS = {"crowd": "crowds", "box without a mask": "boxes without a mask"}
METRICS_SCHEMA = "segkit.metrics/1"
_MIXED_CASE = {"miou": "mIoU", "fwiou": "fwIoU"}
_INITIALS = re.compile(r"(ap|ar|pq|sq|rq)\d*")


def figure_name(key: str) -> str:
    """The display name of a figure, such as AP small for `ap_small` and AR100 for `ar100`."""
    words = key.replace("_", " ").split()
    return " ".join(
        word.upper() if _INITIALS.fullmatch(word) else _MIXED_CASE.get(word, word) for word in words
    )


def origin(data: str | ShardSet) -> dict[str, Any]:
    """Where data or predictions came from: a version with its digest, or a file."""
    if isinstance(data, ShardSet):
        return {"path": str(data.path), "version": data.version, "digest": data.manifest.digest}
    return {"path": str(location(data).resolve())}


def headline(metrics: Mapping[str, Any]) -> tuple[str, float | None]:
    """The figure that a set is judged by: its name, and its value in 0-100 or None if undefined."""
    if "all" in metrics:
        return "PQ", metrics["all"]["pq"]
    return ("mIoU", metrics["miou"]) if "miou" in metrics else ("mask AP", metrics["ap"])


def evaluation_notes(result: Mapping[str, Any], truth: ShardSet) -> list[str]:
    """The conditions that a reader of the figures must know, on the screen and in the report.

    Args:
        result: the content of metrics.json.
        truth: the ground truth.
    """
    notes = [*truth_notes(result, truth), *prediction_notes(result)]
    if crowds := result.get("several_crowds"):
        noun, verb = ("false positive", "lies") if crowds == 1 else ("false positives", "lie")
        notes.append(
            f"{crowds} {noun} {verb} in several crowds of the class: panopticapi, and so this"
            " figure, considers the last crowd only"
        )
    return notes


def truth_notes(result: Mapping[str, Any], truth: ShardSet) -> list[str]:
    """A note where no ground truth counts."""
    by_box = result.get("by") == "box"
    reason = uncounted_truth(truth, result["task"], by_box=by_box)
    return [] if reason is None else [reason]


def prediction_notes(result: Mapping[str, Any]) -> list[str]:
    """What was missing from the predictions, and what became of their classes."""
    notes = []
    if missing := result["images"]["without_prediction"]:
        total = result["images"]["evaluated"]
        images, verb = "image" if total == 1 else "images", "has" if missing == 1 else "have"
        notes.append(
            f"{missing} of {total} {images} {verb} no prediction; their segments count as missed"
        )
    if boxes := result.get("without_mask"):
        noun, verb = ("prediction has", "is") if boxes == 1 else ("predictions have", "are")
        notes.append(f"{boxes} {noun} a box but no mask and {verb} left out")
    return [*notes, *class_map_notes(result.get("class_map", {}))]


def uncounted_truth(truth: ShardSet, task: Task, *, by_box: bool = False) -> str | None:
    """Why no ground truth counts for a task, in one line; None where some does.

    Args:
        truth: the ground truth, read up to its first segment that counts.
        task: what is evaluated.
        by_box: whether instances are matched by their boxes, so that none needs a mask.
    """
    reasons: Counter[str] = Counter()
    for sample in truth.samples():
        for segment in sample.segments:
            reason = _reason(segment, task, by_box)
            if reason is None:
                return None
            reasons[reason] += 1
    if not reasons:
        return "the ground truth has no segments, so that no figure says anything"
    listed = ", ".join(
        plural(count, reason, _PLURALS.get(reason, reason))
        for reason, count in reasons.most_common()
    )
    hint = ""
    if reasons["crowd"]:
        hint = "; for COCO crowds that are objects, `segkit convert coco --crowds-as-objects`"
    return f"no segment of the ground truth counts ({listed}), so that no figure is defined{hint}"


def _reason(segment: Segment, task: Task, by_box: bool) -> str | None:
    """Why a segment of ground truth does not count; None where it does."""
    if segment.ignore:
        return "to be ignored"
    if task == "instance" and segment.kind == "stuff":
        return "stuff"
    if segment.is_crowd and task != "semantic":
        return "crowd"
    return None if segment.mask is not None or by_box else "box without a mask"


def write_json(path: Path, content: Mapping[str, Any], schema: str = METRICS_SCHEMA) -> None:
    """Write an object with `schema` and `segkit_version`; the file is complete or absent."""
    document = {"schema": schema, "segkit_version": __version__, **content}
    write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")
