"""What instances are lost by: the error types of TIDE (Bolya et al., ECCV 2020), and which classes
are confused."""

from collections.abc import Sequence
from typing import Any

from segkit.metrics.instance import categories
from segkit.metrics.objects import Batch, By

KINDS = {
    "Cls": "classification",
    "Loc": "localisation",
    "Both": "classification and localisation",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
}
MATCHED, BACKGROUND = 0.5, 0.1
"""IoU from which a detection fits an object, and below which it lies on nothing."""
MIN_SCORE = 0.3
"""Detections of lower score do not enter the confusion between classes."""
CONFUSED = 20


def breakdown(
    batches: Sequence[Batch], names: Sequence[str], by: By, max_dets: Sequence[int]
) -> dict[str, Any]:
    """Errors and confusion of matched detections, by hotcoco.

    What the AP leaves out is no error: detections beyond `max_dets`, and what matches nothing where
    labels are not exhaustive.

    Returns:
        `errors`: for each kind its `count` and `gain`, what the AP at IoU 0.5 (in percent) would
        gain without it; `confusion`: the pairs of classes most often taken for each other, `true`,
        `predicted` and `count`.
    """
    from hotcoco import COCO, COCOeval

    images = [image for batch in batches for image in batch.images]
    annotations = [annotation for batch in batches for annotation in batch.annotations]
    results = [result for batch in batches for result in batch.results]
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number  # so far those of its batch
    truth = COCO(
        {"images": images, "annotations": annotations, "categories": categories(len(names))}
    )
    federated = any("neg_category_ids" in image for image in images)
    evaluator = COCOeval(
        truth, truth.load_res(results), "segm" if by == "mask" else "bbox", lvis_style=federated
    )
    evaluator.params.max_dets = list(max_dets)
    evaluator.evaluate()
    found = evaluator.tide_errors(MATCHED, BACKGROUND)
    errors = {
        name: {"count": int(found["counts"][kind]), "gain": 100 * float(found["delta_ap"][kind])}
        for kind, name in KINDS.items()
    }
    return {"errors": errors, "confusion": _confused(evaluator, names)}


def _confused(evaluator: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    matrix = evaluator.confusion_matrix(MATCHED, min_score=MIN_SCORE)["matrix"][
        : len(names), : len(names)
    ]
    pairs = [
        {"true": names[i], "predicted": names[k], "count": int(matrix[i, k])}
        for i, k in zip(*matrix.nonzero(), strict=True)
        if i != k
    ]
    return sorted(pairs, key=lambda pair: -pair["count"])[:CONFUSED]
