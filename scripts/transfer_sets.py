"""Sets that the experiments on boxes and masks make from those of real.py, or from sources.

Each function returns the newest version of a folder, and publishes it first if there is none.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.benchmark import objects365_instances
from segkit.demo.layouts import NativeSets
from segkit.masks import rle
from segkit.masks.boxes import pixels_of_box, tight_box
from segkit.sample import ImageRef, Sample, Segment, is_object
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.versions import versions
from segkit.shards.writer import write_layer, write_set
from segkit.sources.coco_instances import open_coco_instances
from segkit.sources.engine import ConvertOptions, convert
from segkit.sources.objects365 import open_objects365
from segkit.taxonomy import Taxonomy

PASTES = 2
"""Objects that are pasted into each image."""
SCALES = (0.5, 1.5)
"""Range of the factor on the size of a pasted object."""
MIN_AREA = 32**2
"""Pixels of the smallest object that is pasted: COCO's medium."""
MAX_COVER = 0.5
"""Share of a box that may be pasted over; above it, the object is ignored."""
Image = NDArray[np.uint8]
Cutout = tuple[int, Image, NDArray[np.bool_]]
"""Class id, pixels (h, w, 3) and mask (h, w) of an object."""


def true_masks(coco: Path, folder: Path) -> ShardSet:
    """The training images of the stand-in with their true masks, from the folder of COCO."""
    if not versions(folder):
        annotations = coco / "annotations" / "instances_train2017.json"
        source = open_coco_instances(annotations, coco / "train2017")
        convert(source, folder, ConvertOptions(), arguments={})
    return ShardSet.open(folder)


def boxes_and_masks(native: NativeSets, folder: Path) -> tuple[ShardSet, ShardSet]:
    """Generated scenes as a set of boxes, and the same scenes with their true masks."""
    boxes = open_objects365(native.objects365_boxes("val"), native.objects365_images)
    convert(boxes, folder / "boxes", ConvertOptions(), arguments={})
    source = objects365_instances.open_annotations(
        native.objects365_masks, native.objects365_images
    )
    check = objects365_instances.check_file(source, find_images=True)
    objects365_instances.convert_ground_truth(
        source, check, folder / "masks", with_images=True, on_progress=lambda images: None
    )
    return ShardSet.open(folder / "boxes"), ShardSet.open(folder / "masks")


def held_out(data: ShardSet, used: ShardSet, folder: Path) -> ShardSet:
    """The images of one set that are not among those of another."""
    if not versions(folder):
        ids = set(used.image_ids())
        samples = (sample for sample in data.samples() if sample.id not in ids)
        write_layer(folder, data, samples, Header.from_set(data, "held-out"))
    return ShardSet.open(folder)


def stuff_as_things(data: ShardSet, folder: Path) -> ShardSet:
    """The set with every class a thing, so that stuff segments are prompted by their boxes too."""
    if not versions(folder):
        classes = (replace(category, kind="thing") for category in data.taxonomy.categories)
        header = Header.from_set(data, "stuff-as-things")
        header = header.with_taxonomy(Taxonomy(data.taxonomy.name, tuple(classes)))
        samples = (
            replace(sample, segments=tuple(replace(s, kind="thing") for s in sample.segments))
            for sample in data.samples()
        )
        write_layer(folder, data, samples, header)
    return ShardSet.open(folder)


def pasted(boxes: ShardSet, masks: ShardSet, folder: Path, seed: int = 0) -> ShardSet:
    """The images and boxes of one set with objects of another pasted in (Ghiasi et al. 2021).

    Args:
        boxes: the images, with segments that have only boxes.
        masks: the objects, of the classes that both sets have by the same name.
        folder: directory of the set's versions.
        seed: of objects, sizes and positions.
    """
    if not versions(folder):
        objects = list(_cutouts(masks, boxes.taxonomy))
        header = replace(Header.from_set(boxes, "paste"), kind="instance")
        write_set(folder, _paste_all(boxes, objects, np.random.default_rng(seed)), header)
    return ShardSet.open(folder)


def _cutouts(masks: ShardSet, taxonomy: Taxonomy) -> Iterator[Cutout]:
    """The objects of a set that are large enough and of a class that the taxonomy names."""
    ids = {category.name.casefold(): category.id for category in taxonomy.categories}
    for sample in masks.samples():
        image = masks.image(sample)
        for segment in sample.segments:
            name = masks.taxonomy.by_id[segment.class_id].name.casefold()
            if is_object(segment) and segment.mask and segment.area >= MIN_AREA and name in ids:
                mask = rle.decode(segment.mask, sample.height, sample.width)
                place = pixels_of_box(tight_box(mask), sample.height, sample.width)
                yield ids[name], image[place], mask[place]


def _paste_all(
    boxes: ShardSet, objects: list[Cutout], rng: np.random.Generator
) -> Iterator[tuple[Sample, bytes]]:
    """Samples without masks become samples with PASTES masks, each with its JPEG."""
    for sample in boxes.samples():
        image, segments = boxes.image(sample).copy(), list(sample.segments)
        for _ in range(PASTES):
            segments = _paste(image, segments, objects[int(rng.integers(len(objects)))], rng)
        encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
        yield replace(sample, segments=tuple(segments), image=ImageRef()), encoded


def _paste(
    image: Image, segments: list[Segment], cutout: Cutout, rng: np.random.Generator
) -> list[Segment]:
    """Paste an object into an image, in place; return the segments with the object among them."""
    class_id, pixels, mask = cutout
    height, width = image.shape[:2]
    scale = float(rng.uniform(*SCALES))
    scale = min(scale, 0.9 * height / mask.shape[0], 0.9 * width / mask.shape[1])
    size = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
    pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(mask.view(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    if rng.random() < 0.5:
        pixels, mask = pixels[:, ::-1], mask[:, ::-1]
    x, y = int(rng.integers(width - size[0] + 1)), int(rng.integers(height - size[1] + 1))
    image[y : y + size[1], x : x + size[0]][mask] = pixels[mask]
    full = np.zeros((height, width), bool)
    full[y : y + size[1], x : x + size[0]] = mask
    if not full.any():
        return segments
    pasted_object = Segment(
        class_id, "thing", tight_box(full), rle.encode(full), float(full.sum()), mask_from="derived"
    )
    return [*(_below(segment, full) for segment in segments), pasted_object]


def _below(segment: Segment, pasted_mask: NDArray[np.bool_]) -> Segment:
    """A segment under a pasted object: less of its mask, ignored where most is covered."""
    height, width = pasted_mask.shape
    if segment.mask is None:
        covered = pasted_mask[pixels_of_box(segment.box, height, width)]
        hidden = covered.size > 0 and float(covered.mean()) > MAX_COVER
        return replace(segment, ignore=True) if hidden else segment
    left = rle.decode(segment.mask, height, width) & ~pasted_mask
    if left.sum() <= MAX_COVER * segment.area:
        return replace(segment, ignore=True)
    return replace(segment, mask=rle.encode(left), box=tight_box(left), area=float(left.sum()))
