"""Refinement of box prompt masks: crop, convolve, paste."""

import pytest
import torch
from torch import Tensor

from segkit.model.box_mask_head import SIDE, BoxMaskHead, _crop
from segkit.model.box_prompt_encoder import box_coordinates

STRIDE, SIZE = 4, (24, 32)
REGION = (24.0, 16.0, 72.0, 64.0)


@pytest.fixture
def head() -> BoxMaskHead:
    torch.manual_seed(0)
    head = BoxMaskHead(hidden_dim=8, mask_dim=6)
    torch.nn.init.normal_(head.output.weight)
    return head


def inputs(region: tuple[float, ...] = REGION) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    regions = torch.tensor([[region]])
    u, v = box_coordinates(regions, SIZE, STRIDE)
    return {
        "queries": torch.randn(1, 1, 8, generator=generator),
        "masks": torch.randn(1, 1, *SIZE, generator=generator),
        "pixels": torch.randn(1, 6, *SIZE, generator=generator),
        "regions": regions,
        "coordinates": torch.stack((u, v), dim=-1),
    }


def test_a_fresh_head_changes_nothing() -> None:
    arguments = inputs()
    assert torch.equal(
        BoxMaskHead(hidden_dim=8, mask_dim=6)(**arguments, stride=STRIDE), arguments["masks"]
    )


def test_the_correction_stays_in_the_region(head: BoxMaskHead) -> None:
    arguments = inputs()
    changed = (head(**arguments, stride=STRIDE) - arguments["masks"])[0, 0].abs() > 1e-6
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[4:16, 6:18] = True
    assert changed[inside].all()
    outside = torch.ones(SIZE, dtype=torch.bool)
    outside[3:17, 5:19] = False
    assert not changed[outside].any()


def test_a_shifted_object_and_box_shift_the_mask(head: BoxMaskHead) -> None:
    original = inputs()
    shifted = inputs((REGION[0] + 8, REGION[1] + 12, REGION[2] + 8, REGION[3] + 12))
    for name in ("masks", "pixels"):
        shifted[name] = original[name].roll((3, 2), dims=(-2, -1))
    moved = head(**shifted, stride=STRIDE)[0, 0, 7:19, 8:20]
    assert torch.allclose(moved, head(**original, stride=STRIDE)[0, 0, 4:16, 6:18], atol=1e-5)


def test_a_ramp_is_cropped_at_pixel_centers() -> None:
    ramp = ((torch.arange(SIZE[1]) + 0.5) * STRIDE).expand(1, 1, *SIZE)
    crop = _crop(ramp, [torch.tensor([REGION])], STRIDE)[0, 0]
    centers = REGION[0] + (torch.arange(SIDE) + 0.5) / SIDE * (REGION[2] - REGION[0])
    assert torch.allclose(crop, centers.expand(SIDE, SIDE), atol=1e-4)


def test_a_cropped_and_pasted_ramp_is_unchanged() -> None:
    arguments = inputs()
    ramp = ((torch.arange(SIZE[1]) + 0.5) * STRIDE).expand(1, 1, *SIZE)
    crop = _crop(ramp, [arguments["regions"][0]], STRIDE)
    back = torch.nn.functional.grid_sample(crop, arguments["coordinates"][0], align_corners=False)[
        0, 0
    ]
    assert torch.allclose(back[5:15, 7:17], ramp[0, 0, 5:15, 7:17], atol=1e-3)


def test_the_coarse_mask_learns_only_from_its_own_loss(head: BoxMaskHead) -> None:
    arguments = inputs()
    arguments["masks"].requires_grad_()
    head(**arguments, stride=STRIDE).sum().backward()
    assert torch.equal(arguments["masks"].grad, torch.ones(1, 1, *SIZE))
