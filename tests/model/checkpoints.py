"""Tiny Mask2Formers of random weights, made and saved by transformers' own classes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

transformers = pytest.importorskip(
    "transformers", reason="transformers' Mask2Former is the independent truth here"
)

STAGES = ["stage1", "stage2", "stage3", "stage4"]
BACKBONES: dict[str, Callable[[], Any]] = {
    "resnet18": lambda: transformers.ResNetConfig(
        layer_type="basic",
        depths=[2, 2, 2, 2],
        hidden_sizes=[64, 128, 256, 512],
        out_features=STAGES,
    ),
    "resnet50": lambda: transformers.ResNetConfig(out_features=STAGES),
    "swin_tiny_patch4_window7_224": lambda: transformers.SwinConfig(out_features=STAGES),
}
SQUARE = {"height": 384, "width": 384}
"""How the public checkpoints have images resized."""


def mask2former(backbone: str, labels: Sequence[str] = ()) -> nn.Module:
    """A model of random weights and statistics; `labels` name its classes."""
    torch.manual_seed(0)
    config = transformers.Mask2FormerConfig(
        backbone_config=BACKBONES[backbone](),
        feature_size=64,
        hidden_dim=64,
        mask_feature_size=32,
        encoder_layers=2,
        encoder_feedforward_dim=96,
        decoder_layers=7,
        dim_feedforward=128,
        num_attention_heads=4,
        num_queries=11,
    )
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
    model: nn.Module = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    _move_constants(model)
    return model


@torch.no_grad()
def _move_constants(model: nn.Module) -> None:
    """No tensor stays at a constant that would hide a mistake: norms, biases, offsets and
    statistics move."""
    for name, value in model.named_parameters():
        if value.ndim == 1 or not bool(value.any()):
            value.add_(torch.randn_like(value) * 0.1)
        if "mask_projection" in name:
            value.mul_(10)  # mask logits of about 1
    for name, value in model.named_buffers():
        if "running" in name:
            value.add_(torch.rand_like(value) * 0.2)


@torch.no_grad()
def spread_queries(model: Any, *, logits: float) -> None:
    """Give each query classes and masks of its own, with class logits of this deviation; in a
    random model all queries see the same."""
    decoder = model.model.transformer_module.decoder
    model.model.transformer_module.queries_features.weight.mul_(30)
    for name, value in decoder.named_parameters():
        if "out_proj" in name or "fc2" in name:
            value.mul_(0.3)
    image = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 4 - 2
    mask_head = [part for part in decoder.modules() if isinstance(part, nn.Linear)][-1]
    for linear, deviation in ((mask_head, 3.0), (model.class_predictor, logits)):
        outputs: list[torch.Tensor] = []
        hook = linear.register_forward_hook(lambda *arguments, to=outputs: to.append(arguments[2]))
        model(image)
        hook.remove()
        values = outputs[-1].flatten(0, -2)  # (queries, width)
        scale = deviation / values.std(0).mean()
        linear.bias.sub_(values.mean(0)).mul_(scale)
        linear.weight.mul_(scale)


def save(model: Any, folder: Path, size: dict[str, int] | None = None) -> Path:
    """Save a checkpoint with the image processor of the public ones."""
    model.save_pretrained(folder)
    processor = transformers.Mask2FormerImageProcessor(size=size or SQUARE, ignore_index=255)
    processor.save_pretrained(folder)
    return folder
