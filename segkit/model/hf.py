"""Weights of a Hugging Face Mask2Former, under the names of a `DataSeg` model."""

import json
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from segkit.errors import InputError
from segkit.model.dataseg import DataSeg
from segkit.model.hf_names import translate
from segkit.model.hf_source import CONFIG, WEIGHTS, folder_of
from segkit.recipes.schema import ModelConfig

_RESNETS = {
    ("basic", (2, 2, 2, 2)): "resnet18",
    ("basic", (3, 4, 6, 3)): "resnet34",
    ("bottleneck", (3, 4, 6, 3)): "resnet50",
    ("bottleneck", (3, 4, 23, 3)): "resnet101",
}
_SWINS = {
    (96, (2, 2, 6, 2), 7): "swin_tiny_patch4_window7_224",
    (96, (2, 2, 18, 2), 7): "swin_small_patch4_window7_224",
    (128, (2, 2, 18, 2), 7): "swin_base_patch4_window7_224",
    (128, (2, 2, 18, 2), 12): "swin_base_patch4_window12_384",
    (192, (2, 2, 18, 2), 7): "swin_large_patch4_window7_224",
    (192, (2, 2, 18, 2), 12): "swin_large_patch4_window12_384",
}
_REQUIRED = {
    "pre_norm": False,
    "enforce_input_projection": False,
    "activation_function": "relu",
    "common_stride": 4,
}
"""What a `DataSeg` model has built in (all published checkpoints have it so)."""
_FRESH = ("text_classifier.", "box_prompt_encoder.")
"""Parts that a Mask2Former has none of: text takes the place of its class head."""


def init_from(model: DataSeg, source: str) -> None:
    """Start a model from a Mask2Former: backbone, pixel decoder, query decoder, queries and mask
    head.

    The text classifier and the box conditioner keep the weights they have: a linear class head fits
    one vocabulary.

    Args:
        model: of the checkpoint's architecture.
        source: `hf:` and a local folder with `config.json` and `model.safetensors`, or the name of
            a public model.

    Raises:
        InputError: no such source, a checkpoint that is no Mask2Former of a known layout, or of
            another architecture than the model's; the message names what to set.
        SegkitError: a public model that could not be fetched.
    """
    folder = folder_of(source)
    wanted = read_config(folder)
    refuse_other(model.config, wanted, folder)
    try:
        state = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read weights ({error})", file=folder / WEIGHTS) from error
    load_mask2former(model, state, folder / WEIGHTS)


def load_mask2former(model: DataSeg, state: Mapping[str, Tensor], file: Path | None = None) -> None:
    """Copy a Hugging Face Mask2Former's tensors into a model; every tensor of the shared parts must
    be there.

    Raises InputError for a name that is missing or unknown, or a tensor of another shape.
    """
    named = translate(state)
    own = {name: value for name, value in model.state_dict().items() if not name.startswith(_FRESH)}
    expected = {name for name in own if not name.endswith("num_batches_tracked")}
    for message, names in (
        ("lacks", expected - named.keys()),
        ("has the unknown", named.keys() - expected),
    ):
        if names:
            raise InputError(
                f"the checkpoint {message} {min(names)} ({len(names)} such)", file=file
            )
    for name, value in named.items():
        if value.shape != own[name].shape:
            message = f"{name} is {tuple(value.shape)}, the model's is {tuple(own[name].shape)}"
            raise InputError(message, file=file)
    model.load_state_dict(named, strict=False)


def read_config(folder: Path) -> dict[str, Any]:
    """The keys of `ModelConfig` that a checkpoint decides, from its `config.json`.

    Raises InputError for what is no Mask2Former, or one of a layout that `DataSeg` does not have.
    """
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        hint = f"give a folder with {CONFIG} and {WEIGHTS}"
        raise InputError(
            f"cannot read the configuration ({error})", file=file, hint=hint
        ) from error
    if config.get("model_type") != "mask2former":
        raise InputError(f"a {config.get('model_type')} model, not a mask2former", file=file)
    for key, value in _REQUIRED.items():
        if config.get(key, value) != value:
            raise InputError(f"{key} is {config[key]}, only {value} is supported", file=file)
    if config["feature_size"] != config["hidden_dim"]:
        raise InputError("feature_size and hidden_dim differ, which is not supported", file=file)
    rounds, rest = divmod(config["decoder_layers"] - 1, 3)
    if rest or not rounds:
        raise InputError(
            f"{config['decoder_layers']} decoder layers are not 1 + 3 for each round", file=file
        )
    return {
        "backbone": _backbone(config.get("backbone_config") or {}, file),
        "hidden_dim": config["hidden_dim"],
        "mask_dim": config["mask_feature_size"],
        "queries": config["num_queries"],
        "rounds": rounds,
        "heads": config["num_attention_heads"],
        "feedforward_dim": config["dim_feedforward"],
        "pixel_decoder": "deformable",
        "encoder_layers": config["encoder_layers"],
        "encoder_feedforward_dim": config["encoder_feedforward_dim"],
    }


def _backbone(config: dict[str, Any], file: Path) -> str:
    """Name in timm of a backbone that Hugging Face describes."""
    kind, depths = config.get("model_type"), tuple(config.get("depths", ()))
    name = None
    if kind == "resnet" and not config.get("downsample_in_bottleneck"):
        name = _RESNETS.get((config.get("layer_type", "bottleneck"), depths))
    if kind == "swin":
        name = _SWINS.get((config.get("embed_dim", 96), depths, config.get("window_size", 7)))
    if name is None:
        known = ", ".join([*_RESNETS.values(), *_SWINS.values()])
        raise InputError(
            f"an unknown {kind} backbone of depths {list(depths)}",
            file=file,
            hint=f"known are {known}",
        )
    return name


def refuse_other(config: ModelConfig, wanted: Mapping[str, Any], folder: Path) -> None:
    """Raise InputError where a checkpoint's keys of `ModelConfig` are not a model's; the message
    names what to set."""
    differing = {
        key: value for key, value in wanted.items() if _plain(getattr(config, key)) != _plain(value)
    }
    if differing:
        hint = " ".join(
            f"--set {quote(f'model.{key}={_spelled(value)}')}" for key, value in differing.items()
        )
        keys = ", ".join(f"model.{key}" for key in differing)
        raise InputError(f"the checkpoint and the recipe differ in {keys}", file=folder, hint=hint)


def _spelled(value: Any) -> str:
    """A value as `--set` takes it: TOML, with names as they are."""
    return value if isinstance(value, str) else json.dumps(value)


def _plain(value: Any) -> Any:
    """A backbone's name without the tag of its pretrained weights (resnet50.a1_in1k is a
    resnet50)."""
    return value.partition(".")[0] if isinstance(value, str) else value
