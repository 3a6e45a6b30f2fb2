"""Hugging Face Mask2Former checkpoints: their configuration and weights for a `DataSeg` model."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
from torch import Tensor

from segkit import parse
from segkit.errors import InputError, short
from segkit.hub import CONFIG, WEIGHTS
from segkit.model.dataseg import DataSeg
from segkit.model.hf_names import translate
from segkit.tensor_file import read_tensors

_RESNETS: dict[tuple[str, tuple[int, ...]], str] = {
    ("basic", (2, 2, 2, 2)): "resnet18",
    ("basic", (3, 4, 6, 3)): "resnet34",
    ("bottleneck", (3, 4, 6, 3)): "resnet50",
    ("bottleneck", (3, 4, 23, 3)): "resnet101",
}
"""Layer type and depths -> name in timm."""
_SWINS: dict[tuple[int, tuple[int, ...], int], str] = {
    (96, (2, 2, 6, 2), 7): "swin_tiny_patch4_window7_224",
    (96, (2, 2, 18, 2), 7): "swin_small_patch4_window7_224",
    (128, (2, 2, 18, 2), 7): "swin_base_patch4_window7_224",
    (128, (2, 2, 18, 2), 12): "swin_base_patch4_window12_384",
    (192, (2, 2, 18, 2), 7): "swin_large_patch4_window7_224",
    (192, (2, 2, 18, 2), 12): "swin_large_patch4_window12_384",
}
"""Width, depths and window -> name in timm."""
_REQUIRED = {
    "pre_norm": False,
    "enforce_input_projection": False,
    "activation_function": "relu",
    "common_stride": 4,
}
"""Settings that `DataSeg` has built in; all published checkpoints have them."""
_REQUIRED_OF_BACKBONE: dict[str, dict[str, object]] = {
    "resnet": {
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    },
    "swin": {"hidden_act": "gelu", "layer_norm_eps": 1e-5, "use_absolute_embeddings": False},
}
"""Settings that timm's networks have built in, by the backbone's `model_type`."""
_NOT_IN_CHECKPOINT = (
    "text_classifier.",
    "box_prompt_encoder.",
    "weight_transfer.",
    "foreground_head.",
    ".prompt_weight",
)
"""Parts of the names of weights without a counterpart in Mask2Former, whose linear class head fits
one vocabulary."""
_Width = Annotated[int, msgspec.Meta(ge=1, le=2**14)]
"""A size of a layer; the limit keeps a configuration from claiming all memory."""
_Depth = Annotated[int, msgspec.Meta(ge=1, le=100)]


class _Backbone(msgspec.Struct):
    """The fields of a backbone's configuration that tell its layout; transformers' defaults."""

    model_type: str | None = None
    depths: tuple[int, ...] = ()
    layer_type: str = "bottleneck"
    embed_dim: int = 96
    window_size: int = 7


class _Config(msgspec.Struct):
    """The fields of `config.json` that determine a model."""

    feature_size: _Width
    hidden_dim: _Width
    mask_feature_size: _Width
    num_queries: _Width
    num_attention_heads: _Width
    dim_feedforward: _Width
    encoder_feedforward_dim: _Width
    encoder_layers: _Depth
    decoder_layers: _Depth
    backbone_config: _Backbone | None = None


def load_checkpoint(model: DataSeg, folder: Path) -> None:
    """Load backbone, pixel decoder, transformer decoder, queries and mask head of a checkpoint.

    The text classifier and the box prompt encoder keep their weights.

    Args:
        model: of the checkpoint's architecture, see `read_config`.
        folder: local folder with `config.json` and `model.safetensors`.

    Raises:
        InputError: unreadable weights, a missing or unknown tensor, or one of another shape.
    """
    file = folder / WEIGHTS
    state = translate(read_tensors(file, framework="pt", problem="cannot read weights"))
    shared = {
        name: value
        for name, value in model.state_dict().items()
        if not any(part in name for part in _NOT_IN_CHECKPOINT)
    }
    expected = {name for name in shared if not name.endswith("num_batches_tracked")}
    for problem, names in (
        ("lacks", expected - state.keys()),
        ("has the unknown", state.keys() - expected),
    ):
        if names:
            message = f"the checkpoint {problem} {min(names)} ({len(names)} such)"
            raise InputError(message, file=file)
    for name, value in state.items():
        if value.shape != shared[name].shape:
            shape = tuple(shared[name].shape)
            message = f"{name} has shape {tuple(value.shape)}, the model needs {shape}"
            raise InputError(message, file=file)
    model.load_state_dict(state, strict=False)


def read_class_head(folder: Path) -> tuple[Tensor, Tensor]:
    """Weight (K + 1, H) and bias (K + 1,) of a checkpoint's linear class head, background last.

    Raises:
        InputError: unreadable weights, or none of a class head, or of other shapes.
    """
    names = ("class_predictor.weight", "class_predictor.bias")
    problem = "cannot read the class head"
    head = read_tensors(folder / WEIGHTS, names, framework="pt", problem=problem)
    weight, bias = head.values()
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        shapes = f"weights {tuple(weight.shape)} and biases {tuple(bias.shape)}"
        raise InputError(f"{problem} ({shapes})", file=folder / WEIGHTS)
    return weight.float(), bias.float()


def read_config(folder: Path) -> dict[str, Any]:
    """The keys of `ModelConfig` that a checkpoint's `config.json` determines.

    Raises:
        InputError: not a Mask2Former, or one of a layout that `DataSeg` does not have.
    """
    file = folder / CONFIG
    content = parse.read_json(file, hint=f"give a folder with {CONFIG} and {WEIGHTS}")
    kind = content.get("model_type") if isinstance(content, dict) else None
    if kind != "mask2former":
        raise InputError(f"a {short(kind)} model, not a mask2former", file=file)
    _require(content, _REQUIRED, file)
    if isinstance(backbone := content.get("backbone_config"), dict):
        _require(backbone, _REQUIRED_OF_BACKBONE.get(str(backbone.get("model_type")), {}), file)
    config = parse.convert(content, _Config, file=file, noun="the configuration of a Mask2Former")
    if config.feature_size != config.hidden_dim:
        raise InputError("feature_size and hidden_dim differ, which is not supported", file=file)
    if config.hidden_dim % config.num_attention_heads:
        message = f"hidden_dim {config.hidden_dim} is not divisible by the number of heads"
        raise InputError(message, file=file)
    rounds, rest = divmod(config.decoder_layers - 1, 3)
    if rest or not rounds:
        message = f"{config.decoder_layers} decoder layers are not 1 + 3 for each round"
        raise InputError(message, file=file)
    return {
        "backbone": _backbone(config.backbone_config or _Backbone(), file),
        "hidden_dim": config.hidden_dim,
        "mask_dim": config.mask_feature_size,
        "queries": config.num_queries,
        "rounds": rounds,
        "heads": config.num_attention_heads,
        "feedforward_dim": config.dim_feedforward,
        "pixel_decoder": "deformable",
        "encoder_layers": config.encoder_layers,
        "encoder_feedforward_dim": config.encoder_feedforward_dim,
    }


def _require(content: dict[str, Any], required: dict[str, Any], file: Path) -> None:
    """Raise InputError where a setting differs from a required one; a missing one passes."""
    for key, value in required.items():
        if content.get(key, value) != value:
            message = f"{key} is {short(content[key])}, only {value} is supported"
            raise InputError(message, file=file)


def _backbone(config: _Backbone, file: Path) -> str:
    """The name in timm of a Hugging Face backbone."""
    name = None
    if config.model_type == "resnet":
        name = _RESNETS.get((config.layer_type, config.depths))
    if config.model_type == "swin":
        name = _SWINS.get((config.embed_dim, config.depths, config.window_size))
    if name is None:
        hint = f"known are {', '.join([*_RESNETS.values(), *_SWINS.values()])}"
        message = f"an unknown {config.model_type} backbone of depths {list(config.depths)}"
        raise InputError(message, file=file, hint=hint)
    return name
