from dataclasses import replace

import numpy as np
import pytest
import torch

from segkit.data.augment import Crop, jitter_crop
from segkit.data.batch import Targets
from segkit.data.targets import build_targets
from segkit.masks import rle
from segkit.recipes.schema import MaskPolicy
from segkit.sample import Sample, Segment
from segkit.shards.manifest import Task
from tests.data.scenes import TAXONOMY, disc, instance_sample, panoptic_sample, segment
from tests.data.test_crop_masks import by_hand

FULL = Crop((0, 0, 100, 80), (0, 0, 100, 80), (96, 128))
CAT, DOG, SKY, SEA = (TAXONOMY.index[class_id] for class_id in (5, 9, 2, 30))
Policies = dict[int, MaskPolicy]


def build(sample: Sample, crop: Crop, task: Task, policies: Policies | None = None) -> Targets:
    return build_targets(sample, crop, taxonomy=TAXONOMY, task=task, policies=policies or {})


def crops(seed: int) -> Crop:
    rng = np.random.default_rng(seed)
    return jitter_crop(80, 100, size=64, scale=float(rng.uniform(0.5, 3)), rng=rng, flip=True)


def check_shapes(targets: Targets, crop: Crop) -> None:
    number = len(targets)
    assert targets.labels.shape == targets.is_thing.shape == targets.has_mask.shape == (number,)
    assert targets.labels.dtype == torch.int64 and targets.boxes.dtype == torch.float32
    masks = targets.masks.dense()
    assert masks.shape == (number, *crop.padded_size) and masks.dtype == torch.bool
    assert targets.boxes.shape == (number, 4) and targets.void.shape == crop.padded_size
    assert not (masks & targets.void).any()


def check_boxes_of_masks(targets: Targets) -> None:
    masks = targets.masks.dense()
    for mask, box, has_mask in zip(masks, targets.boxes, targets.has_mask, strict=True):
        rows, columns = mask.nonzero(as_tuple=True)
        if has_mask:
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_every_labeled_pixel_of_a_map_has_one_target(task: Task, seed: int) -> None:
    sample, crop = panoptic_sample("a", seed), crops(seed)
    targets = build(sample, crop, task)
    check_shapes(targets, crop)
    check_boxes_of_masks(targets)
    # independent truth: dense maps of the targets, sampled pixel by pixel
    dense: dict[tuple[int, int], np.ndarray] = {}
    for number, part in enumerate(sample.segments):
        separate = task == "panoptic" and part.kind == "thing"
        key = (TAXONOMY.index[part.class_id], number if separate else -1)
        assert part.mask is not None
        dense[key] = dense.get(key, False) | rle.decode(part.mask, 80, 100)
    expected = {key: by_hand(mask, crop) for key, mask in dense.items()}
    expected = {key: mask for key, mask in expected.items() if mask.sum() >= 4}
    full = ~targets.is_part  # test_parts.py tests connected parts
    labels, masks = targets.labels[full], targets.masks.dense()[full]
    assert sorted(labels.tolist()) == sorted(label for label, _ in expected)
    pairs = {
        (int(label), mask.numpy().tobytes()) for label, mask in zip(labels, masks, strict=True)
    }
    assert pairs == {(label, mask.tobytes()) for (label, _), mask in expected.items()}
    covered = (
        np.any(list(expected.values()), axis=0) if expected else np.zeros(crop.padded_size, bool)
    )
    assert (targets.void.numpy() == ~covered).all()
    assert set(targets.labels[~targets.is_thing].tolist()) <= {SKY, SEA}
    assert set(targets.labels[targets.is_thing].tolist()) <= {CAT, DOG}


@pytest.mark.parametrize("seed", range(12))
def test_overlapping_instances_keep_their_full_masks(seed: int) -> None:
    sample, crop = instance_sample("a", seed), crops(seed)
    targets = build(sample, crop, "instance")
    check_shapes(targets, crop)
    check_boxes_of_masks(targets)
    dense = [
        (TAXONOMY.index[s.class_id], by_hand(rle.decode(s.mask or b"", 80, 100), crop))
        for s in sample.segments
    ]
    kept = [(label, mask) for label, mask in dense if mask.sum() >= 4]
    assert targets.labels.tolist() == [label for label, _ in kept]
    assert all(
        (ours.numpy() == mask).all()
        for ours, (_, mask) in zip(targets.masks.dense(), kept, strict=True)
    )
    slivers = [mask for _, mask in dense if 0 < mask.sum() < 4]
    expected = np.ones(crop.padded_size, bool)
    expected[crop.content_slices()] = False
    for mask in slivers:
        expected |= mask
    for _, mask in kept:
        expected &= ~mask
    assert (targets.void.numpy() == expected).all()


