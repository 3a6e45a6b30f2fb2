"""Tiny SAM, SAM 2 and SAM-HQ models of random weights, made and saved by transformers' classes."""

from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip(
    "transformers", reason="transformers' own SAMs are the independent truth here"
)
SIDE = 128
"""Of the images that the tiny models take."""
KINDS = ("sam", "sam2", "samhq")


def build(kind: str, side: int = SIDE) -> tuple[Any, Any]:
    """A model and its processor."""
    torch.manual_seed(0)
    model = {"sam": _sam, "samhq": _samhq, "sam2": _sam2}[kind](side).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim == 1:
                value.add_(torch.randn_like(value) * 0.1)
            elif "positional_embedding" not in name:
                value.normal_(0, 1.5 * value[0].numel() ** -0.5)
            if "iou_prediction_head" in name and name.endswith("proj_out.bias"):
                value.add_(0.6)
    if kind == "sam2":
        images = transformers.Sam2ImageProcessor(size={"height": side, "width": side})
        return model, transformers.Sam2Processor(images)
    images = transformers.SamImageProcessor(
        size={"longest_edge": side}, pad_size={"height": side, "width": side}
    )
    classes = {"sam": transformers.SamProcessor, "samhq": transformers.SamHQProcessor}
    return model, classes[kind](images)


def save(kind: str, folder: Path, side: int = SIDE) -> str:
    """Save a tiny model; returns its source."""
    model, processor = build(kind, side)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return f"{kind}:{folder}"


def _vision(side: int) -> dict[str, Any]:
    return {
        "hidden_size": 24,
        "output_channels": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": side,
        "patch_size": 16,
        "mlp_dim": 48,
        "window_size": 2,
        "global_attn_indexes": [1],
        "num_pos_feats": 16,
    }


def _prompt_and_decoder(side: int) -> dict[str, Any]:
    return {
        "prompt_encoder_config": {
            "hidden_size": 32,
            "image_size": side,
            "patch_size": 16,
            "image_embedding_size": side // 16,
            "mask_input_channels": 4,
        },
        "mask_decoder_config": {
            "hidden_size": 32,
            "mlp_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": 32,
        },
    }


def _sam(side: int) -> Any:
    config = transformers.SamConfig(vision_config=_vision(side), **_prompt_and_decoder(side))
    return transformers.SamModel(config)


def _samhq(side: int) -> Any:
    parts = _prompt_and_decoder(side)
    parts["mask_decoder_config"]["vit_dim"] = 24
    config = transformers.SamHQConfig(vision_config=_vision(side), **parts)
    return transformers.SamHQModel(config)


def sam2_config(side: int, config_class: Any = None) -> Any:
    """The configuration of a tiny SAM 2."""
    hiera = {
        "hidden_size": 16,
        "num_attention_heads": 1,
        "image_size": [side, side],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [16, 32, 64, 128],
        "num_attention_heads_per_stage": [1, 2, 2, 4],
        "window_size_per_stage": [4, 2, 4, 2],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [2, 2],
    }
    vision = {
        "backbone_config": {"model_type": "sam2_hiera_det_model", **hiera},
        "backbone_channel_list": [128, 64, 32, 16],
        "backbone_feature_sizes": [[side // stride] * 2 for stride in (4, 8, 16)],
        "fpn_hidden_size": 32,
    }
    prompt, decoder = _prompt_and_decoder(side).values()
    decoder |= {"dynamic_multimask_via_stability": True}
    return (config_class or transformers.Sam2Config)(
        vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder
    )


def _sam2(side: int) -> Any:
    return transformers.Sam2Model(sam2_config(side))


def save_video_model(folder: Path) -> str:
    """Save a tiny SAM 2 as Meta's public files hold it: as the video model; returns its source."""
    torch.manual_seed(0)
    memory = {
        "memory_attention_hidden_size": 32,
        "memory_attention_num_layers": 1,
        "memory_attention_feed_forward_hidden_size": 32,
        "memory_attention_rope_feat_sizes": [SIDE // 16] * 2,
        "memory_encoder_hidden_size": 32,
        "memory_encoder_output_channels": 16,
        "mask_downsampler_embed_dim": 32,
        "memory_fuser_embed_dim": 32,
        "memory_fuser_intermediate_dim": 32,
    }

    def config_class(**parts: Any) -> Any:
        return transformers.Sam2VideoConfig(**parts, **memory, image_size=SIDE)

    transformers.Sam2VideoModel(sam2_config(SIDE, config_class)).save_pretrained(folder)
    build("sam2")[1].save_pretrained(folder)
    return f"sam2:{folder}"
