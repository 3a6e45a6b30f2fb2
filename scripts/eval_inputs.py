"""Inputs of `bench_eval.py`: a generated set and a real one, as shard sets and as COCO files."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.shards.header import Header
from segkit.shards.writer import write_set
from segkit.taxonomy import Category, Taxonomy

HEIGHT, WIDTH = 480, 640
SIDES = ("truth", "predictions")
Pairs = Iterator[tuple[Sample, Sample]]
VOID = 65535
"""Void in class PNGs of 16 bits, as 365 classes do not fit into 8."""


def id_map(rng: np.random.Generator, segments: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) segment ids and void pixels.

    Each segment is where its smooth random field is the largest, so that borders wind as those of
    real masks do.
    """
    size, coarse = (WIDTH, HEIGHT), rng.normal(size=(segments, 4, 4))
    coarse += 0.5 * rng.normal(size=(segments, 1, 1))
    fine = rng.normal(scale=0.04, size=(segments, 60, 80))
    largest = np.full((HEIGHT, WIDTH), -np.inf, np.float32)
    ids = np.zeros((HEIGHT, WIDTH), np.int32)
    for number in range(segments):
        field = cv2.resize(coarse[number].astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
        field += cv2.resize(fine[number].astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
        above = field > largest
        largest[above], ids[above] = field[above], number + 1
    return ids, largest < -0.2


def true_sample(ids: np.ndarray, classes: dict[int, int], names: Taxonomy, image: str) -> Sample:
    """A sample of an id map (0 is void); `classes` maps segment id -> class id."""
    segments = [
        Segment(
            classes[number],
            names.by_id[classes[number]].kind,
            region.box,
            region.counts,
            region.area,
            mask_from="human",
        )
        for number, region in rle.regions(ids).items()
        if number
    ]
    return Sample(image, f"{image}.jpg", WIDTH, HEIGHT, tuple(segments))


def predicted_segments(
    ids: np.ndarray, classes: dict[int, int], names: Taxonomy, rng: np.random.Generator
) -> tuple[Segment, ...]:
    """Segments of an id map with random scores."""
    return tuple(
        Segment(
            classes[number],
            names.by_id[classes[number]].kind,
            region.box,
            region.counts,
            region.area,
            mask_from="prediction",
            score=float(rng.random()),
        )
        for number, region in rle.regions(ids).items()
        if number
    )


def generated_set(images: int, classes: int) -> tuple[Taxonomy, Pairs]:
    """Random scenes, and predictions that move them and change some classes."""
    kinds = ["thing" if k < classes * 3 // 5 else "stuff" for k in range(classes)]
    categories = (Category(k + 1, f"class {k + 1}", kinds[k]) for k in range(classes))
    names = Taxonomy(f"generated-{classes}", tuple(categories))

    def pairs() -> Pairs:
        rng = np.random.default_rng(0)
        for number in range(1, images + 1):
            image = str(number)
            ids, void = id_map(rng, int(rng.integers(8, 15)))
            labels = {int(i): int(rng.zipf(1.3)) % classes + 1 for i in np.unique(ids)}
            moved = np.roll(ids, rng.integers(-6, 7, 2), (0, 1))
            changed = {
                i: c if rng.random() < 0.8 else int(rng.integers(classes)) + 1
                for i, c in labels.items()
            }
            segments = predicted_segments(moved, changed, names, rng)
            yield (
                true_sample(np.where(void, 0, ids), labels, names, image),
                Sample(image, f"{image}.jpg", WIDTH, HEIGHT, segments),
            )

    return names, pairs()


def real_set(data: Path) -> tuple[Taxonomy, Pairs]:
    """COCO panoptic val of the real data, and predictions that move and relabel its segments."""
    from segkit.sources.coco_panoptic import open_coco_panoptic
    from segkit.sources.engine import ConvertOptions, convert

    annotations = data / "coco/annotations/panoptic_val2017.json"
    source = open_coco_panoptic(annotations, data / "coco/val2017", None)
    options = ConvertOptions(images_by="none", workers=1)
    with tempfile.TemporaryDirectory() as folder:
        shards = convert(source, Path(folder) / "set", options, arguments={}).published
        truths = list(shards.samples())

    def pairs() -> Pairs:
        rng = np.random.default_rng(0)
        class_ids = [c.id for c in source.taxonomy.categories]
        for truth in truths:
            layers = [(n, s.mask) for n, s in enumerate(truth.segments, 1)]
            painted = rle.paint(layers, truth.height, truth.width)
            # class maps have no holes
            moved = np.maximum(np.roll(painted, rng.integers(-6, 7, 2), (0, 1)), 1)
            segments = []
            for number, region in rle.regions(moved).items():
                label = truth.segments[number - 1].class_id
                if rng.random() >= 0.8:
                    label = int(rng.choice(class_ids))
                kind, score = source.taxonomy.by_id[label].kind, float(rng.random())
                mask = (region.box, region.counts, region.area)
                segments.append(Segment(label, kind, *mask, mask_from="prediction", score=score))
            size = (truth.width, truth.height)
            yield truth, Sample(truth.id, truth.file_name, *size, tuple(segments))

    return source.taxonomy, pairs()


def write_inputs(folder: Path, names: Taxonomy, pairs: Pairs) -> None:
    """Write the same data as shard sets, panoptic PNG and JSON, class PNGs, and instance JSON."""
    for side, samples in zip(SIDES, zip(*pairs, strict=True), strict=True):
        header = Header(
            name=side,
            kind="panoptic",
            taxonomy=names,
            command="bench",
            split="val",
            images_by="none",
        )
        write_set(folder / side, ((sample, None) for sample in samples), header)
        write_coco(folder, side, samples, names)


def write_coco(folder: Path, side: str, samples: tuple[Sample, ...], names: Taxonomy) -> None:
    """Write the COCO files and PNGs of one side."""
    for name in (f"panoptic_{side}", f"semantic_{side}"):
        (folder / name).mkdir()
    panoptic: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    for sample in samples:
        write_pngs(folder, side, sample, names)
        infos = []
        for number, s in enumerate(sample.segments, 1):
            shape = {"area": int(s.area), "iscrowd": int(s.is_crowd), "bbox": s.box}
            infos.append({"id": number, "category_id": s.class_id} | shape)
            if s.kind == "thing":
                mask = {"size": [sample.height, sample.width], "counts": s.mask.decode()}
                row = {"image_id": int(sample.id), "category_id": s.class_id, "segmentation": mask}
                annotation = shape | {"id": len(instances) + 1, "area": s.area}
                instances.append(row | (annotation if side == "truth" else {"score": s.score}))
        file = f"{sample.id}.png"
        panoptic.append({"image_id": int(sample.id), "file_name": file, "segments_info": infos})
    categories = [
        {"id": c.id, "name": c.name, "isthing": int(c.kind == "thing")} for c in names.categories
    ]
    images = [
        {"id": int(s.id), "file_name": s.file_name, "width": s.width, "height": s.height}
        for s in samples
    ]
    head = {"images": images, "categories": categories}
    things = [c for c in categories if c["isthing"]]
    dump(folder / f"panoptic_{side}.json", head | {"annotations": panoptic})
    annotations = head | {"categories": things, "annotations": instances}
    dump(folder / f"instances_{side}.json", annotations if side == "truth" else instances)


def write_pngs(folder: Path, side: str, sample: Sample, names: Taxonomy) -> None:
    """Write the PNG of segment ids and that of class indices (from 0) of an image."""
    layers = [(number, s.mask) for number, s in enumerate(sample.segments, 1)]
    ids = rle.paint(layers, sample.height, sample.width)
    bgr = np.stack([ids // 65536, ids // 256 % 256, ids % 256], -1).astype(np.uint8)
    cv2.imwrite(str(folder / f"panoptic_{side}" / f"{sample.id}.png"), bgr)
    labels = np.array([VOID] + [names.index[s.class_id] for s in sample.segments])
    classes = labels[ids].astype(np.uint16)
    cv2.imwrite(str(folder / f"semantic_{side}" / f"{sample.id}.png"), classes)


def dump(path: Path, content: Any) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(content))
