"""The same weights in Hugging Face's Mask2Former and in DataSeg give the same masks."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from segkit.commands.app import app
from segkit.errors import InputError
from segkit.model.dataseg import DataSeg
from segkit.model.hf import load_checkpoint, read_config
from segkit.recipes.schema import ModelConfig, WeightTransferConfig
from segkit.runs.init_from import init_from
from segkit.runs.open_run import load_run
from segkit.text.encoding import Encoding
from tests.model.checkpoints import BACKBONES, mask2former
from tests.training.toy import write_recipe, write_toy_set

SHAPES = [(1, 64, 64), (3, 96, 64), (2, 64, 160)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[nn.Module, Path]]:
    """A Mask2Former of random weights and statistics, and the folder that it is saved to."""
    saved: dict[str, tuple[nn.Module, Path]] = {}

    def build(backbone: str) -> tuple[nn.Module, Path]:
        if backbone not in saved:
            reference = mask2former(backbone)
            folder = tmp_path_factory.mktemp(backbone)
            reference.save_pretrained(folder)
            saved[backbone] = reference, folder
        return saved[backbone]

    return build


def _load(folder: Path) -> DataSeg:
    plain = {"pixel_mean": (0.0, 0.0, 0.0), "pixel_std": (1.0, 1.0, 1.0), "text_dim": 16}
    model = DataSeg(ModelConfig(**read_config(folder), **plain))
    load_checkpoint(model, folder)
    return model.eval()


@torch.no_grad()
def _compare(reference: nn.Module, model: DataSeg, images: Tensor, tolerance: float) -> None:
    expected = reference.model(images, output_hidden_states=True)
    scales, pixels = model.pixel_decoder(model.backbone(images))
    content, position = (
        embedding.weight.expand(len(images), -1, -1)
        for embedding in (model.query_content, model.query_position)
    )
    queries, masks = model.transformer_decoder(content, position, scales, pixels)
    features = [state.transpose(0, 1) for state in expected.transformer_decoder_intermediate_states]
    assert len(features) == len(expected.masks_queries_logits) == 7
    assert all(value.std() > 0.1 for value in (*features, *expected.masks_queries_logits))
    torch.testing.assert_close(
        queries, torch.stack(features, dim=1), rtol=tolerance, atol=tolerance
    )
    torch.testing.assert_close(
        masks, torch.stack(expected.masks_queries_logits, dim=1), rtol=tolerance, atol=tolerance
    )
    output = model(images, torch.eye(16, dtype=images.dtype)[:3])
    assert torch.equal(output.queries.mask_logits, masks)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backbone", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_masks_and_query_features_match_transformers(
    checkpoint: Callable[[str], tuple[nn.Module, Path]], backbone: str, shape: tuple[int, int, int]
) -> None:
    reference, folder = checkpoint(backbone)
    batch, height, width = shape
    images = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(height))
    _compare(reference, _load(folder), images, 1e-4)


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_in_double_precision_only_rounding_differs(
    checkpoint: Callable[[str], tuple[nn.Module, Path]], backbone: str
) -> None:
    reference, folder = checkpoint(backbone)
    images = torch.rand(
        1, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    _compare(copy.deepcopy(reference).double(), _load(folder).double(), images, 1e-8)


def _copy(
    folder: Path, to: Path, *, config: dict[str, Any] | None = None, without: str = ""
) -> str:
    """A checkpoint with another configuration, or without a tensor."""
    original = json.loads((folder / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(original | (config or {})))
    state = load_file(folder / "model.safetensors")
    save_file(
        {name: value for name, value in state.items() if name != without}, to / "model.safetensors"
    )
    return f"hf:{to}"


def test_a_checkpoint_that_does_not_fit_is_refused_with_one_line(
    checkpoint: Callable[[str], tuple[nn.Module, Path]], tmp_path: Path
) -> None:
    folder = checkpoint("resnet18")[1]
    fitting = ModelConfig(**read_config(folder), text_dim=16)
    model = DataSeg(fitting)
    norm = "model.transformer_module.decoder.layernorm.bias"
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"without": norm}, r"lacks transformer_decoder.norm.bias \(1 such\)"),
        (
            {"config": {"num_queries": 9}},
            "and the recipe differ in model.queries; --set model.queries=9",
        ),
        ({"config": {"pre_norm": True}}, "pre_norm is True, only False is supported"),
        ({"config": {"decoder_layers": 6}}, "6 decoder layers"),
        ({"config": {"backbone_config": {"model_type": "resnet"}}}, "an unknown resnet backbone"),
        ({"config": {"model_type": "maskformer"}}, "a maskformer model, not a mask2former"),
    )
    backbone = json.loads((folder / "config.json").read_text())["backbone_config"]
    for key, value in (
        ("hidden_act", "silu"),
        ("downsample_in_first_stage", True),
        ("downsample_in_bottleneck", True),
    ):
        config = {"backbone_config": backbone | {key: value}}
        cases += (({"config": config}, f"{key} is {value}, only .* is supported"),)
    for change, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            init_from(model, _copy(folder, tmp_path, **change), Encoding())
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("key", "value"), [("hidden_act", "relu"), ("layer_norm_eps", 1e-2)])
def test_a_swin_with_other_functions_is_refused(
    checkpoint: Callable[[str], tuple[nn.Module, Path]], tmp_path: Path, key: str, value: Any
) -> None:
    folder = checkpoint("swin_tiny_patch4_window7_224")[1]
    backbone = json.loads((folder / "config.json").read_text())["backbone_config"]
    _copy(folder, tmp_path, config={"backbone_config": backbone | {key: value}})
    with pytest.raises(InputError, match=f"{key} is {value}, only .* is supported"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    "added",
    [
        {"weight_transfer": WeightTransferConfig(input="cls"), "foreground": 4},
        {"prompt_maps": True},
    ],
)
def test_modules_that_a_mask2former_lacks_keep_their_weights(
    checkpoint: Callable[[str], tuple[nn.Module, Path]], added: dict[str, Any]
) -> None:
    folder = checkpoint("resnet18")[1]
    keys = read_config(folder)
    model = DataSeg(ModelConfig(**keys, text_dim=16, **added))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load_checkpoint(model, folder)
    kept = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    fresh = {
        name
        for name in before
        if name.startswith(
            ("text_classifier.", "box_prompt_encoder.", "weight_transfer.", "foreground_head.")
        )
        or name.endswith("prompt_weight")
    }
    assert kept - fresh == {name for name in before if name.endswith("num_batches_tracked")}
    assert fresh <= kept


@pytest.mark.parametrize("backbone", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_the_command_names_the_settings_and_starts_from_the_checkpoint(
    checkpoint: Callable[[str], tuple[nn.Module, Path]], backbone: str, tmp_path: Path
) -> None:
    folder = checkpoint(backbone)[1]
    data, recipe = write_toy_set(tmp_path / "set"), write_recipe(tmp_path / "tiny.toml")
    fixed = ["--set", "optimizer.lr=1e-30", "--steps", "1", "--device", "cpu"]
    if backbone == "resnet18":
        fixed += ["--set", "model.freeze_norm=true"]
    run = [
        "train",
        "--recipe",
        str(recipe),
        "--data",
        str(data.path),
        "--out",
        str(tmp_path / "run"),
        *fixed,
    ]
    command = [*run, "--init-from", f"hf:{folder}"]
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, InputError), refused.output
    named = re.findall(r"--set (\S+)", str(refused.exception))
    assert f"model.backbone={backbone}" in named and "model.pixel_decoder=deformable" in named
    result = CliRunner().invoke(
        app, [*command, *(word for setting in named for word in ("--set", setting))]
    )
    assert result.exit_code == 0, result.output
    trained = load_run(tmp_path / "run").model.state_dict()
    for name, value in _load(folder).state_dict().items():
        if (
            not name.startswith(("text_classifier.", "box_prompt_encoder."))
            and "num_batches" not in name
        ):
            torch.testing.assert_close(trained[name], value, msg=name)
