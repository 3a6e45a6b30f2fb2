"""Recomputed activations and compiled parts give the losses and gradients of the plain model."""

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
"""And the most that may be kept of what is kept without; batch norms that learn keep all of their
network."""


def make(backbone: str) -> DataSeg:
    torch.manual_seed(0)
    config = ModelConfig(
        backbone=backbone, text_dim=16, hidden_dim=32, mask_dim=16, queries=5, rounds=1, feedforward_dim=64,
        pixel_decoder="deformable", encoder_layers=2, encoder_feedforward_dim=64, freeze_norm=backbone == "resnet18",
    )  # fmt: skip
    return DataSeg(config).train()


def step(model: DataSeg) -> tuple[Tensor, dict[str, Tensor], int]:
    """Loss, gradients, and how many bytes were kept for the backward pass beside the weights."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, 64, 96, generator=generator)
    text = torch.nn.functional.normalize(torch.randn(4, 16, generator=generator), dim=1)
    boxes = [torch.tensor([[4.0, 4.0, 40.0, 30.0]]), torch.zeros(0, 4)]
    held = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        if value.data_ptr() not in held:
            kept[value.data_ptr()] = value.numel() * value.element_size()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        output = model(images, text, BoxPrompts.without_labels(boxes))
        answers = (output.queries, output.box_prompts)
        loss = torch.stack(
            [p.mask_logits.square().mean() + p.class_logits.square().mean() for p in answers]
        ).sum()
    loss.backward()
    gradients = {
        name: value.grad for name, value in model.named_parameters() if value.grad is not None
    }
    return loss.detach(), gradients, sum(kept.values())


def same_step(change: Callable[[DataSeg], None], backbone: str) -> tuple[int, int]:
    """Compare; returns the bytes that both kept."""
    plain = make(backbone)
    changed = copy.deepcopy(plain)
    change(changed)
    (loss, gradients, before), (other, others, after) = step(plain), step(changed)
    torch.testing.assert_close(other, loss)
    assert others.keys() == gradients.keys()
    largest = max(value.abs().max() for value in gradients.values())
    for name, value in gradients.items():
        torch.testing.assert_close(
            others[name], value, rtol=1e-3, atol=1e-4 * float(largest), msg=name
        )
    statistics = dict(plain.named_buffers())
    for name, value in changed.named_buffers():
        torch.testing.assert_close(value, statistics[name], msg=name)
    assert changed.state_dict().keys() == plain.state_dict().keys()
    return before, after


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_recomputed_activations_change_nothing_but_memory(backbone: str) -> None:
    before, after = same_step(DataSeg.recompute_activations, backbone)
    assert after < BACKBONES[backbone] * before


def test_compiled_parts_change_nothing() -> None:
    same_step(lambda model: model.compile_parts(backend="aot_eager"), "resnet18")
