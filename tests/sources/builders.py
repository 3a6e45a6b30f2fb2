"""Small native datasets, written with nothing but Pillow and json."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segkit.sources.engine import ConversionReport, ConvertOptions, check
from segkit.sources.ledger import Tally
from segkit.sources.source import Source

WIDTH, HEIGHT = 32, 24
CATEGORIES = [
    {"id": 3, "name": "blob", "isthing": 1},
    {"id": 7, "name": "ground", "isthing": 0},
    {"id": 0, "name": "nought", "isthing": 1},
]


def picture(
    path: Path, width: int = WIDTH, height: int = HEIGHT, seed: int = 0, **save: Any
) -> Path:
    """A small noisy RGB image; its format follows the extension."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **save)
    return path


def write_json(path: Path, data: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), "utf-8")
    return path


def id_png(path: Path, ids: NDArray[Any]) -> Path:
    """A COCO panoptic PNG."""
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path)
    return path


def label_map(seed: int, ids: Sequence[int] = (0, 5, 300, 70000)) -> NDArray[np.int64]:
    """A (HEIGHT, WIDTH) map of rectangles and noise in which every id has pixels."""
    rng = np.random.default_rng(seed)
    labels = np.full((HEIGHT, WIDTH), ids[0])
    for value in ids[1:]:
        y, x = rng.integers(0, HEIGHT - 8), rng.integers(0, WIDTH - 8)
        labels[y : y + 8, x : x + 8] = value
    noisy = rng.random(labels.shape) < 0.1
    labels[noisy] = rng.choice(ids, int(noisy.sum()))
    labels[0, : len(ids)] = ids
    return labels


def tight_box(mask: NDArray[np.bool_]) -> list[int]:
    ys, xs = np.nonzero(mask)
    return [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]


def coco_panoptic(root: Path, count: int = 3) -> dict[str, Any]:
    """Write images, PNGs and panoptic.json of a correct panoptic set; returns the JSON."""
    classes = {5: 3, 300: 7, 70000: 0}
    data: dict[str, Any] = {
        "info": {"year": 1},
        "categories": deepcopy(CATEGORIES),
        "images": [],
        "annotations": [],
    }
    for number in range(count):
        picture(root / "images" / f"p{number}.jpg", seed=number)
        ids = label_map(number)
        id_png(root / "panoptic" / f"p{number}.png", ids)
        infos = [
            {
                "id": i,
                "category_id": c,
                "area": int((ids == i).sum()),
                "bbox": tight_box(ids == i),
                "iscrowd": i == 5,
            }
            for i, c in classes.items()
        ]
        data["images"].append(
            {"id": number, "file_name": f"p{number}.jpg", "width": WIDTH, "height": HEIGHT}
        )
        data["annotations"].append(
            {"image_id": number, "file_name": f"p{number}.png", "segments_info": infos}
        )
    write_json(root / "panoptic.json", data)
    return data


def coco_instances(
    root: Path, annotations: Sequence[Mapping[str, Any]], images: int = 1, categories: Any = None
) -> Path:
    """A set of `images` images and these annotations, completed where they lack ids."""
    listed = []
    for number in range(images):
        picture(root / "images" / f"i{number}.jpg", seed=number)
        listed.append(
            {"id": number, "file_name": f"i{number}.jpg", "width": WIDTH, "height": HEIGHT}
        )
    full = [
        {"id": n + 1, "image_id": 0, "category_id": 3, **fields}
        for n, fields in enumerate(annotations)
    ]
    data = {
        "images": listed,
        "annotations": full,
        "categories": CATEGORIES if categories is None else categories,
    }
    return write_json(root / "instances.json", data)


def dry_run(source: Source, **options: Any) -> ConversionReport:
    return check(source, ConvertOptions(workers=1, **options))


def samples(source: Source) -> list[Any]:
    """Samples of a source, without images."""
    converted = []
    for record in source.records(Tally()):
        content = source.load(record).content
        converted.append(source.sample(record, content, None, Tally()))
    return converted


def codes(report: ConversionReport) -> dict[str, int]:
    return {**report.ledger.images.dropped, **report.ledger.annotations.dropped}
