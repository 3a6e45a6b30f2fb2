"""Write a prediction set in the formats that other programs score."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from segkit.atomic import new_directory, new_file
from segkit.export.coco import export_panoptic
from segkit.export.destination import write_class_list
from segkit.export.semantic_png import export_semantic, free_index
from segkit.sample import Sample
from segkit.shards.coco_image_ids import Id, coco_ids_by_sample, integer
from segkit.shards.reader import ShardSet

RESULTS = "results.json"


def write_native(predictions: ShardSet, folder: Path, data: ShardSet | None = None) -> Path:
    """Write a prediction set in the format of its kind; returns the folder.

    - instance: `results.json`, COCO results; `labels.txt` and `taxonomy.json`, their classes
    - panoptic: `panoptic_<name>.json` and its folder of PNGs
    - semantic: `masks/`, `labels.txt` and `taxonomy.json`

    Image ids are those that `segkit export coco-instances` and `coco-panoptic` write for the set
    that was predicted. Without such a set they are those of the predictions, as numbers if all
    are different numbers (`000000000139` is 139, as in COCO's files).

    Args:
        predictions: the prediction set.
        folder: is created, or replaced.
        data: the set that was predicted, if one was.

    Raises:
        InputError: a class id does not fit in a PNG, or no index is left for void.
    """
    with new_directory(folder, replace=True) as draft:
        match predictions.manifest.kind:
            case "instance":
                ids = _ids_as_numbers(predictions) if data is None else coco_ids_by_sample(data)
                write_results(draft / RESULTS, predictions.samples(check_masks=True), ids)
                write_class_list(draft, predictions.taxonomy)
            case "panoptic":
                export_panoptic(predictions, draft)
            case "semantic":
                void = free_index(predictions.taxonomy, predictions.path)
                export_semantic(predictions, draft, void=void)
            case kind:
                raise ValueError(f"a set of kind {kind} holds no predictions")
    return folder


def _ids_as_numbers(predictions: ShardSet) -> dict[str, Id]:
    """The image ids by sample, if they are different numbers."""
    numbers = {sample_id: integer(sample_id) for sample_id in predictions.image_ids()}
    ids: dict[str, Id] = {key: number for key, number in numbers.items() if number is not None}
    return ids if len(set(ids.values())) == len(numbers) else {}


def write_results(path: Path, samples: Iterable[Sample], ids: Mapping[str, Id]) -> int:
    """Write COCO results, `[{image_id, category_id, score, segmentation}, ...]`, in image order.

    Segments without a mask become results with a `bbox`. Results with a mask have none, because
    evaluators would take the box's area for the size classes.

    Args:
        path: the file to write.
        samples: predictions.
        ids: image ids by sample, such as `coco_ids_by_sample` of the ground truth; those of others
            are those of the samples, as numbers where they are written as numbers.

    Returns:
        The number of results.
    """
    count = 0
    with new_file(path) as draft, draft.open("w", encoding="utf-8") as file:
        file.write("[")
        for count, row in enumerate(_rows(samples, ids), 1):
            file.write(",\n" if count > 1 else "\n")
            json.dump(row, file, allow_nan=False)
        file.write("\n]\n")
    return count


def _rows(samples: Iterable[Sample], ids: Mapping[str, Id]) -> Iterator[dict[str, Any]]:
    for sample in samples:
        number = integer(sample.id)
        plain_id = number if number is not None and str(number) == sample.id else sample.id
        image_id = ids.get(sample.id, plain_id)
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
