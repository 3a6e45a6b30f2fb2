"""A plain vision transformer as a backbone: windowed attention, and a pyramid made of its last map
(ViTDet).

Li et al. 2022, "Exploring Plain Vision Transformer Backbones for Object Detection", arXiv
2203.16527. Left out are the relative positions that the paper adds to attention: they start at
zero, and no timm weights have them.
"""

from timm.layers import LayerNorm2d, resample_abs_pos_embed
from timm.models.swin_transformer import window_partition, window_reverse
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.errors import InputError
from segkit.model.layers import Stack

PREFIX = "vitdet:"
"""Before the name of a timm ViT: that network, as this backbone."""
WINDOW = 14
"""Side of a window, cells of stride 16 (the paper's)."""
GLOBAL_BLOCKS = 4
"""Blocks in which everything attends to everything, spread evenly, the last block being one
(section 3)."""
PYRAMID_DIM = 256
"""Width of the pyramid's maps (the paper's)."""


class ViTDet(nn.Module):
    """Image -> features at strides 4, 8, 16 and 32 of one width.

    Args:
        vit: timm's plain ViT of patch size 16, with its weights; its class token and head are not
            used.

    Raises:
        InputError: another kind of network, or another patch size.
    """

    def __init__(self, vit: nn.Module, *, window: int = WINDOW) -> None:
        super().__init__()
        if not isinstance(vit, VisionTransformer) or not all(
            isinstance(block, Block) for block in vit.blocks
        ):
            raise InputError(f"{PREFIX} takes a plain ViT", hint="choose a vit_*_patch16_* of timm")
        if vit.patch_embed.patch_size != (16, 16):
            raise InputError(
                f"patches of {vit.patch_embed.patch_size[0]} pixels",
                hint="choose a ViT of patch 16",
            )
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
        """Parameters that are never decayed, as timm says it."""
        return {"pos_embed"}

    def layer_depths(self) -> dict[str, int]:
        """How many layers each parameter lies below the pyramid: 0 is the pyramid's own, 1 the last
        block's."""
        depths = {name: len(self.blocks) + 1 for name, _ in self.named_parameters()}
        for number, block in enumerate(self.blocks):
            depths |= {
                f"blocks.{number}.{name}": len(self.blocks) - number
                for name, _ in block.named_parameters()
            }
        return depths | {f"pyramid.{name}": 0 for name, _ in self.pyramid.named_parameters()}

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps (B, 256, H/s, W/s) for s in 4, 8, 16, 32 of normalized images (B, 3, H, W); H and W
        any, times 32."""
        x = self.patch_embed(images).permute(0, 2, 3, 1)
        size = [x.shape[1], x.shape[2]]
        x = x + resample_abs_pos_embed(self.pos_embed, size, list(self.grid), 0).unflatten(1, size)
        x = self.norm_pre(x)
        for number in range(len(self.blocks)):
            x = self.blocks.run(number, x)
        maps: list[Tensor] = self.pyramid(x.permute(0, 3, 1, 2))
        return maps


class MapBlock(nn.Module):
    """A transformer block on a map (B, h, w, C), whose attention stays within windows where a side
    is given.

    Maps that are no multiple of the window are padded with zeros, which are attended to (as
    published).
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
            whole: Tensor = self.block.attn(x.flatten(1, 2))
            return whole.view_as(x)
        height, width = x.shape[1:3]
        side = (self.window, self.window)
        padded = F.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        windows = window_partition(padded, side)
        within = self.block.attn(windows.flatten(1, 2)).view_as(windows)
        attended: Tensor = window_reverse(within, side, padded.shape[1], padded.shape[2])
        return attended[:, :height, :width]


class SimplePyramid(nn.Module):
    """Four maps out of one of stride 16, each by a few layers of its own (the paper's "simple
    feature pyramid").

    Args:
        before: channels of the map.
        after: of each map of the pyramid.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        half, quarter = before // 2, before // 4
        to_stride_4 = [
            _enlarge(before, half),
            LayerNorm2d(half),
            nn.GELU(),
            _enlarge(half, quarter),
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
                ([_enlarge(before, half)], half),
                ([], before),
                ([nn.MaxPool2d(2)], before),
            )
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, before, h, w) -> maps of 4h, 2h, h and h / 2 rows, finest first."""
        return [level(x) for level in self.levels]


def _enlarge(before: int, after: int) -> nn.Module:
    return nn.ConvTranspose2d(before, after, 2, stride=2)


def plain(name: str) -> str:
    """The name in timm of a backbone's network."""
    return name.removeprefix(PREFIX)
