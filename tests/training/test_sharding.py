import pytest
from torch import nn

from segkit.model.dataseg import DataSeg
from segkit.recipes.load import load_recipe
from segkit.training.sharding import blocks_of


@pytest.mark.parametrize("backbone", ["resnet18", "swin_tiny_patch4_window7_224", "convnext_atto"])
def test_most_weights_are_in_blocks_none_in_two(backbone: str) -> None:
    model = DataSeg(load_recipe("dataseg-mini", [f"model.backbone={backbone}"]).model)
    blocks = list(blocks_of(model))
    weights = [id(parameter) for block in blocks for parameter in block.parameters()]
    assert len(weights) == len(set(weights))
    inside = sum(parameter.numel() for block in blocks for parameter in block.parameters())
    assert inside > 0.6 * sum(parameter.numel() for parameter in model.parameters())
    layers = list(model.transformer_decoder.layers)
    assert [block for block in blocks if any(block is layer for layer in layers)] == layers


def test_lists_in_lists_are_entered_and_single_layers_are_left() -> None:
    block = nn.ModuleDict({"layer": nn.Linear(2, 2)})
    empty = nn.ModuleDict({"layer": nn.ReLU()})
    network = nn.ModuleDict(
        {
            "stem": nn.Sequential(nn.Linear(2, 2)),
            "stages": nn.ModuleList([nn.Sequential(block, empty)]),
        }
    )
    assert list(blocks_of(network)) == [block]
