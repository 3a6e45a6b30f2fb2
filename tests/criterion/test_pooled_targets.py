from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from segkit.criterion.losses import profiles
from segkit.criterion.pooled_targets import (
    CellBoxes,
    PooledTargets,
    box_cover,
    pool_flags,
    pool_masks,
)
from segkit.data.batch import PackedMasks
from tests.criterion.scenes import rectangles


def test_cells_hold_the_share_of_their_labeled_pixels() -> None:
    target = rectangles((2, 0, 10, 4))
    target.void[0:4, 8:10] = True
    masks = PackedMasks.from_dense(target.masks.dense() & ~target.void)
    pooled = PooledTargets.from_targets(replace(target, masks=masks))
    assert pooled.masks[0, 0, :3].tolist() == [0.5, 1.0, 0.0]
    assert pooled.weight[0, :4].tolist() == [1.0, 1.0, 0.5, 1.0]
    assert pooled.boxes.cover[0, 0, :4].tolist() == [0.5, 1.0, 0.5, 0.0]


def test_flags_pool_exactly_as_the_average_of_floats() -> None:
    flags = torch.rand(5, 24, 16, generator=torch.Generator().manual_seed(0)) > 0.3
    for maps in (flags, flags[::2], flags.transpose(1, 2), flags[0]):
        expected = F.avg_pool2d(maps.reshape(-1, *maps.shape[-2:]).float(), 4)
        assert torch.equal(pool_flags(maps).reshape(expected.shape), expected)


def test_box_cover_is_the_area_of_the_box() -> None:
    boxes = torch.tensor([[3.3, 1.5, 20.75, 17.0], [0.0, 0.0, 64.0, 64.0], [70.0, 0.0, 80.0, 5.0]])
    cover = box_cover(boxes, (16, 16), 4).sum((1, 2)) * 16
    torch.testing.assert_close(cover, torch.tensor([(20.75 - 3.3) * 15.5, 4096.0, 0.0]))


@given(
    st.lists(st.tuples(*[st.floats(-20, 90, width=32)] * 4), min_size=1, max_size=4),
    st.sampled_from([4, 8, 32]),
)
@settings(max_examples=50)
def test_the_profiles_of_boxes_are_the_maxima_of_their_cover(
    corners: list[tuple[float, ...]], stride: int
) -> None:
    x0, y0, x1, y1 = torch.tensor(corners).T
    boxes = torch.stack((x0.minimum(x1), y0.minimum(y1), x0.maximum(x1), y0.maximum(y1)), dim=1)
    on_cells = CellBoxes.from_corners(boxes, (64 // stride, 96 // stride), stride)
    for profile, expected in zip(on_cells.profiles, profiles(on_cells.cover), strict=True):
        assert torch.equal(profile, expected)


def test_targets_without_a_mask_cover_no_cell() -> None:
    target = replace(
        rectangles((4, 8, 32, 40), (36, 0, 64, 20)), has_mask=torch.tensor([False, True])
    )
    both = PooledTargets.from_targets(target)
    assert both.masks[0].sum() == 0
    assert both.masks[1].sum() * 16 == 28 * 20
    boxes = PooledTargets.from_targets(replace(target, has_mask=torch.tensor([False, False])))
    assert boxes.masks.shape == (2, 16, 16)
    assert boxes.masks.sum() == 0
    assert boxes.masks.untyped_storage().nbytes() == 4, "it takes no memory"


def test_selected_rows_keep_all_fields_together() -> None:
    image = rectangles((4, 8, 32, 40), (36, 0, 64, 20), (0, 32, 30, 64), labels=(1, 0, 2))
    image = replace(image, has_mask=torch.tensor([True, False, True]))
    pooled = PooledTargets.from_targets(image)
    selected = pooled.select(torch.tensor([2, 1]))
    assert selected.labels.tolist() == [2, 0] and selected.has_mask.tolist() == [True, False]
    full = pooled.full_masks.dense()
    assert torch.equal(selected.full_masks.dense(), full[[2, 1]])
    for name in ("masks", "corners"):
        assert torch.equal(getattr(selected, name), getattr(pooled, name)[[2, 1]])
    assert torch.equal(selected.boxes.cover, pooled.boxes.cover[[2, 1]])
    assert selected.weight is pooled.weight


@given(
    st.integers(0, 3),
    st.integers(1, 4),
    st.integers(1, 5),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_packed_masks_are_pooled_like_dense_ones(
    count: int, height: int, width: int, share: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.rand(count, 4 * height, 4 * width, generator=generator) < share
    expected = F.avg_pool2d(dense[:, None].float(), 4)[:, 0]  # exact: sixteenths
    assert torch.equal(pool_masks(PackedMasks.from_dense(dense)), expected)
    assert torch.equal(pool_flags(dense), expected)
