"""Activation checkpointing and compiled parts leave losses and gradients as they are."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from segkit.model.box_prompt_encoder import BoxPrompts
from segkit.model.dataseg import DataSeg
from segkit.recipes.schema import ModelConfig

BACKBONES = {
    "resnet18": 0.6,
    "convnext_atto": 0.6,
    "vitdet:test_vit": 0.75,
    "mobilenetv2_100": 0.95,
}
"""Backbone -> maximum share of the saved bytes that checkpointing leaves; a network with trainable
batch norms keeps all of its own."""


def build(backbone: str) -> DataSeg:
    torch.manual_seed(0)
    config = ModelConfig(
        backbone=backbone,
        text_dim=16,
        hidden_dim=32,
        mask_dim=16,
        queries=5,
        rounds=1,
        feedforward_dim=64,
        pixel_decoder="deformable",
        encoder_layers=2,
        encoder_feedforward_dim=64,
        freeze_norm=backbone == "resnet18",
    )
    return DataSeg(config).train()


def step(model: DataSeg) -> tuple[Tensor, dict[str, Tensor], int]:
    """Loss, gradients, and the bytes saved for the backward pass beside the weights."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, 64, 96, generator=generator)
    text = torch.nn.functional.normalize(torch.randn(4, 16, generator=generator), dim=1)
    boxes = [torch.tensor([[4.0, 4.0, 40.0, 30.0]]), torch.zeros(0, 4)]
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def save(value: Tensor) -> Tensor:
        if value.data_ptr() not in weights:
            saved[value.data_ptr()] = value.numel() * value.element_size()
        return value

    with torch.autograd.graph.saved_tensors_hooks(save, lambda value: value):
        output = model(images, text, BoxPrompts.without_labels(boxes))
        proposals = (output.queries, output.box_prompts)
        loss = torch.stack(
            [p.mask_logits.square().mean() + p.class_logits.square().mean() for p in proposals]
        ).sum()
    loss.backward()
    gradients = {
        name: value.grad for name, value in model.named_parameters() if value.grad is not None
    }
    return loss.detach(), gradients, sum(saved.values())


def same_step(change: Callable[[DataSeg], None], backbone: str) -> tuple[int, int]:
    """Compare a step of both; returns the bytes that each saved."""
    plain = build(backbone)
    changed = copy.deepcopy(plain)
    change(changed)
    (loss, gradients, before), (changed_loss, changed_gradients, after) = step(plain), step(changed)
    torch.testing.assert_close(changed_loss, loss)
    assert changed_gradients.keys() == gradients.keys()
    largest = max(value.abs().max() for value in gradients.values())
    for name, value in gradients.items():
        torch.testing.assert_close(
            changed_gradients[name], value, rtol=1e-3, atol=1e-4 * float(largest), msg=name
        )
    statistics = dict(plain.named_buffers())
    for name, value in changed.named_buffers():
        torch.testing.assert_close(value, statistics[name], msg=name)
    assert changed.state_dict().keys() == plain.state_dict().keys()
    return before, after


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_activation_checkpointing_changes_only_memory(backbone: str) -> None:
    before, after = same_step(DataSeg.recompute_activations, backbone)
    assert after < BACKBONES[backbone] * before


def test_compiling_parts_changes_no_result() -> None:
    same_step(lambda model: model.compile_parts(backend="aot_eager"), "resnet18")
