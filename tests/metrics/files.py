"""Evaluation inputs on disk: shard sets of random samples, and the same as COCO's own files."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segkit.metrics.evaluate import evaluate
from segkit.metrics.task_metrics import EvalOptions
from segkit.sample import Sample
from segkit.shards.header import Header
from segkit.shards.manifest import Task
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from segkit.taxonomy import Taxonomy

from .scenes import disturbed, id_map, random_sample, taxonomy


def shard_set(
    folder: Path, samples: list[Sample], names: Taxonomy, kind: str = "panoptic"
) -> ShardSet:
    return write_set(
        folder,
        ((s, None) for s in samples),
        Header(
            taxonomy=names,
            kind=kind,
            name=folder.name,
            split="val",
            command="test",
            images_by="none",
        ),
    )


def sets(
    folder: Path, images: int = 5, seed: int = 0, kind: str = "panoptic"
) -> tuple[ShardSet, ShardSet]:
    rng, names = np.random.default_rng(seed), taxonomy()
    truths = [random_sample(rng, names, str(100 + i), 40, 50) for i in range(images)]
    predictions = [disturbed(rng, truth, names) for truth in truths]
    return (
        shard_set(folder / "truth", truths, names, kind),
        shard_set(folder / "predictions", predictions, names, kind),
    )


def figures(truth: ShardSet, predictions: Any, task: Task, **options: Any) -> dict[str, Any]:
    """What metrics.json holds."""
    return evaluate(truth, predictions, task, EvalOptions(**options)).metrics


def results_file(path: Path, samples: list[Sample], boxes: bool = False) -> Path:
    rows = []
    for sample in samples:
        for segment in sample.segments:
            row = {
                "image_id": int(sample.id),
                "category_id": segment.class_id,
                "score": segment.score,
            }
            size = [sample.height, sample.width]
            mask = {"segmentation": {"size": size, "counts": (segment.mask or b"").decode()}}
            rows.append(row | ({"bbox": list(segment.box)} if boxes else mask))
    path.write_text(json.dumps(rows))
    return path


def panoptic_files(path: Path, samples: list[Sample]) -> Path:
    folder = path.with_suffix("")
    folder.mkdir()
    annotations = []
    for sample in samples:
        ids = id_map(sample)
        pixels = np.stack([ids // 65536, ids // 256 % 256, ids % 256], -1).astype(np.uint8)
        cv2.imwrite(str(folder / f"{sample.id}.png"), pixels)
        infos = [
            {"id": n, "category_id": s.class_id, "area": int(s.area)}
            for n, s in enumerate(sample.segments, 1)
        ]
        row = {"image_id": int(sample.id), "file_name": f"{sample.id}.png", "segments_info": infos}
        annotations.append(row)
    path.write_text(json.dumps({"annotations": annotations}))
    return path
