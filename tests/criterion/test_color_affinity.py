import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from segkit.criterion.color_affinity import color_affinity, image_affinity, rgb_to_lab


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
