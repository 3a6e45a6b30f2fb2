"""Write a prediction set in the formats that other programs score."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from segkit.atomic import new_file
from segkit.export.coco import export_panoptic
from segkit.export.semantic_png import export_semantic
from segkit.sample import Sample
from segkit.shards.reader import ShardSet

RESULTS = "results.json"
_VOID_INDICES = (255, 0, 65535)
"""Values that index PNGs use for pixels without a class, the usual one first."""


def write_native(predictions: ShardSet, folder: Path) -> Path:
    """Write a prediction set in the format of its kind; returns the folder.

    - instance: `results.json`, COCO results
    - panoptic: `panoptic_<name>.json` and its folder of PNGs
    - semantic: `masks/`, `labels.txt` and `taxonomy.json`

    Image ids are the set's own, as numbers where they are numbers.

    Raises:
        InputError: the folder is not empty, or a class id does not fit in a PNG.
    """
    match predictions.manifest.kind:
        case "instance":
            folder.mkdir(parents=True, exist_ok=True)
            write_results(folder / RESULTS, predictions.samples(check_masks=True))
        case "panoptic":
            export_panoptic(predictions, folder)
        case "semantic":
            classes = predictions.taxonomy.by_id
            void = next(index for index in _VOID_INDICES if index not in classes)
            export_semantic(predictions, folder, void=void)
        case kind:
            raise ValueError(f"a set of kind {kind} holds no predictions")
    return folder


def write_results(path: Path, samples: Iterable[Sample]) -> int:
    """Write COCO results, `[{image_id, category_id, score, segmentation}, ...]`, in image order.

    Segments without a mask become results with a `bbox`. Results with a mask have none, because
    evaluators would take the box's area for the size classes.

    Returns:
        The number of results.
    """
    count = 0
    with new_file(path) as draft, draft.open("w", encoding="utf-8") as file:
        file.write("[")
        for count, row in enumerate(_rows(samples), 1):
            file.write(",\n" if count > 1 else "\n")
            json.dump(row, file, allow_nan=False)
        file.write("\n]\n")
    return count


def _rows(samples: Iterable[Sample]) -> Iterator[dict[str, Any]]:
    for sample in samples:
        number = int(sample.id) if sample.id.isdecimal() else None
        image_id = number if str(number) == sample.id else sample.id
        for segment in sample.segments:
            row: dict[str, Any] = {
                "image_id": image_id,
                "category_id": segment.class_id,
                "score": segment.score,
            }
            if segment.mask is None:
                row["bbox"] = list(segment.box)
            else:
                size = [sample.height, sample.width]
                row["segmentation"] = {"size": size, "counts": segment.mask.decode("ascii")}
            yield row
