import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkit.images.draw import enlarged_overlay, overlay, save_png
from segkit.images.palette import class_color
from segkit.masks import rle
from segkit.sample import Segment
from segkit.taxonomy import Category, Taxonomy
from tests.images.full_masks import overlay_of_full_masks

TAXONOMY = Taxonomy(
    "test",
    (Category(3, "cat", "thing"), Category(9, "meadow", "stuff"), Category(20, "dog", "thing")),
)
GREY = np.full((60, 80, 3), 128, np.uint8)


def _square(class_id: int, top: int, left: int, side: int, *, box_only: bool = False) -> Segment:
    mask = np.zeros((60, 80), bool)
    mask[top : top + side, left : left + side] = True
    kind = TAXONOMY.by_id[class_id].kind
    box = (float(left), float(top), float(side), float(side))
    return Segment(class_id, kind, box, None if box_only else rle.encode(mask), float(side * side))


def test_overlay_paints_only_inside_the_masks() -> None:
    picture = overlay(GREY, [_square(3, 10, 10, 20)], TAXONOMY, labels=False)
    outside = np.ones((60, 80), bool)
    outside[7:33, 7:33] = False
    assert (picture[outside] == 128).all()
    expected = 0.4 * 128 + 0.6 * np.array(class_color("cat"))
    assert np.abs(picture[20, 20] - expected).max() <= 1
    assert not (GREY != 128).any()


