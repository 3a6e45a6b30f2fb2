"""What a dataset says of each image: figures of predictions, quarantined labels, leaks."""

import json
import math
import re
from collections.abc import Iterator

from segkit import storage
from segkit.errors import SegkitError
from segkit.metrics.evaluate import EvalOptions, evaluate
from segkit.shards.leakage import find_leaks
from segkit.shards.manifest import TASKS
from segkit.shards.reader import ShardSet

QUARANTINE = "quarantine.jsonl"
_IMAGE = re.compile(r"\bimage (.+?)(?=$|, |: )")


def image_figures(truth: ShardSet, predictions: ShardSet) -> dict[str, float] | None:
    """Score each image: PQ, mIoU or the mean IoU of objects, in percent.

    Returns:
        Sample id -> figure, without images that have nothing to score; None where the sets cannot
        be compared, such as boxes without masks.
    """
    task = TASKS[truth.manifest.kind]
    try:
        result = evaluate(truth, predictions, task, EvalOptions(detections=task == "instance"))
    except SegkitError:
        return None
    scores, _ = result.image_scores()
    pairs = zip(result.image_ids, scores.tolist(), strict=True)
    return {image: score for image, score in pairs if not math.isnan(score)}


def quarantined_ids(shards: ShardSet) -> Iterator[str]:
    """The images of which the conversion dropped a label into the quarantine."""
    try:
        text = storage.read_bytes(shards.path / QUARANTINE).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return
    ids = {sample.id for sample in shards.samples()}
    for line in text.splitlines():
        match = _IMAGE.search(str(json.loads(line).get("record", "")))
        if match and match[1] in ids:
            yield match[1]


def shared_ids(shards: ShardSet, second: ShardSet) -> Iterator[str]:
    """The images of the set that another set contains too, scaled or re-encoded ones included."""
    return (leak.id_a for leak in find_leaks([shards, second]))
