import math

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from segkit.errors import InputError
from segkit.model.backbone import Backbone
from segkit.model.box_prompt_encoder import BoxPrompts
from segkit.model.dataseg import DataSeg
from segkit.model.text_classifier import build_classifier
from segkit.recipes.schema import ModelConfig, OptimizerConfig
from segkit.training.optimizer import (
    ModelEma,
    build_optimizer,
    empty_state,
    freeze_backbone,
    load_named_state,
    lr_factor,
    named_state,
    parameter_groups,
    set_lr,
)
from tests.training.stand_in import StandIn

CONFIG = OptimizerConfig(lr=1.0, backbone_lr_factor=0.1, weight_decay=0.05)


def test_each_kind_of_parameter_gets_its_learning_rate_and_decay() -> None:
    model = StandIn()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {
        (group["lr_factor"], group["weight_decay"]): {
            names[id(parameter)] for parameter in group["params"]
        }
        for group in parameter_groups(model, CONFIG)
    }
    assert groups == {
        (0.1, 0.05): {"backbone.0.weight"},
        (0.1, 0.0): {"backbone.0.bias", "backbone.1.weight", "backbone.1.bias"},
        (1.0, 0.05): {"head.weight"},
        (1.0, 0.0): {
            "query.weight",
            "norm.weight",
            "norm.bias",
            "head.bias",
            "background",
            "table",
        },
    }


def test_groups_partition_the_trainable_parameters_of_the_model() -> None:
    model = DataSeg(
        ModelConfig(
            hidden_dim=16, mask_dim=8, queries=4, rounds=1, feedforward_dim=16, freeze_norm=True
        )
    )
    grouped = [
        id(parameter) for group in parameter_groups(model, CONFIG) for parameter in group["params"]
    ]
    trainable = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    assert len(grouped) == len(set(grouped)) and set(grouped) == set(trainable)
    decayed = {
        id(p)
        for group in parameter_groups(model, CONFIG)
        if group["weight_decay"]
        for p in group["params"]
    }
    named = dict(model.named_parameters())
    for name in ("text_classifier.background", "query_content.weight", "query_position.weight"):
        assert id(named[name]) not in decayed
    assert id(named["text_classifier.project.weight"]) in decayed


FROZEN = OptimizerConfig(backbone_lr_factor=0, weight_decay=0.05)
SMALL = ModelConfig(
    backbone="vitdet:test_vit", hidden_dim=16, mask_dim=8, queries=4, heads=2, rounds=1, text_dim=8
)


@pytest.mark.parametrize("layer_decay", [1.0, 0.7])
def test_what_starts_at_random_or_zero_in_a_frozen_backbone_learns_as_the_rest(
    layer_decay: float,
) -> None:
    model = DataSeg(SMALL.model_copy(update={"prompt_maps": True}))
    freeze_backbone(model, FROZEN)
    in_backbone = {
        name
        for name, parameter in model.named_parameters()
        if name.startswith("backbone.") and parameter.requires_grad
    }
    maps = "backbone.network.patch_embed.prompt_weight"
    pyramid = {name for name in in_backbone if name.startswith("backbone.network.pyramid.")}
    assert in_backbone == {maps, *pyramid}
    assert len(pyramid) == len(list(model.backbone.network.pyramid.parameters()))
    config = FROZEN.model_copy(update={"backbone_layer_decay": layer_decay})
    assert {group["lr_factor"] for group in parameter_groups(model, config)} == {1.0}


def prompted_steps(model: DataSeg, optimizer: torch.optim.Optimizer, count: int) -> None:
    """Steps on the masks of one box prompt."""
    prompts = BoxPrompts([torch.tensor([[8.0, 8.0, 40.0, 40.0]])], [torch.tensor([-1])])
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        images, text = torch.rand(1, 3, 64, 64, generator=generator), torch.zeros(1, 8)
        outputs = model(images, text, prompts, learned_queries=False)
        optimizer.zero_grad()
        outputs.box_prompts.mask_logits.square().mean().backward()
        optimizer.step()


