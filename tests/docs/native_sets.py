"""A folder with every file that the pages name: tiny native data sets of each kind, and sets."""

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.masks.boxes import tight_box
from segkit.taxonomy import Category, load_taxonomy

HEIGHT, WIDTH = 48, 64
STUFF, THINGS = 1, (2, 3)
"""Ids of the segments of a scene."""
Ids = NDArray[np.int32]


def scene(seed: int) -> tuple[NDArray[np.uint8], Ids]:
    """A (H, W, 3) picture of two blocks before a sky, and its (H, W) segment ids."""
    rng = np.random.default_rng(seed)
    ids = np.full((HEIGHT, WIDTH), STUFF, np.int32)
    for segment, left in zip(THINGS, (2, 36), strict=True):
        x, y = left + int(rng.integers(0, 8)), int(rng.integers(2, 14))
        ids[y : y + 20, x : x + 16] = segment
    colors = np.array([(0, 0, 0), (220, 160, 130), (40, 200, 60), (60, 40, 210)], np.uint8)
    noise = rng.integers(0, 20, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    return colors[ids] + noise, ids


def write_image(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")


def write_native_sets(root: Path) -> None:
    """Write all native data sets that the pages convert."""
    for place, seed in (("photos/a.jpg", 70), ("photos/b.jpg", 71), ("photo.jpg", 72)):
        write_image(root / place, scene(seed)[0])
    _write_coco(root)
    _write_objects365(root)
    _write_parts(root)
    _write_many(root)
    _write_visual_genome(root)
    _write_class_maps(root)
    _write_cityscapes(root / "cityscapes")
    _write_voc(root / "VOCdevkit" / "VOC2012")
    kept = {"sky": "sky-other-merged", "person": "person", "car": "car"}
    rows = (f'"{name}",{kept.get(name, "")}' for name in load_taxonomy("ade20k-150").names)
    (root / "map.csv").write_text("\n".join(["from,to", *rows]) + "\n")


def label_by_hand(root: Path) -> None:
    """Turn the predictions of an export for Label Studio into its project of annotated tasks."""
    tasks = json.loads((root / "studio/tasks.json").read_text())
    for task in tasks:
        task["annotations"] = task.pop("predictions")
    write_json(root / "project.json", tasks)
    (root / "media/upload").mkdir(parents=True)
    shutil.copytree(root / "studio/images", root / "media/upload/1")


def _categories(vocabulary: str, kinds: Iterable[str]) -> list[dict[str, Any]]:
    return [
        {"id": c.id, "name": c.name, "isthing": int(c.kind == "thing")}
        for c in load_taxonomy(vocabulary).categories
        if c.kind in kinds
    ]


def _named(vocabulary: str, name: str) -> Category:
    return next(c for c in load_taxonomy(vocabulary).categories if c.name == name)


def _objects(ids: Ids, image: int, classes: dict[int, int], first: int) -> Iterator[dict[str, Any]]:
    """COCO annotations of some segments: box and polygon."""
    for number, (segment, class_id) in enumerate(classes.items()):
        x, y, w, h = (int(value) for value in tight_box(ids == segment))
        yield {
            "id": first + number,
            "image_id": image,
            "category_id": class_id,
            "bbox": [x, y, w, h],
            "area": w * h,
            "iscrowd": 0,
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        }


def _write_instances(
    images: Path, files: Iterable[Path], names: Iterable[str], categories: Any, classes: list[int]
) -> None:
    """Write pictures, and one file of boxes and polygons to each of `files`."""
    rows, annotations = [], []
    for name in names:
        number = int(re.sub(r"\D", "", Path(name).stem))
        pixels, ids = scene(number)
        write_image(images / name, pixels)
        rows.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        owners = dict(zip(THINGS, classes, strict=True))
        annotations += list(_objects(ids, number, owners, 2 * number))
    content = {"images": rows, "annotations": annotations, "categories": categories}
    for file in files:
        write_json(file, content)


def _write_coco(root: Path) -> None:
    sky, person, cat = (
        _named("coco-panoptic-133", name).id for name in ("sky-other-merged", "person", "cat")
    )
    for split, numbers in (("train", range(1, 11)), ("val", range(11, 14))):
        names = [f"{number:012d}.jpg" for number in numbers]
        things = _categories("coco-panoptic-133", ["thing"])
        file = root / "annotations" / f"instances_{split}2017.json"
        _write_instances(root / f"{split}2017", [file], names, things, [person, cat])
        panoptic = root / "annotations" / f"panoptic_{split}2017.json"
        annotations = []
        for number, name in zip(numbers, names, strict=True):
            _, ids = scene(number)
            png = name.replace(".jpg", ".png")
            zeros = np.zeros_like(ids)
            write_image(panoptic.with_suffix("") / png, np.stack([zeros, zeros, ids], -1))
            segments = [
                {
                    "id": segment,
                    "category_id": class_id,
                    "area": int((ids == segment).sum()),
                    "bbox": [int(value) for value in tight_box(ids == segment)],
                    "iscrowd": 0,
                }
                for segment, class_id in zip((STUFF, *THINGS), (sky, person, cat), strict=True)
            ]
            row = {"image_id": number, "file_name": png, "segments_info": segments}
            annotations.append(row)
        images = json.loads(file.read_text())["images"]
        categories = _categories("coco-panoptic-133", ["thing", "stuff"])
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_json(panoptic, content)


def _write_objects365(root: Path) -> None:
    categories = _categories("objects365-v2", ["thing"])
    classes = [categories[0]["id"], categories[1]["id"]]
    for split in ("train", "val"):
        files = [root / f"zhiyuan_objv2_{split}.json"]
        if split == "val":
            files.append(root / "o365_instance_seg_val.json")
        names = [f"images/v2/patch1/objects365_{number:08d}.jpg" for number in (1, 2)]
        _write_instances(root / split, files, names, categories, classes)


def _write_parts(root: Path) -> None:
    """Boxes in COCO's form, and the same pictures in YOLO's."""
    names = ["resistor", "capacitor"]
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    for split in ("train", "val"):
        numbers = {"train": (1, 2, 3), "val": (4, 5, 6)}[split]
        files = [f"{split}/{number}.jpg" for number in numbers]
        _write_instances(
            root / "parts/images", [root / f"parts/{split}.json"], files, categories, [0, 1]
        )
        for row in json.loads((root / f"parts/{split}.json").read_text())["annotations"]:
            x, y, w, h = row["bbox"]
            numbers = ((x + w / 2) / WIDTH, (y + h / 2) / HEIGHT, w / WIDTH, h / HEIGHT)
            label = root / f"parts/labels/{split}/{row['image_id']}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            with label.open("a") as file:
                print(row["category_id"], *(f"{number:.5f}" for number in numbers), file=file)
    splits = "train: images/train\nval: images/val\n"
    (root / "parts/data.yaml").write_text(f"path: .\n{splits}names: [resistor, capacitor]\n")
    folder = root / "labelimg-folder"
    folder.mkdir()
    for number in (1, 2, 3):
        shutil.copy(root / f"parts/images/train/{number}.jpg", folder)
        shutil.copy(root / f"parts/labels/train/{number}.txt", folder)
    (folder / "classes.txt").write_text("\n".join(names) + "\n")


def _write_many(root: Path) -> None:
    """Pictures of 48 small squares each, masks and boxes in COCO's form: enough to calibrate by."""
    images, annotations = [], []
    for number in range(1, 7):
        pixels = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
        for place in range(48):
            x, y = place % 8 * 8 + 1, place // 8 * 8 + 1
            pixels[y : y + 6, x : x + 6] = (30, 20 * number, place)
            outline = [x, y, x + 6, y, x + 6, y + 6, x, y + 6]
            shape = {"bbox": [x, y, 6, 6], "area": 36, "segmentation": [outline]}
            keys = {"id": len(annotations) + 1, "image_id": number, "category_id": 0, "iscrowd": 0}
            annotations.append(keys | shape)
        write_image(root / "many" / f"{number}.png", pixels)
        row = {"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT}
        images.append(row)
    categories = [{"id": 0, "name": "person"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_json(root / "many.json", content)


def _write_visual_genome(root: Path) -> None:
    pixels, ids = scene(0)
    write_image(root / "vg/VG_100K/1.jpg", pixels)
    objects = []
    for segment, synset in zip(THINGS, ("person.n.01", "car.n.01"), strict=True):
        x, y, w, h = (int(value) for value in tight_box(ids == segment))
        names = {"names": [synset.partition(".")[0]], "synsets": [synset], "merged_object_ids": []}
        objects.append({"object_id": segment, "x": x, "y": y, "w": w, "h": h} | names)
    write_json(root / "objects.json", [{"image_id": 1, "objects": objects}])
    url = "https://cs.stanford.edu/people/rak248/VG_100K/1.jpg"
    data = {"image_id": 1, "width": WIDTH, "height": HEIGHT, "url": url}
    write_json(root / "image_data.json", [data])


def _write_class_maps(root: Path) -> None:
    """Index PNGs: of streets, and of ADE20K."""
    (root / "streets").mkdir()
    (root / "streets/labels.txt").write_text("0 sky\n1 car\n2 person\n")
    ade = root / "ADEChallengeData2016"
    indices = [_named("ade20k-150", name).id for name in ("sky", "person", "car")]
    for number in range(3):
        pixels, ids = scene(number)
        write_image(root / "streets/images" / f"s{number}.jpg", pixels)
        write_image(root / "streets/masks" / f"s{number}.png", (ids - 1).astype(np.uint8))
        lookup = np.array([0, *indices], np.uint8)
        for split in ("training", "validation"):
            stem = f"ADE_{split[:5]}_{number:08d}"
            write_image(ade / "images" / split / f"{stem}.jpg", pixels)
            write_image(ade / "annotations" / split / f"{stem}.png", lookup[ids])


def _write_cityscapes(root: Path) -> None:
    pixels, ids = scene(0)
    frame = "aachen/aachen_000000_000019"
    sky, person, car = 23, 24, 26
    labels = np.array([0, sky, person, car], np.uint16)[ids]
    instances = np.array([0, sky, person * 1000, car * 1000], np.uint16)[ids]
    write_image(root / f"leftImg8bit/val/{frame}_leftImg8bit.png", pixels)
    write_image(root / f"gtFine/val/{frame}_gtFine_labelIds.png", labels.astype(np.uint8))
    write_image(root / f"gtFine/val/{frame}_gtFine_instanceIds.png", instances)


def _write_voc(root: Path) -> None:
    pixels, ids = scene(0)
    write_image(root / "JPEGImages/2007_000001.jpg", pixels)
    classes = np.array([0, 0, 15, 8], np.uint8)[ids]
    write_image(root / "SegmentationClass/2007_000001.png", classes)
    objects = np.array([0, 0, 1, 2], np.uint8)[ids]
    write_image(root / "SegmentationObject/2007_000001.png", objects)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("2007_000001\n")
