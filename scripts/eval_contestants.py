"""Evaluators that `bench_eval.py` compares; each returns {figure: value in percent}."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from eval_inputs import SIDES, VOID

Figures = dict[str, float]
AP = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
MIOU = ("miou", "fwiou", "mean_accuracy", "pixel_accuracy")


def pq_numpy(folder: Path) -> Figures:
    """The way of panopticapi: dense maps, one `unique` over pairs of ids, dictionaries."""
    truth, predictions = (json.loads((folder / f"panoptic_{s}.json").read_text()) for s in SIDES)
    is_thing = {c["id"]: c["isthing"] for c in truth["categories"]}
    total = {c: [0.0, 0, 0, 0] for c in is_thing}
    predicted_rows = {row["image_id"]: row for row in predictions["annotations"]}

    def read_ids(side: str, row: dict[str, Any]) -> np.ndarray:
        bgr = cv2.imread(str(folder / f"panoptic_{side}" / row["file_name"])).astype(np.uint32)
        return (bgr[..., 2] + 256 * bgr[..., 1] + 65536 * bgr[..., 0]).astype(np.uint64)

    for row in truth["annotations"]:
        rows = row, predicted_rows[row["image_id"]]
        a, b = (read_ids(side, row) for side, row in zip(SIDES, rows, strict=True))
        true, predicted = ({s["id"]: s for s in row["segments_info"]} for row in rows)
        labels, counts = np.unique(b, return_counts=True)
        for label, n in zip(labels, counts, strict=True):
            if int(label) in predicted:
                predicted[int(label)]["area"] = int(n)
        labels, counts = np.unique(a * 2**24 + b, return_counts=True)
        common = {
            (int(p) // 2**24, int(p) % 2**24): int(n) for p, n in zip(labels, counts, strict=True)
        }
        matched_true, matched_predicted = set(), set()
        for (t, p), n in common.items():
            if t not in true or p not in predicted or true[t]["iscrowd"]:
                continue
            if true[t]["category_id"] != predicted[p]["category_id"]:
                continue
            iou = n / (predicted[p]["area"] + true[t]["area"] - n - common.get((0, p), 0))
            if iou > 0.5:
                sums = total[true[t]["category_id"]]
                sums[0], sums[1] = sums[0] + iou, sums[1] + 1
                matched_true.add(t)
                matched_predicted.add(p)
        crowd = {}
        for t, s in true.items():
            if s["iscrowd"]:
                crowd[s["category_id"]] = t
            elif t not in matched_true:
                total[s["category_id"]][3] += 1
        for p, s in predicted.items():
            void = common.get((0, p), 0) + common.get((crowd.get(s["category_id"], -1), p), 0)
            if p not in matched_predicted and void / s["area"] <= 0.5:
                total[s["category_id"]][2] += 1
    quality = {
        c: iou / (tp + (fp + fn) / 2) for c, (iou, tp, fp, fn) in total.items() if tp + fp + fn
    }
    things = [q for c, q in quality.items() if is_thing[c]]
    return {
        "pq": 100 * float(np.mean(list(quality.values()))),
        "pq things": 100 * float(np.mean(things)),
    }


def pq_hotcoco(folder: Path) -> Figures:
    """hotcoco, from PNG and JSON."""
    from hotcoco.panoptic import METRIC_NAMES, PanopticEval

    files = [str(folder / f"panoptic_{side}.json") for side in SIDES]
    truth, predictions = (str(folder / f"panoptic_{side}") for side in SIDES)
    evaluation = PanopticEval(*files, gt_folder=truth, pred_folder=predictions)
    evaluation.run()
    figures = dict(zip(METRIC_NAMES, evaluation.stats, strict=False))
    return {"pq": 100 * figures["PQ"], "pq things": 100 * figures["PQ_th"]}


def segkit(folder: Path, task: Any, file: str | None = None) -> dict[str, Any]:
    """segkit, from shards or from a file of predictions."""
    from segkit.metrics.evaluate import evaluate
    from segkit.metrics.predictions import open_predictions
    from segkit.shards.reader import ShardSet

    truth = ShardSet.open(folder / "truth")
    if file is None:
        return evaluate(truth, ShardSet.open(folder / "predictions"), task).metrics
    return evaluate(truth, open_predictions(str(folder / file), truth), task).metrics


def pq_segkit(folder: Path, file: str | None = None) -> Figures:
    """segkit, from shards."""
    figures = segkit(folder, "panoptic", file)
    return {"pq": figures["all"]["pq"], "pq things": figures["things"]["pq"]}


def pq_segkit_files(folder: Path) -> Figures:
    """segkit, from PNG and JSON."""
    return pq_segkit(folder, "panoptic_predictions.json")


def ap_pycocotools(folder: Path) -> Figures:
    """pycocotools, from instance JSON."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return _coco(folder, COCO, COCOeval)