def test_a_run_that_froze_all_of_its_backbone_resumes_and_trains_the_prompt_maps() -> None:
    config = SMALL.model_copy(update={"backbone": "test_efficientnet", "prompt_maps": True})
    model = DataSeg(config).eval()
    for parameter in model.backbone.parameters():
        parameter.requires_grad_(False)
    optimizer = build_optimizer(model, FROZEN)
    prompted_steps(model, optimizer, 1)
    state = named_state(model, optimizer)
    assert not any(key.startswith("backbone.") for key in state)

    resumed = DataSeg(config).eval()
    resumed.load_state_dict(model.state_dict())
    freeze_backbone(resumed, FROZEN)
    resumed_optimizer = build_optimizer(resumed, FROZEN)
    loaded = empty_state(resumed, {key: value.shape for key, value in state.items()})
    assert loaded.keys() == state.keys()
    load_named_state(resumed, resumed_optimizer, state)
    prompted_steps(resumed, resumed_optimizer, 2)
    before, after = dict(model.named_parameters()), dict(resumed.named_parameters())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    maps = "backbone.network.conv_stem.prompt_weight"
    assert {name for name in changed if name.startswith("backbone.")} == {maps}
    state = named_state(resumed, resumed_optimizer)
    steps = {name: int(value) for name, value in state.items() if name.endswith("/step")}
    assert steps.pop(f"{maps}/step") == 2 and set(steps.values()) == {3}


