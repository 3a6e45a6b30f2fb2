"""Weight names of a Hugging Face Mask2Former -> names in a `DataSeg` model with a timm backbone."""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

_DROPPED = re.compile(
    r"^class_predictor\.|^criterion\.|swin\.layernorm\."
    r"|num_batches_tracked$|relative_position_index$"
)
"""Tensors that `DataSeg` lacks: the class head for one vocabulary, the norm before Swin's own
classifier, and constants."""


def _next_stage(match: re.Match[str]) -> str:
    return f"backbone.network.layers_{int(match[1]) + 1}.downsample."


def _head_layer(match: re.Match[str]) -> str:
    return f"transformer_decoder.mask_head.{2 * int(match[1])}."


_RULES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    # Modules.
    (r"^model\.pixel_level_module\.encoder\.(swin\.)?", "backbone."),
    (r"^model\.pixel_level_module\.decoder\.", "pixel_decoder."),
    (r"^model\.transformer_module\.queries_features\.", "query_content."),
    (r"^model\.transformer_module\.queries_embedder\.", "query_position."),
    (r"^model\.transformer_module\.level_embed\.", "transformer_decoder.level_embed."),
    (r"^model\.transformer_module\.decoder\.", "transformer_decoder."),
    # ResNet.
    (r"^backbone\.embedder\.embedder\.convolution\.", "backbone.network.conv1."),
    (r"^backbone\.embedder\.embedder\.normalization\.", "backbone.network.bn1."),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    (
        r"^backbone\.encoder\.stages\.(\d+)\.layers\.",
        lambda m: f"backbone.network.layer{int(m[1]) + 1}.",
    ),
    (r"\.layer\.(\d+)\.convolution\.", lambda m: f".conv{int(m[1]) + 1}."),
    (r"\.layer\.(\d+)\.normalization\.", lambda m: f".bn{int(m[1]) + 1}."),
    # Swin: timm merges patches at the start of a stage, Hugging Face at the end of the one before.
    (
        r"^backbone\.embeddings\.patch_embeddings\.projection\.",
        "backbone.network.patch_embed.proj.",
    ),
    (r"^backbone\.embeddings\.norm\.", "backbone.network.patch_embed.norm."),
    (r"^backbone\.encoder\.layers\.(\d+)\.downsample\.", _next_stage),
    (r"^backbone\.encoder\.layers\.(\d+)\.", r"backbone.network.layers_\1."),
    (r"^backbone\.hidden_states_norms\.stage(\d)\.", lambda m: f"backbone.norms.{int(m[1]) - 1}."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.self\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    # Pixel decoder.
    (r"^pixel_decoder\.input_projections\.", "pixel_decoder.projections."),
    (r"^pixel_decoder\.level_embed$", "pixel_decoder.level_embed.weight"),
    (r"^pixel_decoder\.mask_projection\.", "pixel_decoder.mask_features."),
    (r"^pixel_decoder\.adapter_1\.", "pixel_decoder.fine_lateral."),
    (r"^pixel_decoder\.layer_1\.", "pixel_decoder.fine_output."),
    (r"^pixel_decoder\.encoder\.", "pixel_decoder."),
    (r"^(pixel_decoder.*)\.self_attn\.sampling_offsets\.", r"\1.attention.offsets."),
    (r"^(pixel_decoder.*)\.self_attn\.attention_weights\.", r"\1.attention.weights."),
    (r"^(pixel_decoder.*)\.self_attn\.(value|output)_proj\.", r"\1.attention.\2."),
    (r"^(pixel_decoder.*)\.self_attn_layer_norm\.", r"\1.attention_norm."),
    # Transformer decoder.
    (r"^transformer_decoder\.layernorm\.", "transformer_decoder.norm."),
    (r"^transformer_decoder\.mask_predictor\.mask_embedder\.(\d)\.0\.", _head_layer),
    (r"\.(self|cross)_attn_layer_norm\.", r".\1_norm."),
    (r"\.(self|cross)_attn\.out_proj\.", r".\1_attention.output."),
    (r"\.self_attn\.q_proj\.", ".self_attention.query."),
    (r"\.self_attn\.k_proj\.", ".self_attention.key."),
    (r"\.self_attn\.v_proj\.", ".self_attention.value."),
    # Layers of both decoders.
    (r"^(pixel_decoder|transformer_decoder)(.*)\.fc1\.", r"\1\2.feedforward.0."),
    (r"^(pixel_decoder|transformer_decoder)(.*)\.fc2\.", r"\1\2.feedforward.2."),
    (r"\.final_layer_norm\.", ".feedforward_norm."),
)
"""Regular expressions and their replacements, applied one after the other."""

_IN_PROJ = re.compile(r"(.*)\.cross_attn\.in_proj_(weight|bias)$")
_QUERY_KEY_VALUE = re.compile(r"(.*\.attn)\.(query|key|value)\.(weight|bias)$")


def translate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that `DataSeg` shares with a Mask2Former, under DataSeg's names.

    Names that no rule matches stay.
    """
    renamed = {_rename(name): value for name, value in state.items() if not _DROPPED.search(name)}
    return _merge_query_key_value(_split_in_proj(renamed))


def _rename(name: str) -> str:
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name


def _split_in_proj(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split torch's joint projection of query, key and value, which `DataSeg` keeps separate."""
    result: dict[str, Tensor] = {}
    for name, value in state.items():
        match = _IN_PROJ.fullmatch(name)
        if match is None:
            result[name] = value
            continue
        for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
            result[f"{match[1]}.cross_attention.{part}.{match[2]}"] = rows
    return result


def _merge_query_key_value(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Merge the projections of query, key and value in Swin, which timm keeps as one matrix."""
    result: dict[str, Tensor] = {}
    for name, value in state.items():
        match = _QUERY_KEY_VALUE.fullmatch(name)
        if match is None:
            result[name] = value
        elif match[2] == "query":
            rows = [state[f"{match[1]}.{part}.{match[3]}"] for part in ("query", "key", "value")]
            result[f"{match[1]}.qkv.{match[3]}"] = torch.cat(rows)
    return result
