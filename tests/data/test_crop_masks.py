import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco
from pycocotools.coco import COCO

from segkit.data.augment import Crop, jitter_crop
from segkit.data.targets import build_targets
from segkit.masks import rle
from segkit.sample import Sample
from tests.data.scenes import TAXONOMY, Mask, disc, segment


def by_hand(dense: Mask, crop: Crop) -> Mask:
    """The crop of a dense mask, pixel by pixel from the centers' coordinates."""
    expected = np.zeros(crop.padded_size, bool)
    sx, sy, sw, sh = crop.source
    px, py, pw, ph = crop.content
    for i in range(ph):
        for j in range(pw):
            across = pw - 1 - j if crop.mirrored else j
            y, x = sy + (2 * i + 1) * sh // (2 * ph), sx + (2 * across + 1) * sw // (2 * pw)
            expected[py + i, px + j] = dense[y, x]
    return expected


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.floats(0.2, 4),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.02, 0.5, 1.0]),
)
@settings(max_examples=60)
def test_a_crop_samples_the_dense_mask(
    height: int, width: int, scale: float, seed: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    dense = rng.random((height, width)) < share
    crop = jitter_crop(height, width, size=32, scale=scale, rng=rng, flip=True)
    counts = coco.encode(np.asfortranarray(dense.astype(np.uint8)))["counts"]
    assert (crop.mask(rle.decompress(counts), height, width) == by_hand(dense, crop)).all()


def test_empty_and_full_masks() -> None:
    crop = Crop((0, 0, 30, 20), (1, 2, 30, 20), (32, 32))
    empty = rle.decompress(rle.encode(np.zeros((20, 30), bool)))
    assert not crop.mask(empty, 20, 30).any()
    full = crop.mask(rle.decompress(rle.encode(np.ones((20, 30), bool))), 20, 30)
    assert full[2:22, 1:31].all() and full.sum() == 600


def test_a_mask_of_another_size_is_refused() -> None:
    crop = Crop((0, 0, 30, 20), (0, 0, 30, 20), (32, 32))
    for size in ((20, 29), (21, 30)):
        with pytest.raises(ValueError, match="30 x 20"):
            crop.mask(rle.decompress(rle.encode(np.ones(size, bool))), 20, 30)


def test_a_box_fills_the_pixels_whose_centers_are_inside() -> None:
    crop = Crop((0, 0, 64, 64), (0, 0, 64, 64), (64, 96))
    rows, columns = np.mgrid[:64, :96] + 0.5
    for box in ((3.2, 5.7, 20.0, 21.4), (-4, -4, 9.5, 9.4), (50, 60, 30, 30)):
        x, y, w, h = box
        expected = (
            (columns >= x) & (columns < x + w) & (rows >= y) & (rows < y + h) & (columns < 64)
        )
        assert (crop.filled_box(crop.box(box)) == expected).all()
    assert not crop.filled_box((70, 0, 80, 20)).any()


def test_memory_does_not_grow_with_the_number_of_masks() -> None:
    """100 masks of 1.9 million pixels would be 190 MB as a stack."""
    height, width = 1200, 1600
    masks = [segment(disc(height, width, 100 + 12 * i, 600, 90), 5) for i in range(100)]
    crop = jitter_crop(height, width, size=64, scale=1.0, rng=np.random.default_rng(0))
    peaks = []
    for number in (10, 100):
        sample = Sample("a", "a", width, height, tuple(masks[:number]))
        tracemalloc.start()
        targets = build_targets(sample, crop, taxonomy=TAXONOMY, task="instance", policies={})
        peaks.append(tracemalloc.get_traced_memory()[1] - number * 64 * 64 * 4)
        tracemalloc.stop()
        assert len(targets) == number
    assert (
        peaks[1] - peaks[0] < 90 * 0.01 * height * width
    )  # what run lengths take, a hundredth of the pixels
    assert peaks[1] < height * width


def test_real_overlapping_instances_equal_pycocotools(real_data: Path) -> None:
    instances = COCO(str(real_data / "coco/annotations/instances_val2017.json"))
    busiest = max(instances.imgs, key=lambda identity: len(instances.getAnnIds(imgIds=[identity])))
    height, width = instances.imgs[busiest]["height"], instances.imgs[busiest]["width"]
    rows = instances.loadAnns(instances.getAnnIds(imgIds=[busiest]))
    dense = coco.decode([instances.annToRLE(row) for row in rows]).transpose(2, 0, 1) > 0
    assert (np.sum(dense, axis=0) > 1).any()  # they do overlap
    crop = jitter_crop(height, width, size=128, scale=1.3, rng=np.random.default_rng(1), flip=True)
    grid = np.ix_(crop.rows(), crop.columns())
    for mask in dense:
        cropped = crop.mask(rle.decompress(rle.encode(mask)), height, width)
        assert (cropped[crop.content_slices()] == mask[grid]).all()
