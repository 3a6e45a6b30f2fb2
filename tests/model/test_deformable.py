import pytest
import torch

from segkit.model.dataseg import DataSeg
from segkit.model.deformable import DeformableAttention, reference_points
from segkit.model.pixel_decoder import DeformablePixelDecoder
from segkit.recipes.schema import ModelConfig


def test_heads_start_with_points_around_each_pixel() -> None:
    attention = DeformableAttention(8, heads=4, levels=2, points=3)
    offsets = attention.offsets.bias.view(4, 2, 3, 2)
    directions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    for step in range(3):
        torch.testing.assert_close(offsets[:, 1, step], directions * (step + 1), atol=1e-6, rtol=0)


def test_reference_points_are_x_then_y_row_by_row() -> None:
    centers = reference_points([(1, 2), (2, 2)], torch.device("cpu"), torch.float32)
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
def test_every_weight_but_those_of_box_prompts_has_a_gradient(backbone: str) -> None:
    config = ModelConfig(
        backbone=backbone,
        text_dim=16,
        hidden_dim=32,
        mask_dim=16,
        queries=5,
        rounds=1,
        feedforward_dim=32,
        pixel_decoder="deformable",
        encoder_layers=1,
        encoder_feedforward_dim=32,
    )
    model = DataSeg(config).eval()
    images = torch.rand(2, 3, 64, 96)
    text = torch.nn.functional.normalize(torch.randn(4, 16), dim=1)
    queries = model(images, text).queries
    assert queries.mask_logits.shape == (2, 4, 5, 16, 24)
    (queries.mask_logits.square().mean() + queries.class_logits.square().mean()).backward()
    untrained = [name for name, value in model.named_parameters() if value.grad is None]
    assert all(name.startswith("box_prompt_encoder.") for name in untrained)
