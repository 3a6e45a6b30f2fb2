"""Image -> features at strides 4, 8, 16 and 32, from any timm model that offers them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from segkit.errors import InputError, SegkitError

STRIDES = (4, 8, 16, 32)


class Backbone(nn.Module):
    """A timm network cut into its feature stages.

    Args:
        name: timm model name.
        weights: None for random weights, `timm` for timm's pretrained ones, else a safetensors file with timm's names.
        freeze_norm: keep BatchNorm statistics and affine parameters as they were loaded.
        pixel_mean: RGB, of images in 0-1, as the weights were trained.
        pixel_std: likewise.

    Raises:
        InputError: unknown model, a model without strides 4-32, or an unusable weight file.
    """

    def __init__(
        self,
        name: str,
        *,
        weights: str | None = None,
        freeze_norm: bool = False,
        pixel_mean: Sequence[float] = (0.5, 0.5, 0.5),
        pixel_std: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> None:
        super().__init__()
        self.network = _create(name, pretrained=weights == "timm")
        if weights not in (None, "timm"):
            _load(self.network, Path(str(weights)))
        info: Any = self.network.feature_info
        reductions = info.reduction()
        try:
            self.stages = [reductions.index(stride) for stride in STRIDES]
        except ValueError:
            raise InputError(f"backbone {name} has strides {reductions}", mend="choose one with 4, 8, 16, 32") from None
        self.channels = [info.channels()[stage] for stage in self.stages]
        self.freeze_norm = freeze_norm
        if freeze_norm:
            for norm in self._norms():
                norm.requires_grad_(False)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(pixel_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(pixel_std).view(1, 3, 1, 1), persistent=False)

    def _norms(self) -> list[nn.Module]:
        return [module for module in self.network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]

    def train(self, mode: bool = True) -> "Backbone":
        """Training mode, in which frozen norms stay in evaluation mode."""
        super().train(mode)
        if self.freeze_norm:
            for norm in self._norms():
                norm.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of images.

        Args:
            images: (B, 3, H, W), RGB in 0-1, H and W multiples of 32.

        Returns:
            Four maps (B, channels[i], H / STRIDES[i], W / STRIDES[i]).
        """
        features = self.network((images - self.mean) / self.std)
        return [features[stage] for stage in self.stages]


def _create(name: str, *, pretrained: bool) -> nn.Module:
    if not timm.is_model(name):
        raise InputError(f"unknown backbone {name!r}", mend="see timm.list_models()")
    try:
        network: nn.Module = timm.create_model(name, pretrained=pretrained, features_only=True)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise InputError(f"backbone {name} gives no feature maps ({error})") from error
        raise SegkitError(f"the pretrained weights of {name} could not be fetched ({error})") from error
    return network


def _load(network: nn.Module, file: Path) -> None:
    """Load a classifier's weights: what the feature stages lack (its head) is left out, nothing may be missing."""
    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot read backbone weights ({error})", file=file, mend="give a safetensors file"
        ) from error
    try:
        missing = network.load_state_dict(state, strict=False).missing_keys
    except RuntimeError as error:
        raise InputError("weights of another architecture", file=file, mend="set model.backbone to match") from error
    if missing:
        mend = "give weights with timm's parameter names"
        raise InputError(f"{len(missing)} weights missing, first {missing[0]}", file=file, mend=mend)
