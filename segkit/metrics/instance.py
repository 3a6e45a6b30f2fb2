"""Average precision of masks or boxes by the rules of COCO and LVIS, and its evaluators."""

import contextlib
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.masks.boxes import AREAS
from segkit.masks.run_lengths import decode_runs, join
from segkit.metrics.objects import IouType, PredictedRecords, Record, TrueRecords
from segkit.metrics.sides import (
    GROUND_TRUTH,
    MASKS_HINT,
    PREDICTIONS,
    Side,
    malformed_mask,
)

Floats = NDArray[np.float64]
MAX_DETS = (1, 10, 100)
"""Detections that count, of each class in each image."""
LVIS_MAX_DETS = 300
"""Detections of an image that count by the rules of LVIS, all classes together."""


@dataclass(frozen=True)
class Curves:
    """Precision and recall as pycocotools lays them out; -1 where a class has no ground truth."""

    precision: Floats
    """(T, R, K, A, M): IoU thresholds 0.50:0.05:0.95, recalls 0:0.01:1, classes, `AREAS`,
    detections an image."""
    recall: Floats
    """(T, K, A, M)."""
    thresholds: Floats
    """(T,) IoU thresholds."""


class InstanceAP(ABC):
    """AP and AR of masks or boxes; each subclass runs one evaluator."""

    protocol = "coco"
    """Whose rules apply: `coco` or `lvis`."""

    def __init__(
        self,
        class_names: Sequence[str],
        iou_type: IouType = "mask",
        max_dets: Sequence[int] = MAX_DETS,
    ) -> None:
        """Set up the metric.

        Args:
            class_names: (K,) names of the evaluated classes, in the order of categories 1 to K.
            iou_type: whether masks or boxes are compared.
            max_dets: (M,) detections that count, of each class in each image; ascending.
        """
        self.class_names = class_names
        self.iou_type = iou_type
        self.max_dets = tuple(max_dets)
        self.ap50_per_class: dict[str, float | None] = {}
        """AP50 of each class in percent, after `compute`."""
        self._start()

    @abstractmethod
    def _start(self) -> None:
        """Set up the evaluator."""

    @abstractmethod
    def update(self, truth: TrueRecords, prediction: PredictedRecords) -> None:
        """Add the records of a batch of images."""

    @abstractmethod
    def merge(self, parts: Sequence[Self]) -> None:
        """Add what other metrics have matched; their images follow those of this one."""

    @abstractmethod
    def curves(self) -> Curves:
        """Precision and recall of everything added; call it once, at the end."""

    def compute(self) -> dict[str, Any]:
        """AP and AR in percent, None where a class or size has no ground truth; call it once."""
        curves = self.curves()
        precision = curves.precision[:, :, :, :, -1]  # (T, R, K, A)
        figures: dict[str, Any] = {"ap": _mean(precision[:, :, :, 0])}
        for name, threshold in (("ap50", 0.5), ("ap75", 0.75)):
            at = np.flatnonzero(np.isclose(curves.thresholds, threshold))
            figures[name] = _mean(precision[at, :, :, 0])
        sizes = list(enumerate(AREAS))[1:]
        for a, size in sizes:
            figures[f"ap_{size}"] = _mean(precision[:, :, :, a])
        for m, detections in enumerate(self.max_dets):
            figures[f"ar{detections}"] = _mean(curves.recall[:, :, 0, m])
        for a, size in sizes:
            figures[f"ar_{size}"] = _mean(curves.recall[:, :, a, -1])
        classes = np.ascontiguousarray(np.moveaxis(precision[:, :, :, 0], 2, 0))  # (K, T, R)
        at = np.flatnonzero(np.isclose(curves.thresholds, 0.5))
        figures["per_class"] = self._per_class(classes)
        self.ap50_per_class = self._per_class(classes[:, at])
        return figures

    def _per_class(self, precision: Floats) -> dict[str, float | None]:
        """The mean over (K, T, R) precision for each class, which has ground truth or has none."""
        means = 100 * precision.mean(axis=(1, 2))
        defined = precision[:, 0, 0] > -1
        values = zip(self.class_names, means.tolist(), defined.tolist(), strict=True)
        return {name: mean if known else None for name, mean, known in values}

    @property
    def coco_iou_type(self) -> str:
        """The evaluators' name of `iou_type`."""
        return "segm" if self.iou_type == "mask" else "bbox"