def ap_faster(folder: Path) -> Figures:
    """faster-coco-eval, from instance JSON."""
    from faster_coco_eval import COCO, COCOeval_faster

    return _coco(folder, COCO, COCOeval_faster)


def ap_hotcoco(folder: Path) -> Figures:
    """hotcoco, from instance JSON."""
    from hotcoco import COCO, COCOeval

    return _coco(folder, COCO, COCOeval)


def _coco(folder: Path, coco: Any, coco_eval: Any) -> Figures:
    truth = coco(str(folder / "instances_truth.json"))
    results = truth.loadRes(str(folder / "instances_predictions.json"))
    evaluation = coco_eval(truth, results, "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return {key: 100 * float(value) for key, value in zip(AP, evaluation.stats, strict=False)}


def ap_segkit(folder: Path, file: str | None = None) -> Figures:
    """segkit, from shards."""
    figures = segkit(folder, "instance", file)
    return {key: figures[key] if figures[key] is not None else -100.0 for key in AP}


def ap_segkit_files(folder: Path) -> Figures:
    """segkit, from results JSON."""
    return ap_segkit(folder, "instances_predictions.json")


def _class_maps(folder: Path, file: Path) -> tuple[np.ndarray, np.ndarray]:
    truth, prediction = (cv2.imread(str(folder / f"semantic_{s}" / file.name), -1) for s in SIDES)
    return truth, prediction


def _class_files(folder: Path) -> tuple[int, list[Path]]:
    """Number of classes, and the class PNGs of the ground truth."""
    classes = len(json.loads((folder / "panoptic_truth.json").read_text())["categories"])
    return classes, sorted((folder / "semantic_truth").iterdir())


def miou_bincount(folder: Path) -> Figures:
    """The way of mmsegmentation: dense maps and one bincount an image."""
    classes, files = _class_files(folder)
    matrix = np.zeros((classes, classes + 1), np.int64)
    for file in files:
        truth, prediction = (classes.astype(np.int64) for classes in _class_maps(folder, file))
        keep = truth != VOID
        cells = truth[keep] * (classes + 1) + np.minimum(prediction[keep], classes)
        matrix += np.bincount(cells, minlength=classes * (classes + 1)).reshape(matrix.shape)
    correct, labeled = np.diagonal(matrix), matrix.sum(1)
    with np.errstate(invalid="ignore"):
        iou, accuracy = correct / (labeled + matrix[:, :-1].sum(0) - correct), correct / labeled
    weighted = np.nansum(labeled * np.nan_to_num(iou)) / labeled.sum()
    values = (np.nanmean(iou), weighted, np.nanmean(accuracy), correct.sum() / labeled.sum())
    return {key: 100 * float(value) for key, value in zip(MIOU, values, strict=True)}


def miou_hotcoco(folder: Path) -> Figures:
    """hotcoco, from class PNGs."""
    from hotcoco.semantic import SemanticEval

    classes, files = _class_files(folder)
    evaluation = SemanticEval(classes, ignore_index=VOID)
    for file in files:
        evaluation.update(*_class_maps(folder, file))
    figures = evaluation.results()
    names = ("mIoU", "fwIoU", "mAcc", "aAcc")
    return {key: 100 * figures[name] for key, name in zip(MIOU, names, strict=True)}


def miou_torchmetrics(folder: Path) -> Figures:
    """torchmetrics, from class PNGs."""
    import torch
    from torchmetrics.classification import MulticlassJaccardIndex

    torch.set_num_threads(1)
    classes, files = _class_files(folder)
    metric = MulticlassJaccardIndex(classes, ignore_index=VOID, validate_args=False)
    for file in files:
        maps = (torch.from_numpy(m.astype(np.int64)) for m in _class_maps(folder, file))
        truth, prediction = maps
        metric.update(prediction, truth)
    return {"miou": 100 * float(metric.compute())}


def miou_segkit(folder: Path) -> Figures:
    """segkit, from shards."""
    figures = segkit(folder, "semantic")
    return {key: figures[key] for key in MIOU}


CONTESTANTS: dict[str, dict[str, Callable[[Path], Figures]]] = {
    "PQ": {
        "plain NumPy, as panopticapi": pq_numpy,
        "hotcoco": pq_hotcoco,
        "segkit, from PNG + JSON": pq_segkit_files,
        "segkit, from shards": pq_segkit,
    },
    "mask AP": {
        "pycocotools": ap_pycocotools,
        "faster-coco-eval": ap_faster,
        "hotcoco": ap_hotcoco,
        "segkit, from results JSON": ap_segkit_files,
        "segkit, from shards": ap_segkit,
    },
    "mIoU": {
        "plain NumPy, as mmsegmentation": miou_bincount,
        "torchmetrics": miou_torchmetrics,
        "hotcoco": miou_hotcoco,
        "segkit, from shards": miou_segkit,
    },
}
"""Metric -> name -> function; the first of each metric is the reference."""
