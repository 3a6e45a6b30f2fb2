import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from segkit.masks import rle

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40))
maps = hnp.arrays(
    np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=30), elements=st.integers(0, 5)
)


def coco_counts(mask):
    return coco.encode(np.asfortranarray(mask, np.uint8))["counts"]


@given(masks)
def test_strings_areas_and_boxes_are_those_of_pycocotools(mask):
    counts = rle.encode(mask)
    assert counts == coco_counts(mask)
    height, width = mask.shape
    assert np.array_equal(rle.decode(counts, height, width), mask)
    assert rle.area(counts, height, width) == mask.sum()
    box = coco.toBbox({"size": [height, width], "counts": counts})
    assert rle.box(counts, height, width) == tuple(box)


@given(masks)
def test_a_mask_is_decoded_within_its_tight_box(mask):
    part, x, y = rle.decode_box(rle.encode(mask), *mask.shape)
    rows, columns = np.nonzero(mask)
    if not len(rows):
        assert part.size == 0
        return
    assert (x, y) == (columns.min(), rows.min())
    assert np.array_equal(part, mask[y : rows.max() + 1, x : columns.max() + 1])


@given(maps)
def test_a_label_map_is_encoded_like_its_ids_one_by_one(ids):
    regions = rle.regions(ids)
    assert list(regions) == np.unique(ids).tolist()
    for value, region in regions.items():
        assert region.counts == coco_counts(ids == value)
        assert region.area == (ids == value).sum()
        assert region.box == tuple(coco.toBbox({"size": list(ids.shape), "counts": region.counts}))
    assert np.array_equal(
        rle.paint([(value, region.counts) for value, region in regions.items()], *ids.shape), ids
    )


def test_a_large_smooth_map_has_long_counts_and_the_same_strings():
    rng = np.random.default_rng(0)
    ids = np.kron(rng.integers(0, 2**24, (7, 9)), np.ones((211, 307), np.int64))
    for value, region in rle.regions(ids).items():
        assert region.counts == coco_counts(ids == value)


@given(st.lists(hnp.arrays(bool, (9, 7)), max_size=6))
def test_many_masks_at_once(stack):
    counts = [rle.encode(mask) for mask in stack]
    assert rle.areas(counts).tolist() == [int(mask.sum()) for mask in stack]
    assert rle.union(counts, 9, 7) == coco_counts(np.array(stack, bool).reshape(-1, 9, 7).any(0))


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=30))
def test_uncompressed_counts_are_compressed_as_by_pycocotools(runs):
    size = [sum(runs), 1]
    assert (
        rle.from_uncompressed(runs, *size)
        == coco.frPyObjects({"size": size, "counts": runs}, *size)["counts"]
    )
    assert rle.decompress(rle.from_uncompressed(runs, *size)).tolist() == runs


polygon = st.lists(st.floats(-20, 60, width=32), min_size=6, max_size=16).filter(
    lambda p: len(p) % 2 == 0
)


@settings(max_examples=50)
@given(st.lists(polygon, min_size=1, max_size=3))
def test_polygons_are_rasterized_as_by_pycocotools(polygons):
    merged = coco.merge(coco.frPyObjects(polygons, 40, 30))
    assert rle.from_polygons(polygons, 40, 30) == merged["counts"]


@pytest.mark.parametrize(
    "polygons",
    [
        [],
        [[1, 2, 3, 4]],
        [[0, 0, 5, 0, 5]],
        [[0, 0, float("nan"), 1, 2, 3]],
        [[0, 0, 1e12, 1, 2, 3]],
    ],
)
def test_polygons_that_pycocotools_would_misread_are_refused(polygons):
    with pytest.raises(ValueError, match="polygon"):
        rle.from_polygons(polygons, 10, 10)


@given(st.binary(max_size=30))
def test_any_bytes_decode_to_a_mask_of_the_right_size_or_are_refused(data):
    try:
        assert rle.decode(data, 6, 5).shape == (6, 5)
    except ValueError:
        return
    assert rle.decompress(data).sum() == 30


def test_counts_of_another_image_size_are_refused():
    with pytest.raises(ValueError, match="20 pixels"):
        rle.decode(rle.encode(np.ones((4, 5))), 5, 5)


def test_edges_far_longer_than_the_image_are_refused_before_rasterizing():
    zigzag = [[float(x) for n in range(3000) for x in (1e6 * (n % 2), n)]]
    with pytest.raises(ValueError, match=r"its edges are .* pixels long"):
        rle.from_polygons(zigzag, 24, 32)
    with pytest.raises(ValueError, match="its edges are"):
        rle.from_polygons([zigzag[0][:12]] * 1000, 24, 32)
    far = [[0.0, 0.0, 1e6, 0.0, 1e6, 1e6, 0.0, 1e6]]
    assert rle.area(rle.from_polygons(far, 24, 32), 24, 32) == 24 * 32