def _mean(values: Floats) -> float | None:
    defined = values[values > -1]
    return 100 * float(np.mean(defined)) if defined.size else None


class HotcocoAP(InstanceAP):
    """AP by hotcoco, which matches batch after batch and keeps no mask (memory stays bounded)."""

    def _start(self) -> None:
        from hotcoco import Params, StreamingEval

        params = Params(self.coco_iou_type)
        params.max_dets = list(self.max_dets)
        categories = coco_categories(len(self.class_names))
        self._stream = StreamingEval(categories, self.coco_iou_type, params=params)

    def update(self, truth: TrueRecords, prediction: PredictedRecords) -> None:
        """Match the records of a batch of images.

        Raises:
            InputError: hotcoco cannot read the run lengths of a mask.
        """
        if self.iou_type == "mask":
            _check_run_lengths(GROUND_TRUTH, truth.annotations, truth)
            _check_run_lengths(PREDICTIONS, prediction.results, truth)
        self._stream.update(truth.images, truth.annotations, prediction.results)

    def merge(self, parts: Sequence[Self]) -> None:
        """Add what other metrics have matched, without matching again."""
        self._stream = type(self._stream).merge([self._stream, *(part._stream for part in parts)])

    def curves(self) -> Curves:
        """Precision and recall of everything added; call it once, at the end."""
        evaluator = self._stream.finalize()
        evaluator.accumulate()
        arrays: Any = evaluator.eval
        thresholds = np.array(evaluator.params.iou_thrs)
        return Curves(arrays["precision"], arrays["recall"], thresholds)


class LvisAP(HotcocoAP):
    """AP by the rules of LVIS, by hotcoco, for images that are annotated for only some classes.

    A detection of a class that its image is not annotated for does not count; one that matches
    nothing does not count either where the image's labels are not exhaustive; the best
    `LVIS_MAX_DETS` detections of an image count.
    """

    protocol = "lvis"

    def __init__(self, class_names: Sequence[str], iou_type: IouType = "mask") -> None:
        super().__init__(class_names, iou_type, (LVIS_MAX_DETS,))

    def _start(self) -> None:
        from hotcoco import StreamingEval

        categories = coco_categories(len(self.class_names))
        self._stream = StreamingEval(categories, self.coco_iou_type, lvis_style=True)


class PycocotoolsAP(InstanceAP):
    """AP by the reference implementation; keeps all records in memory."""

    def _start(self) -> None:
        self._evaluator()  # before any work, where it is not installed
        self._images: list[Record] = []
        self._annotations: list[Record] = []
        self._results: list[Record] = []

    def _evaluator(self) -> tuple[Any, Any]:
        """The classes `COCO` and `COCOeval`, or others with their interface."""
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval

    def update(self, truth: TrueRecords, prediction: PredictedRecords) -> None:
        """Keep the records of a batch; results get the keys that `loadRes` would add.

        `loadRes` itself fails on an empty list.
        """
        self._images += truth.images
        self._annotations += truth.annotations
        if self.iou_type == "mask":
            areas: list[float] = [*mask_areas(prediction.results)]
        else:
            areas = [r["bbox"][2] * r["bbox"][3] for r in prediction.results]
        self._results += [
            result | {"area": area, "iscrowd": 0}
            for result, area in zip(prediction.results, areas, strict=True)
        ]

    def merge(self, parts: Sequence[Self]) -> None:
        """Add the records of other metrics."""
        for part in parts:
            self._images += part._images
            self._annotations += part._annotations
            self._results += part._results

    def curves(self) -> Curves:
        """Precision and recall of everything added; evaluators' prints on stdout are discarded."""
        for records in (self._annotations, self._results):
            for number, record in enumerate(records, 1):
                record["id"] = number
        coco, coco_eval = self._evaluator()
        with contextlib.redirect_stdout(io.StringIO()):
            truth = self._dataset(coco, self._annotations)
            predictions = self._dataset(coco, self._results)
            evaluator = coco_eval(truth, predictions, self.coco_iou_type)
            evaluator.params.maxDets = list(self.max_dets)
            evaluator.evaluate()
            evaluator.accumulate()
        arrays, thresholds = evaluator.eval, np.asarray(evaluator.params.iouThrs)
        return Curves(arrays["precision"], arrays["recall"], thresholds)

    def _dataset(self, coco: Any, records: list[Record]) -> Any:
        dataset = coco()
        dataset.dataset = {
            "images": self._images,
            "annotations": _copies(records),
            "categories": coco_categories(len(self.class_names)),
        }
        dataset.createIndex()
        return dataset


