"""Write scenes in the layouts of COCO panoptic, ADE20K SceneParsing and Objects365."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segkit.demo.scenes import CLASSES, THINGS, Scene, SceneClass, make_scene
from segkit.masks import rle
from segkit.masks.boxes import tight_box

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
FIRST_ID = {"train": 1, "val": 100_001}
"""First image id of each split; ids and file names differ between the splits."""
JPEG_QUALITY = 92
_PANOPTIC, _SEMANTIC, _BOXES = range(3)
"""Parts of the seed, so that no two sets share a scene."""


@dataclass(frozen=True, slots=True)
class NativeSets:
    """Paths of the three sets under one root."""

    root: Path

    @property
    def ade(self) -> Path:
        """Root of the semantic set."""
        return self.root / "ADEChallengeData2016"

    @property
    def ade_classes(self) -> Path:
        """Class table of the semantic set, in the format of objectInfo150.csv."""
        return self.ade / "objectInfo.csv"

    def coco_images(self, split: Split) -> Path:
        """Folder of the panoptic set's images."""
        return self.root / "coco" / f"{split}2017"

    def coco_panoptic(self, split: Split) -> Path:
        """JSON of the panoptic set; its PNG folder has the same stem."""
        return self.root / "coco" / "annotations" / f"panoptic_{split}2017.json"

    @property
    def objects365_images(self) -> Path:
        """Image root of the box set."""
        return self.root / "objects365"

    def objects365_boxes(self, split: Split) -> Path:
        """JSON of the box set."""
        return self.root / "objects365" / "annotations" / f"zhiyuan_objv2_{split}.json"

    @property
    def objects365_masks(self) -> Path:
        """JSON of the validation boxes with their hidden masks, as in the instance benchmark."""
        return self.root / "objects365" / "annotations" / "o365_instance_seg_val.json"


def write_native_sets(root: Path, *, train: int, val: int, seed: int) -> NativeSets:
    """Generate `train` and `val` scenes for each of the three sets and write them to `root`."""
    sets = NativeSets(root)
    for split, count in zip(SPLITS, (train, val), strict=True):
        ids = range(FIRST_ID[split], FIRST_ID[split] + count)
        _write_panoptic(sets, split, _scenes(seed, _PANOPTIC, ids))
        _write_semantic(sets, split, _scenes(seed, _SEMANTIC, ids))
        _write_boxes(sets, split, _scenes(seed, _BOXES, ids))
    return sets


def _scenes(seed: int, kind: int, ids: range) -> Iterable[tuple[int, Scene]]:
    """Generate image ids with their scenes, one scene at a time."""
    return ((number, make_scene((seed, kind, number))) for number in ids)


def _write_semantic(sets: NativeSets, split: Split, scenes: Iterable[tuple[int, Scene]]) -> None:
    folder = {"train": "training", "val": "validation"}[split]
    for number, scene in scenes:
        stem = f"ADE_{split}_{number:08d}"
        lookup = np.zeros(max(scene.classes) + 1, np.uint8)
        for segment, entry in scene.classes.items():
            lookup[segment] = entry.id
        _write_image(sets.ade / "images" / folder / f"{stem}.jpg", scene.image)
        _write_image(sets.ade / "annotations" / folder / f"{stem}.png", lookup[scene.ids])
    lines = [f"{entry.id},{int(entry.kind == 'stuff')},{entry.semantic}" for entry in CLASSES]
    sets.ade_classes.write_text("\n".join(["Idx,Stuff,Name", *lines]) + "\n", "utf-8")


def _write_panoptic(sets: NativeSets, split: Split, scenes: Iterable[tuple[int, Scene]]) -> None:
    target = sets.coco_panoptic(split)
    images, annotations = [], []
    for number, scene in scenes:
        stem = f"{number:012d}"
        _write_image(sets.coco_images(split) / f"{stem}.jpg", scene.image)
        _write_image(target.with_suffix("") / f"{stem}.png", _id_colors(scene.ids))
        images.append(_image_record(number, f"{stem}.jpg", scene))
        segments = [
            _segment_record(segment, entry, scene.ids) for segment, entry in scene.classes.items()
        ]
        annotations.append(
            {"image_id": number, "file_name": f"{stem}.png", "segments_info": segments}
        )
    categories = [
        {
            "id": entry.id,
            "name": entry.panoptic,
            "supercategory": entry.kind,
            "isthing": int(entry.kind == "thing"),
        }
        for entry in CLASSES
    ]
    _write_json(target, images=images, annotations=annotations, categories=categories)


def _write_boxes(sets: NativeSets, split: Split, scenes: Iterable[tuple[int, Scene]]) -> None:
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    masks: list[dict[str, Any]] = []
    for number, scene in scenes:
        name = f"images/v1/patch{number % 2}/objects365_v1_{number:08d}.jpg"
        _write_image(sets.objects365_images / name, scene.image)
        images.append(_image_record(number, name, scene))
        for segment, entry in scene.classes.items():
            if entry.kind == "thing":
                box = {
                    "id": len(boxes) + 1,
                    "image_id": number,
                    **_object_record(entry, scene.ids == segment),
                }
                boxes.append({**box, "isfake": 0, "isreflected": 0})
                masks.append({**box, **_mask_record(scene.ids == segment)})
    # As in the real files, the categories have another order in each split; only their ids count.
    order = THINGS if split == "train" else THINGS[::-1]
    categories = [{"id": entry.id, "name": entry.boxes} for entry in order]
    _write_json(
        sets.objects365_boxes(split), images=images, annotations=boxes, categories=categories
    )
    if split == "val":
        _write_json(sets.objects365_masks, images=images, annotations=masks, categories=categories)


def _id_colors(ids: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Encode segment ids as COCO panoptic does: R + 256 G + 65536 B."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def _image_record(number: int, name: str, scene: Scene) -> dict[str, Any]:
    height, width = scene.ids.shape
    return {"id": number, "file_name": name, "height": height, "width": width}


def _segment_record(segment: int, entry: SceneClass, ids: NDArray[np.int32]) -> dict[str, Any]:
    mask = ids == segment
    return {
        "id": segment,
        "category_id": entry.id,
        "area": int(mask.sum()),
        "bbox": [int(value) for value in tight_box(mask)],
        "iscrowd": 0,
    }


def _object_record(entry: SceneClass, mask: NDArray[np.bool_]) -> dict[str, Any]:
    x, y, width, height = (int(value) for value in tight_box(mask))
    return {
        "category_id": entry.id,
        "bbox": [x, y, width, height],
        "area": width * height,
        "iscrowd": 0,
    }


def _mask_record(mask: NDArray[np.bool_]) -> dict[str, Any]:
    height, width = mask.shape
    counts = rle.encode(mask).decode("ascii")
    return {"segmentation": {"size": [height, width], "counts": counts}, "area": int(mask.sum())}


def _write_image(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write an RGB picture or a map of indices in the format of the path's suffix."""
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    channels = picture[..., ::-1] if picture.ndim == 3 else picture
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if path.suffix == ".jpg" else []
    if not cv2.imwrite(str(path), channels, options):
        raise OSError(f"{path}: cannot be written")


def _write_json(path: Path, **content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")
