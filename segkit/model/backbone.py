"""Backbones: images -> features at strides 4, 8, 16 and 32, from any timm model that has them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from segkit.errors import InputError, SegkitError
from segkit.model.prompt_maps import add_prompt_maps
from segkit.model.swin import ANY_SIZE, SWIN_MODULES, pad_before_shift
from segkit.model.vitdet import PREFIX, ViTDet, timm_name
from segkit.model.weights_file import weights_file
from segkit.tensor_file import read_tensors

STRIDES = (4, 8, 16, 32)
_POSITION_MLPS = ("cpb_mlp.", "rel_pos.mlp.")
"""Parts of the names of MLPs from which timm's networks compute the bias of relative positions."""


class Backbone(nn.Module):
    """The feature stages of a timm network.

    Channels-last networks (Swin) do not normalize the output of a stage; each of their stages gets
    a LayerNorm, as in the published detection and segmentation models.

    Args:
        name: timm model name; `vitdet:` and the name of a plain ViT give a ViTDet.
        weights: None (random), `timm` (timm's pretrained weights) or a safetensors file with timm's
            parameter names.
        freeze_norm: keep BatchNorm statistics and affine parameters as loaded.
        drop_path: rate of stochastic depth at the last block; None takes timm's default.
        pixel_mean: RGB mean of images in 0-1, as the weights were trained.
        pixel_std: RGB standard deviation, likewise.
        prompt_maps: take the maps of `draw_prompt_maps` beside the images.

    Raises:
        InputError: unknown model, a model without strides 4-32, or an unusable weight file.
    """

    def __init__(
        self,
        name: str,
        *,
        weights: str | None = None,
        freeze_norm: bool = False,
        drop_path: float | None = None,
        pixel_mean: Sequence[float] = (0.5, 0.5, 0.5),
        pixel_std: Sequence[float] = (0.5, 0.5, 0.5),
        prompt_maps: bool = False,
    ) -> None:
        super().__init__()
        self.network = _create(name, pretrained=weights == "timm", drop_path=drop_path)
        if weights not in (None, "timm"):
            _load(self.network, weights_file(str(weights)))
        if prompt_maps:
            add_prompt_maps(self.network, name)
        if name.startswith(PREFIX):
            self.network = ViTDet(self.network)
        self.stages, self.channels = _stages(self.network, name)
        channels_last = str(getattr(self.network, "output_fmt", "")).endswith("NHWC")
        self.norms = (
            nn.ModuleList(nn.LayerNorm(width) for width in self.channels) if channels_last else None
        )
        self.freeze_norm = freeze_norm
        if freeze_norm:
            for norm in self._batch_norms():
                norm.requires_grad_(False)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(pixel_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(pixel_std).view(1, 3, 1, 1), persistent=False)

    def _batch_norms(self) -> list[nn.Module]:
        return [
            module
            for module in self.network.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
        ]

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay, in timm's convention, beside those without `weight`.

        timm's networks declare them, but not once they are taken apart into feature stages.
        """
        names = (name for name, _ in self.named_parameters())
        return {name for name in names if any(part in name for part in _POSITION_MLPS)}

    def recompute_activations(self) -> None:
        """Turn on activation checkpointing where the network has it.

        A network with trainable batch norms is left as it is: a second forward pass would count
        each batch twice in their statistics.
        """
        enable = getattr(self.network, "set_grad_checkpointing", None)
        if enable is not None and (self.freeze_norm or not self._batch_norms()):
            enable(True)

    def train(self, mode: bool = True) -> "Backbone":
        """Set training mode; frozen norms stay in evaluation mode."""
        super().train(mode)
        if self.freeze_norm:
            for norm in self._batch_norms():
                norm.eval()
        return self

    def forward(self, images: Tensor, prompt_maps: Tensor | None = None) -> list[Tensor]:
        """Compute the features of images.

        Args:
            images: (B, 3, H, W), RGB in 0-1, H and W multiples of 32.
            prompt_maps: (B, MAPS, H, W), of `draw_prompt_maps`.

        Returns:
            Four maps (B, channels[i], H / STRIDES[i], W / STRIDES[i]).
        """
        x = (images - self.mean) / self.std
        if prompt_maps is not None:
            x = torch.cat((x, prompt_maps), dim=1)
        x = x.contiguous(memory_format=torch.channels_last)  # for faster convolutions
        maps = self.network(x)
        features = [maps[stage] for stage in self.stages]
        if self.norms is None:
            return features
        return [norm(x).permute(0, 3, 1, 2) for norm, x in zip(self.norms, features, strict=True)]


def _stages(network: Any, name: str) -> tuple[list[int], list[int]]:
    """Indices of the maps of `STRIDES` among a network's maps, and their channels."""
    if isinstance(network, ViTDet):
        return list(range(len(STRIDES))), network.channels
    reductions, channels = network.feature_info.reduction(), network.feature_info.channels()
    try:
        stages = [reductions.index(stride) for stride in STRIDES]
    except ValueError:
        hint = f"choose one with 4, 8, 16, 32; for a plain ViT write {PREFIX}NAME"
        raise InputError(f"backbone {name} has strides {reductions}", hint=hint) from None
    return stages, [channels[stage] for stage in stages]


def _create(name: str, *, pretrained: bool, drop_path: float | None) -> nn.Module:
    """The timm network of a backbone, not yet wrapped in a ViTDet."""
    if not timm.is_model(timm_name(name)):
        raise InputError(f"unknown backbone {name!r}", hint="see timm.list_models()")
    arguments: dict[str, Any] = {"features_only": True}
    if name.startswith(PREFIX):
        arguments = {"num_classes": 0}
    elif timm.models.is_model_in_modules(name, SWIN_MODULES):
        arguments |= ANY_SIZE
    if drop_path is not None:
        arguments["drop_path_rate"] = drop_path
    try:
        network: nn.Module = timm.create_model(timm_name(name), pretrained=pretrained, **arguments)
    except TypeError as error:
        if drop_path is None:
            raise
        hint = "leave model.drop_path out"
        raise InputError(f"backbone {name} has no stochastic depth", hint=hint) from error
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise InputError(f"backbone {name} has no feature maps ({error})") from error
        message = f"the pretrained weights of {name} could not be fetched ({error})"
        hint = "offline, give a safetensors file as model.backbone_weights"
        raise SegkitError(message, hint=hint) from error
    pad_before_shift(network)
    return network


def _load(network: nn.Module, file: Path) -> None:
    """Load the weights of a timm classifier, without its head.

    All feature stages must be complete.
    """
    problem, hint = "cannot read backbone weights", "give a safetensors file"
    state = read_tensors(file, framework="pt", problem=problem, hint=hint)
    known = network.state_dict()
    # timm flattens the stages of a feature network: stages.0 becomes stages_0.
    state = {
        name if name in known else name.replace(".", "_", 1): value for name, value in state.items()
    }
    try:
        missing = network.load_state_dict(state, strict=False).missing_keys
    except RuntimeError as error:
        hint = "set model.backbone to match"
        raise InputError("weights of another architecture", file=file, hint=hint) from error
    if missing:
        hint = "give weights with timm's parameter names"
        message = f"{len(missing)} weights missing, first {missing[0]}"
        raise InputError(message, file=file, hint=hint)