@pytest.mark.parametrize("seed", range(12))
def test_pictures_are_those_of_masks_that_are_decoded_at_their_full_size(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(40, 300 if seed % 2 else 120, 2).tolist()
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    segments = []
    for _ in range(int(rng.integers(1, 25))):
        top, left = int(rng.integers(height)), int(rng.integers(width))
        mask = np.zeros((height, width), bool)  # a rectangle, with holes or with ragged borders
        mask[top : top + int(rng.integers(height)), left : left + int(rng.integers(width))] = True
        mask &= rng.random((height, width)) > rng.choice([0, 0.005, 0.5])
        category = TAXONOMY.categories[int(rng.integers(3))]
        area, score = float(mask.sum()), float(rng.random())
        box, counts = (0.0, 0.0, 1.0, 1.0), rle.encode(mask)
        segments.append(Segment(category.id, category.kind, box, counts, area, score=score))
    for scale in (1, 2, 3):
        expected = overlay_of_full_masks(image, segments, TAXONOMY, scale)
        assert np.array_equal(overlay(image, segments, TAXONOMY, scale=scale), expected)


def test_an_image_of_many_small_masks_is_drawn_in_little_memory() -> None:
    image = np.zeros((500, 500, 3), np.uint8)
    mask = np.zeros((500, 500), bool)
    segments = []
    for number in range(300):
        mask[:] = False
        mask[number : number + 9, number : number + 9] = True
        counts = rle.encode(mask)
        segments.append(Segment(3, "thing", (0.0, 0.0, 9.0, 9.0), counts, 81.0))
    overlay(image[:8, :8], [], TAXONOMY)  # fonts and OpenCV are loaded
    tracemalloc.start()
    try:
        overlay(image, segments, TAXONOMY)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 60 * mask.size  # bytes; all masks at once take twice 300 a pixel


@pytest.mark.parametrize("seed", range(8))
def test_masks_on_a_shrunk_picture_are_the_pixels_that_they_cover_by_half(seed: int) -> None:
    rng = np.random.default_rng(seed)
    side, factor = 120, int(rng.choice([2, 3, 4, 6]))
    mask = np.zeros((side, side), bool)
    top, left, height, width = rng.integers(0, 60, 4).tolist()
    mask[top : top + height + factor, left : left + width + factor] = True
    segment = Segment(9, "stuff", (0.0, 0.0, 1.0, 1.0), rle.encode(mask), 1.0)
    image = np.full((side, side, 3), 128, np.uint8)
    picture = overlay(image, [segment], TAXONOMY, scale=1 / factor, labels=False)
    small = side // factor
    cover = mask.reshape(small, factor, small, factor).mean(axis=(1, 3))
    assert picture.shape == (small, small, 3)
    clear = cover != 0.5
    assert np.array_equal((picture != 128).any(axis=-1)[clear], (cover > 0.5)[clear])


def test_a_large_image_is_painted_small_in_little_memory() -> None:
    image = np.full((2000, 1000, 3), 128, np.uint8)
    mask = np.zeros((2000, 1000), bool)
    mask[500:1500, 200:800] = True
    speck = np.zeros_like(mask)
    speck[1900, 700] = True
    segments = [
        Segment(3, "thing", (200.0, 500.0, 600.0, 1000.0), rle.encode(mask), 6e5),
        Segment(20, "thing", (700.0, 1900.0, 1.0, 1.0), rle.encode(speck), 1.0),
        Segment(20, "thing", (100.0, 100.0, 300.0, 200.0), None, 6e4),
    ]
    overlay(image[:8, :8], [], TAXONOMY)  # fonts and OpenCV are loaded
    tracemalloc.start()
    try:
        picture = overlay(image, segments, TAXONOMY, scale=0.1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * mask.size  # bytes; a canvas of the full size takes 12 a pixel
    assert picture.shape == (200, 100, 3)
    assert (picture[100, 30:70] != 128).any(axis=-1).all(), "the mask"
    assert (picture[190, 70] != 128).any(), "the speck"
    assert (picture[10, 10:40] != 128).any(axis=-1).all(), "the frame"
    assert (picture[160:188, :60] == 128).all()


def test_small_segments_stay_visible_over_large_ones() -> None:
    large, small = _square(3, 5, 5, 50), _square(20, 20, 20, 16)
    small_first = overlay(GREY, [small, large], TAXONOMY, labels=False)
    large_first = overlay(GREY, [large, small], TAXONOMY, labels=False)
    assert np.array_equal(small_first, large_first)
    assert (small_first[28, 28] != small_first[50, 50]).any()


def test_a_box_only_segment_gets_a_frame_without_a_fill() -> None:
    picture = overlay(GREY, [_square(20, 10, 10, 30, box_only=True)], TAXONOMY, labels=False)
    assert (picture[20:30, 20:30] == 128).all()
    assert (picture[10, 15:35] != 128).any(axis=-1).all()


def test_a_box_beyond_every_limit_gets_a_frame_where_it_crosses_the_image() -> None:
    """A detector that diverged writes such boxes."""
    huge = replace(_square(20, 10, 10, 30, box_only=True), box=(20.0, 10.0, 5e9, 1e300))
    picture = overlay(GREY, [huge], TAXONOMY, labels=True)
    assert (picture[10, 21:75] != 128).any(axis=-1).all()
    assert (picture[12:55, 20] != 128).any(axis=-1).all()
    assert (picture[30:50, 40:] == 128).all()


@pytest.mark.parametrize(
    ("size", "drawn"),
    [
        ((60, 80), (360, 480)),
        ((2, 2000), (4, 4000)),
        ((3000, 1), (3000, 1)),
        ((9, 5000), (9, 5000)),
    ],
)
def test_small_images_are_enlarged_within_bounds(
    size: tuple[int, int], drawn: tuple[int, int]
) -> None:
    image = np.zeros((*size, 3), np.uint8)
    assert enlarged_overlay(image, [], TAXONOMY).shape == (*drawn, 3)


def test_large_images_are_shrunk_where_a_size_is_given() -> None:
    image, max_size = np.zeros((1000, 2000, 3), np.uint8), (800, 600)
    assert enlarged_overlay(image, [], TAXONOMY, max_size=max_size).shape == (400, 800, 3)
    tall = np.zeros((5000, 1, 3), np.uint8)
    assert enlarged_overlay(tall, [], TAXONOMY, max_size=max_size).shape == (600, 1, 3)


def test_names_are_written_only_where_they_fit() -> None:
    roomy, tiny = [_square(9, 0, 0, 60)], [_square(9, 10, 10, 4)]
    assert (
        overlay(GREY, roomy, TAXONOMY, scale=3)
        != overlay(GREY, roomy, TAXONOMY, scale=3, labels=False)
    ).any()
    assert np.array_equal(
        overlay(GREY, tiny, TAXONOMY, scale=3), overlay(GREY, tiny, TAXONOMY, scale=3, labels=False)
    )


def test_segments_below_the_least_score_are_left_out() -> None:
    doubtful = replace(_square(20, 10, 10, 30), score=0.29)
    sure, human = replace(doubtful, score=0.3), replace(doubtful, score=None)
    blank = overlay(GREY, [doubtful], TAXONOMY, min_score=0.3)
    assert (blank == GREY).all()
    for segment in (sure, human):
        assert (overlay(GREY, [segment], TAXONOMY, min_score=0.3) != GREY).any()


def test_outlines_are_one_pixel_wide_in_small_pictures() -> None:
    picture = overlay(GREY, [_square(3, 10, 10, 30)], TAXONOMY, labels=False)
    inside = picture[13:37, 13:37].reshape(-1, 3)
    assert (inside == inside[0]).all()  # the contour leaves the third pixel from the edge alone


def test_scale_enlarges_image_and_masks_alike() -> None:
    picture = overlay(GREY, [_square(9, 10, 20, 20)], TAXONOMY, scale=4, labels=False)
    assert picture.shape == (240, 320, 3)
    painted = (picture != 128).any(axis=-1)
    rows, columns = np.nonzero(painted)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx(
        (40, 119, 80, 159), abs=1
    )


def test_a_saved_picture_is_read_back_unchanged(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    save_png(picture, tmp_path / "picture.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "picture.png")), picture)