def test_the_scenes_have_overlapping_instances() -> None:
    sums = [
        build(instance_sample("a", seed), crops(seed), "instance").masks.dense().sum(0)
        for seed in range(12)
    ]
    assert any((total > 1).any() for total in sums)


@pytest.mark.parametrize("seed", range(8))
def test_boxes_without_masks_are_clipped_and_their_pixels_are_labeled(seed: int) -> None:
    sample, crop = instance_sample("a", seed, boxes_only=True), crops(seed)
    sample = replace(sample, exhaustive=False)
    targets = build(sample, crop, "instance")
    check_shapes(targets, crop)
    assert not targets.has_mask.any() and not targets.masks.bits.any()
    assert targets.masks.bits.untyped_storage().nbytes() == 1, "they take no memory"
    rows, columns = np.mgrid[: crop.padded_size[0], : crop.padded_size[1]] + 0.5
    labeled = np.zeros(crop.padded_size, bool)
    for x0, y0, x1, y1 in targets.boxes.tolist():
        labeled |= (columns >= x0) & (columns < x1) & (rows >= y0) & (rows < y1)
        assert 0 <= x0 < x1 <= 64 and 0 <= y0 < y1 <= 64
    assert (targets.void.numpy() == ~labeled).all()


def test_policy_box_never_reads_the_mask() -> None:
    good = segment(disc(80, 100, 40, 40, 15), 5)
    broken = replace(good, mask=b"no run lengths")
    bare = replace(good, mask=None, mask_from=None)
    results = [
        build(
            Sample("a", "a", 100, 80, (part, replace(part, is_crowd=True, box=(70, 5, 20, 10)))),
            FULL,
            "instance",
            policy,
        )
        for part, policy in ((good, {5: "box"}), (broken, {5: "box"}), (bare, {}))
    ]
    for targets in results:
        assert not targets.has_mask.any() and targets.boxes.tolist() == [[25, 25, 55, 55]]
        assert not targets.masks.bits.any() and not targets.void[25:55, 25:55].any()
        assert targets.void[5:15, 70:90].all() and targets.void[:80, :100].sum() == 200
    assert build(Sample("a", "a", 100, 80, (good,)), FULL, "instance").has_mask.all()


def test_policy_of_one_class_does_not_affect_others() -> None:
    sample = Sample(
        "a",
        "a",
        100,
        80,
        (segment(disc(80, 100, 20, 40, 12), 5), segment(disc(80, 100, 70, 40, 12), 9)),
    )
    targets = build(sample, FULL, "instance", {5: "box", 9: "mask"})
    assert targets.has_mask.tolist() == [False, True]
    hidden = build(sample, FULL, "instance", {5: "none"})
    assert hidden.labels.tolist() == [DOG] and hidden.void[28:52, 8:32].all()


def test_a_merged_class_has_a_mask_only_if_all_its_segments_do() -> None:
    left, right = segment(disc(80, 100, 20, 40, 10), 2), segment(disc(80, 100, 70, 40, 10), 2)
    masked = build(Sample("a", "a", 100, 80, (left, right)), FULL, "panoptic")
    assert (
        masked.labels.tolist() == [SKY]
        and masked.has_mask.all()
        and masked.boxes.tolist() == [[10, 30, 80, 50]]
    )
    mixed = build(
        Sample("a", "a", 100, 80, (left, replace(right, mask=None, mask_from=None))),
        FULL,
        "panoptic",
    )
    assert not mixed.has_mask.any() and mixed.boxes.tolist() == [[10, 30, 80, 50]]
    assert not mixed.masks.bits.any()
    assert not mixed.void[30:50, 60:80].any() and mixed.void[30, 10], "the box is filled"


