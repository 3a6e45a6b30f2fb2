"""Connected parts of class maps, from which semantic sets train box prompts."""

import tracemalloc
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage

from segkit.data.augment import full_image_crop
from segkit.data.targets import MAX_PARTS, MIN_PART_PIXELS, build_targets
from segkit.masks.rle import area, box, encode
from segkit.sample import Kind, Sample, Segment
from segkit.shards.manifest import Task
from segkit.taxonomy import Category, Taxonomy

SIZE = 96


def taxonomy(*kinds: Kind) -> Taxonomy:
    return Taxonomy("parts", tuple(Category(i, f"class {i}", kind) for i, kind in enumerate(kinds)))


def sample(labels: np.ndarray, classes: Taxonomy) -> Sample:
    segments = []
    for category in classes.categories:
        counts = encode(labels == category.id)
        if area(counts, SIZE, SIZE):
            extent = box(counts, SIZE, SIZE)
            pixels = float(area(counts, SIZE, SIZE))
            segments.append(
                Segment(category.id, category.kind, extent, counts, pixels, mask_from="human")
            )
    return Sample("one", "one.png", SIZE, SIZE, tuple(segments))


def blobs(seed: int) -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((SIZE, SIZE)), 4)
    return np.digitize(smooth, [-0.05, 0.05]).astype(np.int64)


@pytest.mark.parametrize("kinds", [("stuff", "thing", "thing"), ("stuff", "stuff", "stuff")])
def test_parts_are_connected_regions(kinds: tuple[Kind, ...]) -> None:
    labels, classes = blobs(3), taxonomy(*kinds)
    crop = full_image_crop(SIZE, SIZE, size=SIZE)
    targets = build_targets(
        sample(labels, classes), crop, taxonomy=classes, task="semantic", policies={}
    )
    expected = []
    for category in classes.categories:
        if category.kind == "stuff" and "thing" in kinds:
            continue
        regions, count = ndimage.label(labels == category.id, structure=np.ones((3, 3)))
        expected += [regions == number for number in range(1, count + 1)]
    expected = sorted((r for r in expected if r.sum() >= MIN_PART_PIXELS), key=lambda r: -r.sum())[
        :MAX_PARTS
    ]
    parts = targets.masks.dense()[targets.is_part].numpy()
    assert len(expected) > 2
    assert sorted(part.sum() for part in parts) == sorted(region.sum() for region in expected)
    assert all(any((part == region).all() for region in expected) for part in parts)
    for mask, corners, label in zip(
        parts, targets.boxes[targets.is_part], targets.labels[targets.is_part], strict=True
    ):
        rows, columns = np.nonzero(mask)
        assert corners.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert (labels[mask] == int(label)).all()
    assert not targets.is_part[: len(kinds)].any(), "the classes themselves come first"


def test_other_tasks_have_no_parts() -> None:
    labels, classes = blobs(3), taxonomy("stuff", "thing", "thing")
    crop = full_image_crop(SIZE, SIZE, size=SIZE)
    for task in ("panoptic", "instance"):
        targets = build_targets(
            sample(labels, classes), crop, taxonomy=classes, task=task, policies={}
        )
        assert not targets.is_part.any()


def test_a_class_without_masks_has_no_parts() -> None:
    labels, classes = blobs(3), taxonomy("stuff", "thing", "thing")
    crop = full_image_crop(SIZE, SIZE, size=SIZE)
    masked = sample(labels, classes)
    segments = tuple(replace(s, mask=None, mask_from=None) for s in masked.segments)
    bare = replace(masked, segments=segments)
    targets = build_targets(bare, crop, taxonomy=classes, task="semantic", policies={})
    assert not targets.is_part.any() and targets.labels.dtype == torch.int64


def dots(side: int, pitch: int) -> np.ndarray:
    """Squares of class 1 in rows and columns, on class 0."""
    labels = np.zeros((SIZE, SIZE), np.int64)
    for y in range(0, SIZE - side, pitch):
        for x in range(0, SIZE - side, pitch):
            labels[y : y + side, x : x + side] = 1
    return labels


@pytest.mark.parametrize("labels", [blobs(5), dots(8, 10), dots(9, 12)])
def test_the_largest_parts_of_all_classes_remain_in_order(labels: np.ndarray) -> None:
    """Of parts of equal size, those that OpenCV numbers first remain."""
    classes = taxonomy("stuff", "stuff", "stuff")
    crop = full_image_crop(SIZE, SIZE, size=SIZE)
    targets = build_targets(
        sample(labels, classes), crop, taxonomy=classes, task="semantic", policies={}
    )
    expected = []
    for label in range(3):
        numbers = cv2.connectedComponents((labels == label).astype(np.uint8))[1]
        masks = [numbers == number for number in range(1, numbers.max() + 1)]
        expected += [(label, mask) for mask in masks if mask.sum() >= MIN_PART_PIXELS]
    expected = sorted(expected, key=lambda part: -part[1].sum())[:MAX_PARTS]
    assert targets.labels[targets.is_part].tolist() == [label for label, _ in expected]
    parts = targets.masks.dense()[targets.is_part].numpy()
    assert (parts == np.stack([mask for _, mask in expected])).all()


def peak_mib(segments: tuple[Segment, ...], classes: Taxonomy, task: Task, size: int) -> float:
    crop = full_image_crop(size, size, size=size)
    many = Sample("one", "one.png", size, size, segments)
    tracemalloc.start()
    targets = build_targets(many, crop, taxonomy=classes, task=task, policies={})
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    assert len(targets) == (1 + MAX_PARTS if task == "semantic" else len(segments))
    return peak


@pytest.mark.parametrize("task", ["semantic", "instance"])
def test_many_parts_and_many_objects_take_little_memory(task: Task) -> None:
    """256 dense masks of 512 x 512 pixels take 64 MiB, packed ones 8 MiB."""
    size, classes = 512, taxonomy("stuff", "thing")
    masks = []
    for y in range(0, size, 32):
        for x in range(0, size, 32):
            mask = np.zeros((size, size), bool)
            mask[y : y + 9, x : x + 9] = True
            masks.append(mask)
    if task == "semantic":
        masks = [np.logical_or.reduce(masks)]
    counts = [encode(mask) for mask in masks]
    segments = tuple(
        Segment(1, "thing", box(mask, size, size), mask, 81.0, mask_from="human") for mask in counts
    )
    assert peak_mib(segments, classes, task, size) < 24
