import pytest
import torch

from segkit.model.dataseg import DataSeg
from segkit.model.deformable import DeformableAttention, cell_centers
from segkit.model.deformable_pixel_decoder import DeformablePixelDecoder
from segkit.recipes.schema import ModelConfig


def test_a_head_starts_at_points_around_each_cell() -> None:
    attention = DeformableAttention(8, heads=4, levels=2, points=3)
    offsets = attention.offsets.bias.view(4, 2, 3, 2)
    around = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    for step in range(3):
        torch.testing.assert_close(offsets[:, 1, step], around * (step + 1), atol=1e-6, rtol=0)


def test_centers_are_x_then_y_row_by_row() -> None:
    centers = cell_centers([(1, 2), (2, 2)], torch.device("cpu"), torch.float32)
    assert centers.tolist() == [
        [0.25, 0.5],
        [0.75, 0.5],
        [0.25, 0.25],
        [0.75, 0.25],
        [0.25, 0.75],
        [0.75, 0.75],
    ]


def test_scales_and_pixels_have_the_shapes_of_the_pyramid() -> None:
    decoder = DeformablePixelDecoder(
        (8, 12, 16, 20), hidden_dim=32, mask_dim=6, layers=1, heads=4, feedforward_dim=16
    )
    features = [
        torch.randn(2, width, 96 // stride, 64 // stride)
        for width, stride in zip((8, 12, 16, 20), (4, 8, 16, 32), strict=True)
    ]
    scales, pixels = decoder(features)
    assert [tuple(scale.shape) for scale in scales] == [
        (2, 32, 3, 2),
        (2, 32, 6, 4),
        (2, 32, 12, 8),
    ]
    assert pixels.shape == (2, 6, 24, 16)


@pytest.mark.parametrize("backbone", ["resnet18", "swin_tiny_patch4_window7_224", "convnext_atto"])
def test_every_weight_of_the_matching_path_learns(backbone: str) -> None:
    config = ModelConfig(
        backbone=backbone, text_dim=16, hidden_dim=32, mask_dim=16, queries=5, rounds=1, feedforward_dim=32,
        pixel_decoder="deformable", encoder_layers=1, encoder_feedforward_dim=32,
    )  # fmt: skip
    model = DataSeg(config).eval()
    output = model(
        torch.rand(2, 3, 64, 96), torch.nn.functional.normalize(torch.randn(4, 16), dim=1)
    )
    assert output.queries.mask_logits.shape == (2, 4, 5, 16, 24)
    (
        output.queries.mask_logits.square().mean() + output.queries.class_logits.square().mean()
    ).backward()
    idle = [name for name, value in model.named_parameters() if value.grad is None]
    assert all(name.startswith("box_prompt_encoder.") for name in idle)