def undecayed_names(model: nn.Module) -> set[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [g for g in parameter_groups(model, CONFIG) if not g["weight_decay"]]
    return {names[id(parameter)] for group in groups for parameter in group["params"]}


@pytest.mark.parametrize(
    "backbone",
    [
        "swin_tiny_patch4_window7_224",
        "swinv2_tiny_window8_256",
        "gcvit_xxtiny",
        "tiny_vit_5m_224",
        "efficientformerv2_s0",
        "efficientformer_l1",
        "mvitv2_tiny",
        "hiera_tiny_224",
        "coatnet_pico_rw_224",
    ],
)
def test_what_timm_does_not_decay_is_not_decayed_in_a_feature_network(backbone: str) -> None:
    with torch.device("meta"):
        network = timm.create_model(backbone)
        model = Backbone(backbone)
    declared = {flattened(name) for name in network.no_weight_decay()}
    undecayed = {flattened(name) for name in undecayed_names(model)}
    present = {flattened(name) for name, _ in model.named_parameters()}
    assert declared & present and declared & present <= undecayed
    decayed = {name for name, _ in model.named_parameters()} - undecayed_names(model)
    assert decayed and all(name.endswith("weight") for name in decayed)


def flattened(name: str) -> str:
    """The name of a backbone's parameter, equal in a network and in its feature stages."""
    return name.removeprefix("network.").removeprefix("model.").replace(".", "_")


def test_position_maps_of_the_mask_head_are_not_decayed() -> None:
    model = DataSeg(ModelConfig(hidden_dim=16, mask_dim=8, queries=4, rounds=1))
    head = "box_prompt_encoder.mask_head"
    assert {f"{head}.place", f"{head}.low_place"} <= undecayed_names(model)
    assert f"{head}.enter.weight" not in undecayed_names(model)


def test_learning_rates_decay_down_the_blocks_of_a_vitdet_as_in_timm() -> None:
    vit = timm.create_model("test_vit")  # its classifier learns at the full rate
    theirs = {
        id(parameter): group["lr_scale"]
        for group in param_groups_layer_decay(vit, layer_decay=0.7)
        for parameter in group["params"]
    }
    expected = {name: theirs[id(parameter)] for name, parameter in vit.named_parameters()}
    model = DataSeg(
        ModelConfig(backbone="vitdet:test_vit", hidden_dim=16, mask_dim=8, queries=4, rounds=1)
    )
    config = OptimizerConfig(backbone_lr_factor=0.5, backbone_layer_decay=0.7)
    groups = parameter_groups(model, config)
    factors = {
        id(parameter): group["lr_factor"] for group in groups for parameter in group["params"]
    }
    network = "backbone.network."
    for name, parameter in model.named_parameters():
        if name.startswith(f"{network}pyramid."):
            assert factors[id(parameter)] == 0.5
        elif name.startswith(network):
            timm_name = (
                name.removeprefix(network)
                .replace(".block.", ".")
                .replace("patch_embed.", "patch_embed.proj.")
            )
            assert factors[id(parameter)] == pytest.approx(0.5 * expected[timm_name])
        else:
            assert factors[id(parameter)] == 1.0
    assert len({group["lr_factor"] for group in groups}) == len(vit.blocks) + 3


def test_layer_decay_needs_layers_in_sequence() -> None:
    with pytest.raises(InputError, match="choose a vitdet: backbone"):
        parameter_groups(StandIn(), OptimizerConfig(backbone_layer_decay=0.7))


def test_a_shared_parameter_is_in_one_group_only() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    grouped = [
        id(parameter) for group in parameter_groups(model, CONFIG) for parameter in group["params"]
    ]
    assert len(grouped) == len(set(grouped)) == 3


def test_weight_decay_shrinks_only_weights() -> None:
    model = StandIn()
    optimizer = build_optimizer(model, CONFIG)
    set_lr(optimizer, 0.5)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = dict(model.named_parameters())
    torch.testing.assert_close(after["head.weight"], before["head.weight"] * (1 - 0.5 * 0.05))
    torch.testing.assert_close(
        after["backbone.0.weight"], before["backbone.0.weight"] * (1 - 0.5 * 0.1 * 0.05)
    )
    for name in ("head.bias", "norm.weight", "query.weight", "backbone.1.weight"):
        assert torch.equal(after[name], before[name])


def step_scale(model: nn.Module, optimizer: torch.optim.Optimizer, gradients: list[float]) -> float:
    """The class scale after a step for each gradient of its logarithm."""
    log_scale = model.get_parameter("0.log_scale")
    for gradient in gradients:
        log_scale.grad = torch.tensor([gradient])
        optimizer.step()
    return float(log_scale.detach().exp())


def test_the_class_scale_stops_at_its_limit_and_comes_back() -> None:
    config = OptimizerConfig(lr=0.1)
    model = nn.Sequential(build_classifier(ModelConfig(class_scale=90.0)))
    optimizer = build_optimizer(model, config)
    limited = step_scale(model, optimizer, [-1.0] * 5)
    assert limited == pytest.approx(100, rel=1e-6)
    state = {key: value.clone() for key, value in named_state(model, optimizer).items()}
    resumed = nn.Sequential(build_classifier(ModelConfig()))
    resumed.load_state_dict(model.state_dict())
    resumed_optimizer = build_optimizer(resumed, config)
    load_named_state(resumed, resumed_optimizer, state)
    falling = [2.0] * 10
    scale = step_scale(model, optimizer, falling)
    assert scale < 90
    assert step_scale(resumed, resumed_optimizer, falling) == scale


def test_a_class_scale_that_was_stored_beyond_its_limit_is_clipped() -> None:
    model = nn.Sequential(build_classifier(ModelConfig()))
    nn.init.constant_(model.get_parameter("0.log_scale"), 7.0)
    optimizer = build_optimizer(model, CONFIG)
    assert step_scale(model, optimizer, [0.0]) == pytest.approx(100, rel=1e-6)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    cosine = OptimizerConfig(warmup_steps=4, schedule="cosine")
    factors = [lr_factor(step, 24, cosine) for step in range(25)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[14] == pytest.approx(0.5) and factors[9] == pytest.approx(
        0.5 * (1 + math.cos(math.pi / 4))
    )
    assert factors[24] == pytest.approx(0.0)
    poly = OptimizerConfig(schedule="poly")
    assert [lr_factor(step, 10, poly) for step in (0, 5, 10)] == pytest.approx([1.0, 0.5**0.9, 0.0])


def test_the_average_follows_its_recursion() -> None:
    model = nn.Linear(1, 1)
    average = ModelEma(model, decay=0.5)
    expected, values = 0.0, [3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0, 6.0, 5.0, 3.0]
    for n, value in enumerate(values):
        model.weight.data.fill_(value)
        average.update_parameters(model)
        decay = 0.0 if n == 0 else min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-5)
    assert expected != values[-1]


def test_the_average_without_decay_is_the_last_weight() -> None:
    model = nn.Linear(2, 2)
    average = ModelEma(model, decay=0.0)
    for _ in range(3):
        model.weight.data.normal_()
        average.update_parameters(model)
    assert torch.equal(average.module.weight, model.weight)


def stepped(config: OptimizerConfig) -> tuple[StandIn, torch.optim.AdamW]:
    """A stand-in with an optimizer that has taken a step, but not for `head.bias`."""
    torch.manual_seed(0)
    model = StandIn()
    optimizer = build_optimizer(model, config)
    for name, parameter in model.named_parameters():
        parameter.grad = None if name == "head.bias" else torch.randn_like(parameter)
    optimizer.step()
    return model, optimizer


def test_the_state_by_name_survives_a_change_of_the_groups() -> None:
    model, optimizer = stepped(CONFIG)
    state = named_state(model, optimizer)
    assert "head.weight/exp_avg" in state and not any(key.startswith("head.bias") for key in state)
    regrouped = torch.optim.AdamW(reversed(list(model.parameters())))
    empty = empty_state(model, {key: value.shape for key, value in state.items()})
    assert all((value == 0).all() for value in empty.values())
    load_named_state(model, regrouped, state)
    loaded = named_state(model, regrouped)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_the_state_of_unknown_parameters_is_left_out() -> None:
    model = StandIn()
    sizes = {"head.weight/step": torch.Size(()), "absent/exp_avg": torch.Size((2,))}
    assert list(empty_state(model, sizes)) == ["head.weight/step"]
