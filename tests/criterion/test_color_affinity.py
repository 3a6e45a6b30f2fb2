import math

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn import functional as F

from segkit.criterion import color_affinity as module
from segkit.criterion.color_affinity import (
    OFFSETS,
    color_affinity,
    image_affinity,
    pairwise_losses,
    rgb_to_lab,
)
from segkit.criterion.losses import neighbors
from segkit.criterion.pooled_targets import box_cover


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_affinity_ends_at_the_image_and_at_edges_of_color() -> None:
    image = torch.zeros(1, 3, 8, 8)
    image[..., 4:] = 1.0
    affinity = color_affinity(rgb_to_lab(image))
    right = affinity[0, 4]  # neighbor two cells to the right
    assert right[:, :2].all() and not right[:, 2:4].any() and right[:, 4:6].all()
    assert not right[:, 6:].any(), "no pair reaches beyond the image"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_colors_are_compared_in_full_precision(
    dtype: torch.dtype, generator: torch.Generator
) -> None:
    coarse = torch.rand(1, 3, 8, 8, generator=generator) * 0.2 + 0.4
    images = F.interpolate(coarse, size=(256, 256), mode="bilinear")
    with torch.autocast("cpu", dtype=dtype):
        affinity = image_affinity(images)
    assert torch.equal(affinity, image_affinity(images)) and 0.1 < affinity.mean() < 0.9


def test_lab_is_opencvs() -> None:
    image = np.random.default_rng(0).random((16, 16, 3), dtype=np.float32)
    expected = torch.from_numpy(cv2.cvtColor(image, cv2.COLOR_RGB2Lab)).permute(2, 0, 1)
    lab = rgb_to_lab(torch.from_numpy(image).permute(2, 0, 1)[None])[0]
    assert (lab - expected).abs().max() < 0.4, "OpenCV interpolates a table"


def dense_pairwise_loss(logits: Tensor, affinity: Tensor, boxes: Tensor) -> Tensor:
    """BoxInst's eq. 4 on full maps: logits (T, h, w), affinity (T, 8, h, w), cover (T, h, w)."""
    inside, outside = F.logsigmoid(logits)[:, None], F.logsigmoid(-logits)[:, None]
    same = torch.logaddexp(inside + neighbors(inside)[:, 0], outside + neighbors(outside)[:, 0])
    weight = affinity * (boxes > 0.5).to(logits.dtype)[:, None]
    return -(same * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp(min=1.0)


def test_pairwise_loss_is_the_brute_force(generator: torch.Generator) -> None:
    logits = torch.randn(1, 6, 6, generator=generator)
    affinity = color_affinity(rgb_to_lab(torch.rand(1, 3, 6, 6, generator=generator)) * 0.05)
    p = logits[0].sigmoid()
    total, count = 0.0, 0
    for k, (dy, dx) in enumerate(OFFSETS):
        for y in range(1, 5):
            for x in range(5):
                if affinity[0, k, y, x]:
                    q = p[y + dy, x + dx]
                    total -= math.log(p[y, x] * q + (1 - p[y, x]) * (1 - q))
                    count += 1
    assert count > 20
    box = torch.tensor([[0.0, 4.0, 20.0, 20.0]])
    loss = pairwise_losses(logits, affinity, torch.tensor([0]), box)
    assert loss.item() == pytest.approx(total / count, rel=1e-4)


def random_boxes(count: int, generator: torch.Generator) -> Tensor:
    """Boxes in and beyond a map of 12 x 9 cells; the last ones are empty, tiny and larger."""
    start = torch.rand(count, 2, generator=generator) * 36 - 4
    corners = torch.cat((start, start + torch.rand(count, 2, generator=generator) * 40), 1)
    special = [[5.0, 5.0, 5.0, 5.0], [3.0, 3.0, 4.5, 4.5], [-9.0, -9.0, 99.0, 99.0]]
    return torch.cat((corners, torch.tensor(special)))


@pytest.mark.parametrize("chunk", [2**22, 60])
def test_boxes_give_the_losses_and_gradients_of_full_maps(
    chunk: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CELLS", chunk)
    corners = random_boxes(20, generator)
    logits = 4 * torch.randn(23, 12, 9, generator=generator)
    logits[0] *= 20
    affinity = color_affinity(torch.rand(2, 3, 12, 9, generator=generator) * 2)
    image = torch.arange(23) % 2
    factor = torch.randn(23, generator=generator)
    results = []
    for dense in (True, False):
        leaf = logits.clone().requires_grad_()
        if dense:
            losses = dense_pairwise_loss(leaf, affinity[image], box_cover(corners, (12, 9), 4))
        else:
            losses = pairwise_losses(leaf, affinity, image, corners)
        results.append((losses, torch.autograd.grad((losses * factor).sum(), leaf)[0]))
    (expected, expected_gradient), (losses, gradient) = results
    assert (expected > 0).sum() > 15
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def test_its_gradient_is_the_finite_difference(generator: torch.Generator) -> None:
    logits = torch.randn(2, 5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    affinity = color_affinity(torch.rand(2, 3, 5, 6, generator=generator) * 3).double()
    boxes = torch.tensor([[3.0, 2.0, 21.0, 17.0], [0.0, 0.0, 24.0, 20.0]])
    image = torch.tensor([1, 0])
    assert gradcheck(lambda x: pairwise_losses(x, affinity, image, boxes), (logits,))


def test_no_terms_are_kept_for_the_backward_pass(generator: torch.Generator) -> None:
    logits = torch.randn(11, 12, 9, generator=generator, requires_grad=True)
    affinity = color_affinity(torch.rand(2, 3, 12, 9, generator=generator) * 9)
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: (sizes.append(x.numel()), x)[1], lambda x: x
    ):
        pairwise_losses(logits, affinity, torch.arange(11) % 2, random_boxes(8, generator))
    assert max(sizes) <= max(logits.numel(), affinity.numel())


def test_half_precision_logits_are_compared_in_full(generator: torch.Generator) -> None:
    logits = torch.randn(3, 12, 9, generator=generator).bfloat16()
    affinity = torch.ones(1, 8, 12, 9)
    arguments = torch.zeros(3, dtype=torch.int64), random_boxes(0, generator)
    with torch.autocast("cpu", torch.bfloat16):
        half = pairwise_losses(logits, affinity, *arguments)
    assert torch.equal(half, pairwise_losses(logits.float(), affinity, *arguments))
