"""The error types of TIDE (Bolya et al., ECCV 2020) and the classes confused with each other."""

from collections.abc import Sequence
from typing import Any

from segkit.metrics.instance import coco_categories
from segkit.metrics.objects import IouType, PredictedRecords, Record, TrueRecords

ERROR_TYPES = {
    "Cls": "classification",
    "Loc": "localisation",
    "Both": "classification and localisation",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
}
FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1
"""IoU from which a detection matches an object, and below which it is on background."""
MIN_SCORE = 0.3
"""Detections of lower score do not enter the confusion between classes."""
MAX_CONFUSED = 20
"""Listed pairs of confused classes."""


class TideErrors:
    """Errors of instance predictions and the confusion between classes, by hotcoco.

    What AP does not count is not an error: detections beyond `max_dets`, and what matches nothing
    where labels are not exhaustive. All records are kept in memory.
    """

    def __init__(
        self, class_names: Sequence[str], iou_type: IouType, max_dets: Sequence[int]
    ) -> None:
        """Set up the metric.

        Args:
            class_names: (K,) names of the evaluated classes, in the order of categories 1 to K.
            iou_type: whether masks or boxes are compared.
            max_dets: detections that count in an image; the last is the limit.
        """
        self.class_names = class_names
        self.iou_type = iou_type
        self.max_dets = list(max_dets)
        self._images: list[Record] = []
        self._annotations: list[Record] = []
        self._results: list[Record] = []

    def update(self, truth: TrueRecords, prediction: PredictedRecords) -> None:
        """Keep the records of a batch of images."""
        self._images += truth.images
        self._annotations += truth.annotations
        self._results += prediction.counted(truth, self.max_dets[-1]).results

    def merge(self, parts: "Sequence[TideErrors]") -> None:
        """Add the records of other metrics; their images follow those of this one."""
        for part in parts:
            self._images += part._images
            self._annotations += part._annotations
            self._results += part._results

    def compute(self) -> dict[str, Any]:
        """Errors and confusion, as metrics.json holds them.

        Returns:
            `errors`: for each type its `count` and `gain`, what the AP at IoU 0.5 (in percent)
            would gain without it; `confusion`: the pairs of classes most often confused, `true`,
            `predicted` and `count`.
        """
        evaluator = self._evaluator()
        evaluator.evaluate()
        tide = evaluator.tide_errors(FOREGROUND_IOU, BACKGROUND_IOU)
        errors = {
            name: {"count": int(tide["counts"][key]), "gain": 100 * float(tide["delta_ap"][key])}
            for key, name in ERROR_TYPES.items()
        }
        return {"errors": errors, "confusion": self._confusion(evaluator)}

    def _evaluator(self) -> Any:
        from hotcoco import COCO, COCOeval

        for number, annotation in enumerate(self._annotations, 1):
            annotation["id"] = number  # unique in the set; until now, in the batch
        truth = COCO(
            {
                "images": self._images,
                "annotations": self._annotations,
                "categories": coco_categories(len(self.class_names)),
            }
        )
        federated = any("neg_category_ids" in image for image in self._images)
        predictions = truth.load_res(self._results)
        coco_iou_type = "segm" if self.iou_type == "mask" else "bbox"
        evaluator = COCOeval(truth, predictions, coco_iou_type, lvis_style=federated)
        evaluator.params.max_dets = self.max_dets
        return evaluator

    def _confusion(self, evaluator: Any) -> list[dict[str, Any]]:
        names = self.class_names
        matrix = evaluator.confusion_matrix(FOREGROUND_IOU, min_score=MIN_SCORE)["matrix"]
        matrix = matrix[: len(names), : len(names)]
        pairs = [
            {"true": names[i], "predicted": names[k], "count": int(matrix[i, k])}
            for i, k in zip(*matrix.nonzero(), strict=True)
            if i != k
        ]
        return sorted(pairs, key=lambda pair: -pair["count"])[:MAX_CONFUSED]
