"""Files that `segkit convert` reads."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import numpy as np

from segkit.sources.class_info import read_class_info

from ..sources.builders import HEIGHT, WIDTH, coco_instances, coco_panoptic, picture
from ..sources.test_ade import ade_set, blank
from ..sources.test_coco_joined import scene
from ..sources.test_objects365 import objects365_set
from ..sources.test_visual_genome import facts, genome, listing, thing
from ..sources.test_voc import maps, voc
from .kinds import OUT, FileKind, Reader
from .mutate import binary_mutants, json_mutants, text_mutants

_COMMON = ("--workers", "1", "--no-preview", "--json")


def _instances(root: Path) -> Path:
    polygon = [[1, 1, 20, 1, 20, 15.5]]
    counts = [10, 20, WIDTH * HEIGHT - 30]
    annotations = [
        {"segmentation": polygon, "bbox": [1, 1, 19, 14], "area": 100, "iscrowd": 0},
        {"segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}, "iscrowd": 1},
        {"bbox": [1, 2, 3, 4], "category_id": 0, "ignore": 1},
    ]
    return coco_instances(root, annotations)


def _lvis(root: Path) -> Path:
    import json

    path = _instances(root)
    data = json.loads(path.read_text())
    data["info"] = {"year": 2019, "version": "v1"}
    data["licenses"] = [{"id": 1, "name": "a"}]
    for image in data["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/images/{image.pop('file_name')}"
        image["neg_category_ids"], image["not_exhaustive_category_ids"] = [7], [3]
    for category in data["categories"]:
        category["synonyms"] = ["a_b", "c"]
    path.write_text(json.dumps(data))
    return path


def _panoptic(root: Path) -> Path:
    coco_panoptic(root, 2)
    return root / "panoptic.json"


def _panoptic_png(root: Path) -> Path:
    coco_panoptic(root, 1)
    return root / "panoptic" / "p0.png"


def _jpeg(root: Path) -> Path:
    coco_panoptic(root, 1)
    return root / "images" / "p0.jpg"


def _joined(root: Path) -> Path:
    scene(root, 1)
    return root / "instances.json"


def _objects365(root: Path) -> Path:
    return objects365_set(root, [{"id": 1, "name": "disc"}, {"id": 2, "name": "bar"}])


def _genome(root: Path) -> Path:
    objects = [thing(1, "car.n.01"), thing(2, "dog.n.01", 3, 4, 5, 6), thing(3, None)]
    data = [facts(1), facts(2)]
    genome(root, listing(1, *objects), listing(2, thing(4, "car.n.01")), data=data)
    return root / "objects.json"


def _genome_readers(root: Path) -> list[Reader]:
    files = ("--annotations", root / "objects.json", "--image-data", root / "image_data.json")
    return _coco(root, "visual-genome", *files, "--images", root, "--classes", 1)


def _coco(root: Path, *arguments: object) -> list[Reader]:
    """Convert in all ways, and validate what was published."""
    convert = ("convert", *arguments, *_COMMON)
    export = (
        "coco-instances" if arguments[0] in ("coco", "objects365", "visual-genome") else "semantic"
    )
    return [
        (*convert, "--out", root / OUT / "dry", "--dry-run", "--on-error", "skip"),
        (*convert, "--out", root / OUT / "set", "--on-error", "skip"),
        ("validate", root / OUT / "set", "--json"),
        ("inspect", root / OUT / "set"),
        (
            "export",
            export,
            "--data",
            root / OUT / "set",
            "--out",
            root / OUT / "exported",
        ),
        (*convert, "--out", root / OUT / "strict"),
    ]


def _semantic(root: Path, labels: str, color: bool = False) -> Path:
    from PIL import Image

    picture(root / "images" / "a.jpg")
    (root / "masks").mkdir()
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[3:9] = 1
    if color:
        pixels = np.stack([pixels] * 3, axis=-1)
    Image.fromarray(pixels).save(root / "masks" / "a.png")
    (root / "labels.txt").write_text(labels)
    return root / "labels.txt"


def _semantic_readers(root: Path) -> list[Reader]:
    folders = ("--images", root / "images", "--masks", root / "masks")
    return _coco(root, "semantic", *folders, "--labels", root / "labels.txt")


def _class_info(root: Path) -> Path:
    semantic = blank()
    semantic[:5] = 1
    ade_set(root, semantic, blank(), blank())
    file = root / "classes.csv"
    file.write_text("Idx,Ratio,Train,Val,Stuff,Name\n1,0.1,5,6,1,wall\n2,0.1,5,6,0,bed;cot\n")
    return file


def _voc_list(root: Path) -> Path:
    voc(root, *maps())
    return root / "ImageSets" / "Segmentation" / "train.txt"


def _sizes(data: bytes, random: Random) -> Iterator[bytes]:
    """PNGs that claim other sizes, with a right checksum."""
    import struct
    import zlib

    start = data.index(b"IHDR")
    while True:
        sides = (random.choice((0, 1, 40_000, 2**31 - 1, 2**32 - 1, WIDTH)) for _ in range(2))
        header = b"IHDR" + struct.pack(">II", *sides) + data[start + 12 : start + 17]
        yield data[:start] + header + struct.pack(">I", zlib.crc32(header)) + data[start + 21 :]


def kinds() -> Sequence[FileKind]:
    """All kinds of this module."""
    from .mutate import both

    images = lambda root: ("--images", root / "images")  # noqa: E731
    return (
        FileKind(
            "COCO instances",
            _instances,
            json_mutants,
            lambda root: _coco(root, "coco", *images(root), "--instances", root / "instances.json"),
        ),
        FileKind(
            "LVIS",
            _lvis,
            json_mutants,
            lambda root: _coco(root, "coco", *images(root), "--instances", root / "instances.json"),
        ),
        FileKind(
            "COCO panoptic",
            _panoptic,
            json_mutants,
            lambda root: _coco(root, "coco", *images(root), "--panoptic", root / "panoptic.json"),
        ),
        FileKind(
            "COCO panoptic PNG",
            _panoptic_png,
            both(binary_mutants, _sizes),
            lambda root: _coco(root, "coco", *images(root), "--panoptic", root / "panoptic.json"),
        ),
        FileKind(
            "JPEG",
            _jpeg,
            binary_mutants,
            lambda root: _coco(root, "coco", *images(root), "--panoptic", root / "panoptic.json"),
        ),
        FileKind(
            "COCO joined",
            _joined,
            json_mutants,
            lambda root: _coco(
                *(root, "coco", *images(root), "--panoptic", root / "panoptic.json"),
                *("--instances", root / "instances.json"),
            ),
        ),
        FileKind(
            "Objects365",
            _objects365,
            json_mutants,
            lambda root: _coco(
                *(root, "objects365", "--annotations", root / "annotations.json", *images(root))
            ),
        ),
        FileKind(
            "Visual Genome",
            _genome,
            json_mutants,
            _genome_readers,
        ),
        FileKind(
            "image data of Visual Genome",
            lambda root: _genome(root).with_name("image_data.json"),
            json_mutants,
            _genome_readers,
        ),
        FileKind(
            "labels",
            lambda root: _semantic(root, '# classes\n0 road\n1 "sidewalk"\n2 license plate\n'),
            text_mutants,
            _semantic_readers,
        ),
        FileKind(
            "labels with colors",
            lambda root: _semantic(root, "128 0 0 road\n0 0 0 car\n1 1 1 bus\n", color=True),
            text_mutants,
            _semantic_readers,
        ),
        FileKind(
            "class table of ADE20K",
            _class_info,
            text_mutants,
            lambda root: [
                lambda: read_class_info(root / "classes.csv"),
                *_coco(
                    root,
                    "ade",
                    "--root",
                    root,
                    "--split",
                    "training",
                    "--classes",
                    root / "classes.csv",
                ),
            ],
        ),
        FileKind(
            "image list of VOC",
            _voc_list,
            text_mutants,
            lambda root: _coco(root, "voc", "--root", root, "--split", "train"),
        ),
    )