@pytest.mark.parametrize("field", ["is_crowd", "ignore"])
@pytest.mark.parametrize("task", ["instance", "panoptic"])
def test_crowds_and_ignored_regions_are_void(field: str, task: Task) -> None:
    crowd = segment(disc(80, 100, 50, 40, 20), 5, **{field: True})
    cat = segment(disc(80, 100, 60, 40, 8), 9)  # inside the crowd: its own pixels are labeled
    targets = build(Sample("a", "a", 100, 80, (crowd, cat)), FULL, task)
    assert targets.labels.tolist() == [DOG]
    region = disc(80, 100, 50, 40, 20) & ~disc(80, 100, 60, 40, 8)
    inside = targets.void.numpy()[:80, :100]
    assert inside[region].all() and (task == "panoptic" or (inside == region).all())
    assert targets.void[80:].all() and targets.void[:, 100:].all()


def test_unlabeled_pixels_of_instances_are_background_if_exhaustive() -> None:
    cat = segment(disc(80, 100, 50, 40, 20), 5)
    stripe = np.zeros((80, 100), bool)
    stripe[:, :9] = True
    sample = Sample("a", "a", 100, 80, (cat,), void=rle.encode(stripe))
    inside = build(sample, FULL, "instance").void[:80, :100].numpy()
    assert (inside == stripe).all()
    open_world = build(replace(sample, exhaustive=False), FULL, "instance").void[:80, :100].numpy()
    assert (open_world == ~disc(80, 100, 50, 40, 20)).all()


def test_stuff_is_not_an_instance() -> None:
    sample = Sample("a", "a", 100, 80, (segment(disc(80, 100, 50, 40, 20), 2),))
    targets = build(sample, FULL, "instance")
    assert len(targets) == 0 and not targets.void[:80, :100].any()


def test_a_box_that_is_mostly_outside_the_crop_is_void() -> None:
    right_half = Crop((50, 0, 50, 80), (0, 0, 50, 80), (96, 64))
    cut = Segment(5, "thing", (10.0, 10.0, 42.0, 30.0), None, 1260.0)  # 2 of 42 columns are in
    half = replace(cut, box=(30.0, 10.0, 40.0, 30.0))
    targets = build(Sample("a", "a", 100, 80, (cut,)), right_half, "instance")
    assert (
        len(targets) == 0 and targets.void[10:40, :2].all() and targets.void[:80, :50].sum() == 60
    )
    assert build(Sample("a", "a", 100, 80, (half,)), right_half, "instance").boxes.tolist() == [
        [0, 10, 20, 40]
    ]


def test_images_without_segments_or_with_crowds_only() -> None:
    crowd = segment(disc(80, 100, 50, 40, 20), 5, is_crowd=True)
    tasks: tuple[Task, ...] = ("panoptic", "semantic", "instance")
    for segments in ((), (crowd,)):
        for task in tasks:
            targets = build(Sample("a", "a", 100, 80, segments), FULL, task)
            check_shapes(targets, FULL)
            assert len(targets) == 0


def test_annotated_classes_are_kept() -> None:
    sample = Sample("a", "a", 100, 80, annotated=(9, 30))
    annotated = build(sample, FULL, "instance").annotated
    assert annotated is not None and annotated.nonzero().flatten().tolist() == sorted([DOG, SEA])
    assert build(replace(sample, annotated=None), FULL, "instance").annotated is None


def test_padding_is_the_area_beyond_the_image() -> None:
    targets = build(panoptic_sample("a", 0), FULL, "panoptic")
    assert targets.padding is not None
    assert (
        targets.padding[80:].all()
        and targets.padding[:, 100:].all()
        and not targets.padding[:80, :100].any()
    )
    assert not (targets.padding & ~targets.void).any() and targets.void[:80, :100].any()


def test_only_maps_move_to_the_device() -> None:
    targets = build(Sample("a", "a", 100, 80, annotated=(9,)), FULL, "instance")
    moved = targets.to("meta")
    assert moved.masks.bits.is_meta
    tensors = {name: x for name, x in vars(moved).items() if isinstance(x, torch.Tensor)}
    assert {name for name, tensor in tensors.items() if tensor.is_meta} == {"void", "padding"}
