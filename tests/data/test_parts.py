"""Connected parts of class maps, from which semantic sets train box prompts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from segkit.data.augment import full_image_crop
from segkit.data.targets import MAX_PARTS, MIN_PART_PIXELS, build_targets
from segkit.masks.rle import area, box, encode
from segkit.sample import Kind, Sample, Segment
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
