"""ViTDet: a plain vision transformer as a backbone, with window attention and a pyramid.

Li et al. 2022, "Exploring Plain Vision Transformer Backbones for Object Detection", arXiv
2203.16527. The relative positions that the paper adds to attention are left out: they start at
zero, and no timm weights include them.
"""

from timm.layers import LayerNorm2d, resample_abs_pos_embed
from timm.models.swin_transformer import window_partition, window_reverse
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.errors import InputError
from segkit.model.layers import Stack

PREFIX = "vitdet:"
"""Prefix of a timm ViT's name in `model.backbone`."""
WINDOW = 14
"""Side of a window, in pixels of stride 16 (the paper's)."""
GLOBAL_BLOCKS = 4
"""Blocks with global attention, evenly spaced, the last block among them (section 3)."""
PYRAMID_DIM = 256
"""Width of the pyramid's maps (the paper's)."""


class ViTDet(nn.Module):
    """Images -> features at strides 4, 8, 16 and 32, all of one width.

    Args:
        vit: a plain timm ViT of patch size 16, with its weights; class token and head are unused.
        window: side of the attention windows, in pixels of stride 16.

    Raises:
        InputError: another kind of network, or another patch size.
    """

    def __init__(self, vit: nn.Module, *, window: int = WINDOW) -> None:
        super().__init__()
        if not isinstance(vit, VisionTransformer) or not all(
            isinstance(block, Block) for block in vit.blocks
        ):
            hint = "choose a vit_*_patch16_* of timm"
            raise InputError(f"{PREFIX} takes a plain ViT", hint=hint)
        if vit.patch_embed.patch_size != (16, 16):
            message = f"patches of {vit.patch_embed.patch_size[0]} pixels"
            raise InputError(message, hint="choose a ViT of patch size 16")
        prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
        self.patch_embed, self.norm_pre = vit.patch_embed.proj, vit.norm_pre
        self.grid = vit.patch_embed.grid_size
        self.pos_embed = nn.Parameter(vit.pos_embed.detach()[:, prefix:].clone())
        depth = len(vit.blocks)
        self.global_blocks = tuple(
            (k + 1) * depth // GLOBAL_BLOCKS - 1 for k in range(GLOBAL_BLOCKS)
        )
        sides = (None if number in self.global_blocks else window for number in range(depth))
        self.blocks = Stack(
            MapBlock(block, side) for block, side in zip(vit.blocks, sides, strict=True)
        )
        self.pyramid = SimplePyramid(vit.embed_dim, PYRAMID_DIM)
        self.channels = [PYRAMID_DIM] * 4

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay, in timm's convention."""
        return {"pos_embed"}

    def added_parameters(self) -> set[str]:
        """Parameters that are trained even if the backbone is frozen: no weights include them."""
        return {f"pyramid.{name}" for name, _ in self.pyramid.named_parameters()}

    def layer_depths(self) -> dict[str, int]:
        """Depth of each parameter below the pyramid: 0 in the pyramid, 1 in the last block."""
        depths = {name: len(self.blocks) + 1 for name, _ in self.named_parameters()}
        for number, block in enumerate(self.blocks):
            depths |= {
                f"blocks.{number}.{name}": len(self.blocks) - number
                for name, _ in block.named_parameters()
            }
        return depths | {f"pyramid.{name}": 0 for name, _ in self.pyramid.named_parameters()}

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the features of images.

        Args:
            images: (B, 3, H, W), normalized; H and W multiples of 32.

        Returns:
            Four maps (B, 256, H/s, W/s) for s in 4, 8, 16, 32.
        """
        x = self.patch_embed(images).permute(0, 2, 3, 1)  # (B, H/16, W/16, C)
        size = [x.shape[1], x.shape[2]]
        x = x + resample_abs_pos_embed(self.pos_embed, size, list(self.grid), 0).unflatten(1, size)
        x = self.norm_pre(x)
        for number in range(len(self.blocks)):
            x = self.blocks.run(number, x)
        maps: list[Tensor] = self.pyramid(x.permute(0, 3, 1, 2))
        return maps


class MapBlock(nn.Module):
    """A transformer block on a map, with window attention if `window` is given.

    A map whose sides are not multiples of the window is padded with zeros, which take part in
    attention (as published).
    """

    def __init__(self, block: Block, window: int | None) -> None:
        super().__init__()
        self.block, self.window = block, window

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, h, w, C)."""
        block = self.block
        x = x + block.drop_path1(block.ls1(self._attend(block.norm1(x))))
        updated: Tensor = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
        return updated

    def _attend(self, x: Tensor) -> Tensor:
        if self.window is None:
            attended: Tensor = self.block.attn(x.flatten(1, 2))
            return attended.view_as(x)
        height, width = x.shape[1:3]
        size = (self.window, self.window)
        padded = F.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        windows = window_partition(padded, size)  # (B * windows, window, window, C)
        windows = self.block.attn(windows.flatten(1, 2)).view_as(windows)
        attended = window_reverse(windows, size, padded.shape[1], padded.shape[2])
        return attended[:, :height, :width]


class SimplePyramid(nn.Module):
    """Four maps computed independently from one map of stride 16 (the "simple feature pyramid").

    Args:
        before: channels of the map.
        after: channels of each map of the pyramid.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        half, quarter = before // 2, before // 4
        to_stride_4 = [
            _upsample(before, half),
            LayerNorm2d(half),
            nn.GELU(),
            _upsample(half, quarter),
        ]
        self.levels = nn.ModuleList(
            nn.Sequential(
                *scale,
                nn.Conv2d(width, after, 1, bias=False),
                LayerNorm2d(after),
                nn.Conv2d(after, after, 3, padding=1, bias=False),
                LayerNorm2d(after),
            )
            for scale, width in (
                (to_stride_4, quarter),
                ([_upsample(before, half)], half),
                ([], before),
                ([nn.MaxPool2d(2)], before),
            )
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, before, h, w) -> maps of height 4h, 2h, h and h / 2."""
        return [level(x) for level in self.levels]


def _upsample(before: int, after: int) -> nn.Module:
    return nn.ConvTranspose2d(before, after, 2, stride=2)


def timm_name(name: str) -> str:
    """The timm name of a backbone, without `vitdet:`."""
    return name.removeprefix(PREFIX)
