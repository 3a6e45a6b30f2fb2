"""What a dataset says of each image: figures of predictions, quarantined labels, leaks."""

import json
import math
import re
from collections.abc import Iterator

from segkit import storage
from segkit.errors import InputError
from segkit.metrics.evaluate import evaluate_images
from segkit.metrics.prediction_ids import images_of_set
from segkit.shards.label_files import DAMAGE_HINT
from segkit.shards.leakage import find_leaks
from segkit.shards.reader import ShardSet
from segkit.sources.quarantine import QUARANTINE

_IMAGE = re.compile(r"\bimage (.+?)(?=$|, |: )")


def image_figures(truth: ShardSet, predictions: ShardSet) -> dict[str, float]:
    """Score each image that both sets have: PQ, mIoU or the mean IoU of objects, in percent.

    Returns:
        Sample id -> figure, without images that have nothing to score.

    Raises:
        SegkitError: the sets cannot be compared; there are boxes without masks, for example.
    """
    result = evaluate_images(truth, predictions)
    scores, _ = result.image_scores()
    pairs = zip(result.image_ids, scores.tolist(), strict=True)
    predicted = set(images_of_set(predictions, truth))
    return {image: score for image, score in pairs if image in predicted and not math.isnan(score)}


def quarantined_ids(shards: ShardSet) -> Iterator[str]:
    """The images of which the conversion dropped a label into the quarantine.

    Raises:
        InputError: the quarantine is damaged.
    """
    file = shards.path / QUARANTINE
    try:
        data = storage.read_bytes(file)
    except OSError:  # nothing was quarantined
        return
    ids = set(shards.image_ids())
    for line in data.splitlines():
        try:  # `segkit.parse` refuses large integers, which the source's own records may hold
            record = json.loads(line)["record"]
        except (ValueError, RecursionError, TypeError, KeyError) as error:
            raise InputError("damaged", file=file, hint=DAMAGE_HINT) from error
        match = _IMAGE.search(str(record))
        if match and match[1] in ids:
            yield match[1]


def shared_ids(shards: ShardSet, second: ShardSet) -> Iterator[str]:
    """The images of the set that another set contains too, scaled or re-encoded ones included."""
    return (leak.id_a for leak in find_leaks([shards, second]))