class FasterCocoAP(PycocotoolsAP):
    """AP by faster-coco-eval; keeps all records in memory."""

    def _evaluator(self) -> tuple[Any, Any]:
        try:
            from faster_coco_eval import COCO, COCOeval_faster
        except ImportError as error:
            hint = "pip install faster-coco-eval"
            raise InputError("faster-coco-eval is not installed", hint=hint) from error
        return COCO, COCOeval_faster


EVALUATORS: dict[str, type[InstanceAP]] = {
    "hotcoco": HotcocoAP,
    "faster-coco-eval": FasterCocoAP,
    "pycocotools": PycocotoolsAP,
}


class MissingMasks:
    """Number of predictions that are only boxes where masks are compared."""

    def __init__(self) -> None:
        self.without_mask = 0
        self.with_mask = 0

    def update(self, truth: TrueRecords, prediction: PredictedRecords) -> None:
        """Count the predictions of a batch of images."""
        self.without_mask += prediction.without_mask
        self.with_mask += len(prediction.results)

    def merge(self, parts: "Sequence[MissingMasks]") -> None:
        """Add the numbers of other metrics."""
        self.without_mask += sum(part.without_mask for part in parts)
        self.with_mask += sum(part.with_mask for part in parts)

    def compute(self) -> dict[str, Any]:
        """`without_mask`.

        Raises:
            InputError: no prediction has a mask, but there are some.
        """
        if self.without_mask and not self.with_mask:
            message = "the predictions are boxes without masks"
            raise InputError(message, file=PREDICTIONS, hint=MASKS_HINT)
        return {"without_mask": self.without_mask}


def _check_run_lengths(source: Side, records: list[Record], truth: TrueRecords) -> None:
    """Raise InputError where hotcoco cannot read a mask, which its evaluation takes for empty."""
    from hotcoco import mask

    def is_readable(records: list[Record]) -> bool:
        try:
            mask.area([record["segmentation"] for record in records])
        except ValueError:
            return False
        return True

    if not is_readable(records):
        first = next(record for record in records if not is_readable([record]))
        names = {image["id"]: name for image, name in zip(truth.images, truth.ids, strict=True)}
        raise malformed_mask(source, f"image {names[first['image_id']]}")


def mask_areas(results: Sequence[Record]) -> list[int]:
    """Pixels of each result's mask."""
    counts = [result["segmentation"]["counts"] for result in results]
    return [int(area) for area in decode_runs(*join(counts)).area]


def coco_categories(classes: int) -> list[Record]:
    """COCO's records of the classes, numbered from 1."""
    return [{"id": k + 1, "name": str(k + 1), "frequency": "f"} for k in range(classes)]


def _copies(records: list[Record]) -> list[Record]:
    """Copies of the records and their masks.

    Evaluators write into them, and other metrics read the originals afterwards.
    """
    return [
        {key: dict(value) if key == "segmentation" else value for key, value in record.items()}
        for record in records
    ]
