"""Print the masks that Datumaro imports from a folder, as JSON; runs where Datumaro is installed.

python datumaro_masks.py FOLDER coco_panoptic|coco_instances
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from datumaro.components.annotation import AnnotationType
from datumaro.components.dataset import Dataset
from pycocotools import mask as coco


def rows(dataset: Any) -> Iterator[dict[str, Any]]:
    """One row for each object with a mask: the parts of an object share a group."""
    names = [label.name for label in dataset.categories()[AnnotationType.label]]
    for item in dataset:
        height, width = item.media.size
        objects: dict[int, list[Any]] = {}
        for annotation in item.annotations:
            if annotation.type in (AnnotationType.mask, AnnotationType.polygon):
                objects.setdefault(annotation.group, []).append(annotation)
        for group, parts in objects.items():
            counts = coco.merge([run_lengths(part, height, width) for part in parts])[
                "counts"
            ].decode()
            crowd, polygon = (
                parts[0].attributes["is_crowd"],
                parts[0].type == AnnotationType.polygon,
            )
            shared = {"image": item.attributes["id"], "id": group, "class": names[parts[0].label]}
            yield {**shared, "crowd": bool(crowd), "counts": counts, "polygon": polygon}


def run_lengths(part: Any, height: int, width: int) -> Any:
    if part.type == AnnotationType.polygon:
        return coco.frPyObjects([list(map(float, part.points))], height, width)[0]
    return coco.encode(np.asfortranarray(part.image, np.uint8))


print(json.dumps(list(rows(Dataset.import_from(sys.argv[1], sys.argv[2])))))
