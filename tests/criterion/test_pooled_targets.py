from dataclasses import replace

import torch

from segkit.criterion.pooled_targets import PooledTargets, box_cover
from tests.criterion.scenes import rectangles


def test_cells_hold_the_share_of_their_labeled_pixels() -> None:
    target = rectangles((2, 0, 10, 4))
    target.void[0:4, 8:10] = True
    pooled = PooledTargets.from_targets(replace(target, masks=target.masks & ~target.void))
    assert pooled.masks[0, 0, :3].tolist() == [0.5, 1.0, 0.0]
    assert pooled.weight[0, :4].tolist() == [1.0, 1.0, 0.5, 1.0]
    assert pooled.boxes[0, 0, :4].tolist() == [0.5, 1.0, 0.5, 0.0]


def test_box_cover_is_the_area_of_the_box() -> None:
    boxes = torch.tensor([[3.3, 1.5, 20.75, 17.0], [0.0, 0.0, 64.0, 64.0], [70.0, 0.0, 80.0, 5.0]])
    cover = box_cover(boxes, (16, 16), 4).sum((1, 2)) * 16
    torch.testing.assert_close(cover, torch.tensor([(20.75 - 3.3) * 15.5, 4096.0, 0.0]))


def test_selected_rows_keep_all_fields_together() -> None:
    image = rectangles((4, 8, 32, 40), (36, 0, 64, 20), (0, 32, 30, 64), labels=(1, 0, 2))
    image = replace(image, has_mask=torch.tensor([True, False, True]))
    pooled = PooledTargets.from_targets(image)
    selected = pooled.select(torch.tensor([2, 1]))
    assert selected.labels.tolist() == [2, 0] and selected.has_mask.tolist() == [True, False]
    for name in ("masks", "boxes", "full_masks"):
        assert torch.equal(getattr(selected, name), getattr(pooled, name)[[2, 1]])
    assert selected.weight is pooled.weight
