"""COCO results JSON: predictions as others re-score them."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from segkit.sample import Sample


def write_results(path: Path, samples: Iterable[Sample]) -> int:
    """Write `[{image_id, category_id, score, segmentation}]`, image after image; returns the number
    of results.

    Segments without a mask become results with a `bbox`; with a mask they have none, because
    evaluators would take the box's area for the size classes.
    """
    count = 0
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write("[")
        for count, row in enumerate(_rows(samples), 1):
            file.write(",\n" if count > 1 else "\n")
            json.dump(row, file, allow_nan=False)
        file.write("\n]\n")
    partial.replace(path)
    return count


def _rows(samples: Iterable[Sample]) -> Iterator[dict[str, Any]]:
    for sample in samples:
        number = int(sample.id) if sample.id.isdecimal() else None
        image = number if str(number) == sample.id else sample.id
        for segment in sample.segments:
            row: dict[str, Any] = {
                "image_id": image,
                "category_id": segment.class_id,
                "score": segment.score,
            }
            if segment.mask is None:
                yield row | {"bbox": list(segment.box)}
            else:
                counts = segment.mask.decode("ascii")
                yield row | {
                    "segmentation": {"size": [sample.height, sample.width], "counts": counts}
                }
