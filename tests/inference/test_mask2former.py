"""The same logits give the same masks here and in transformers' own post-processing."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.inference.mask2former import mask2former_masks
from segkit.inference.pipeline import image_crop
from segkit.inference.postprocess import LabeledMask
from segkit.recipes.schema import InferenceConfig

transformers = pytest.importorskip(
    "transformers", reason="transformers' post-processing is the independent truth here"
)

CLASSES, QUERIES = 12, 30
IS_THING = torch.arange(CLASSES) < 7
SIZES = [(384, 384), (300, 411), (97, 640), (801, 500)]
CONFIG = InferenceConfig(
    resize="stretch", postprocess="mask2former", score=0.5, overlap=0.8, instance_score=0.3
)


def _logits(seed: int) -> tuple[Tensor, Tensor]:
    """Class logits (N, K + 1) of mostly one class, and mask logits (N, 96, 96) of blobs."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randn(QUERIES, CLASSES + 1, generator=generator)
    best = torch.randint(0, CLASSES + 1, (QUERIES, 1), generator=generator)
    classes.scatter_add_(1, best, 2 + 4 * torch.rand(QUERIES, 1, generator=generator))
    places = torch.arange(96.0)
    y, x, radius = (
        96 * torch.rand(QUERIES, 1, 1, generator=generator) * share for share in (1, 1, 0.3)
    )
    distance = ((places[:, None] - y).square() + (places - x).square()).sqrt()  # (N, 96, 96)
    noise = F.interpolate(torch.randn(1, QUERIES, 9, 9, generator=generator), (96, 96))[0]
    return classes, (radius - distance) / 2 + noise


def _theirs(classes: Tensor, masks: Tensor) -> tuple[Any, Any]:
    outputs = SimpleNamespace(class_queries_logits=classes[None], masks_queries_logits=masks[None])
    return transformers.Mask2FormerImageProcessor(), outputs


def _ours(task: Any, classes: Tensor, masks: Tensor, size: tuple[int, int]) -> list[LabeledMask]:
    crop = image_crop(*size, CONFIG)
    return mask2former_masks(task, classes, masks, crop, IS_THING, CONFIG)


@pytest.mark.parametrize("size", SIZES)
def test_semantic_maps_are_theirs(size: tuple[int, int]) -> None:
    classes, masks = _logits(0)
    processor, outputs = _theirs(classes, masks)
    expected = processor.post_process_semantic_segmentation(outputs, target_sizes=[size])[0]
    labels = np.full(size, -1)
    for mask in _ours("semantic", classes, masks, size):
        assert 0 < mask.score <= 1
        labels[mask.mask] = mask.class_index
    assert len(np.unique(labels)) > 3
    np.testing.assert_array_equal(labels, expected.numpy())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_panoptic_segments_are_theirs(size: tuple[int, int], seed: int) -> None:
    classes, masks = _logits(seed)
    processor, outputs = _theirs(classes, masks)
    stuff = set(range(7, CLASSES))
    arguments = {"threshold": 0.5, "overlap_mask_area_threshold": 0.8, "target_sizes": [size]}
    fused = processor.post_process_panoptic_segmentation(
        outputs, label_ids_to_fuse=stuff, **arguments
    )[0]
    # Fused, a thing after a repeated stuff class gets the number of another segment; apart, all
    # numbers are different.
    apart = processor.post_process_panoptic_segmentation(
        outputs, label_ids_to_fuse=set(), **arguments
    )[0]
    numbers = apart["segmentation"].numpy()
    assert [(s["label_id"], s["score"]) for s in fused["segments_info"]] == [
        (s["label_id"], s["score"]) for s in apart["segments_info"]
    ]
    expected: list[tuple[int, float, bytes]] = []
    for label in sorted({segment["label_id"] for segment in apart["segments_info"]}):
        own = [s for s in apart["segments_info"] if s["label_id"] == label]
        if label in stuff:
            union = np.isin(numbers, [segment["id"] for segment in own])
            expected.append((label, max(s["score"] for s in own), union.tobytes()))
        else:
            expected += [(label, s["score"], (numbers == s["id"]).tobytes()) for s in own]
    predictions = [
        (mask.class_index, round(mask.score, 6), mask.mask.tobytes())
        for mask in _ours("panoptic", classes, masks, size)
    ]
    assert len(predictions) > 2
    assert sorted(predictions) == sorted(expected)


@pytest.mark.parametrize("size", SIZES)
def test_instances_are_theirs_but_for_stuff(size: tuple[int, int]) -> None:
    classes, masks = _logits(3)
    processor, outputs = _theirs(classes, masks)
    theirs = processor.post_process_instance_segmentation(
        outputs, threshold=0.3, target_sizes=[size], return_binary_maps=True
    )[0]
    expected = [
        (segment["label_id"], segment["score"], mask.bool().numpy().tobytes())
        for segment, mask in zip(theirs["segments_info"], theirs["segmentation"], strict=True)
        if IS_THING[segment["label_id"]]
    ]
    config = CONFIG.model_copy(update={"instances": QUERIES})
    crop = image_crop(*size, config)
    masks_of_image = mask2former_masks("instance", classes, masks, crop, IS_THING, config)
    predictions = [
        (mask.class_index, round(mask.score, 6), mask.mask.tobytes()) for mask in masks_of_image
    ]
    assert len(predictions) > 3
    assert sorted(predictions) == sorted(expected)


def test_without_a_confident_query_there_is_no_panoptic_segment() -> None:
    classes, masks = torch.zeros(QUERIES, CLASSES + 1), _logits(0)[1]
    assert _ours("panoptic", classes, masks, (40, 50)) == []
    assert _ours("instance", classes, masks, (40, 50)) == []


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (500, 500), (100, 4000), (801, 1200)])
@pytest.mark.parametrize(
    ("resize", "theirs"),
    [
        ({"resize": "stretch", "image_size": 384}, {"height": 384, "width": 384}),
        (
            {"resize": "shorter", "image_size": 800, "max_size": 1333},
            {"shortest_edge": 800, "longest_edge": 1333},
        ),
    ],
)
def test_the_canvas_has_the_pixels_of_their_processor(
    size: tuple[int, int], resize: dict[str, Any], theirs: dict[str, int]
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    processor = transformers.Mask2FormerImageProcessor(
        size=theirs, do_normalize=False, do_rescale=False
    )
    expected = processor(image, return_tensors="pt", input_data_format="channels_last")
    pixels = image_crop(*size, InferenceConfig(**resize)).image(image)
    assert np.array_equal(pixels, expected["pixel_values"][0].permute(1, 2, 0).numpy())
