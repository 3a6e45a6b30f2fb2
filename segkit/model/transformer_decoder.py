"""Queries -> mask proposals, by masked attention to the scales (Mask2Former, Cheng et al. 2022,
section 3.2)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.model.layers import MLP, Stack, position_grid

LEVELS = 3
"""Scales that the layers attend to in turn: strides 32, 16, 8."""
PositionGrid = Callable[[int, int, int, torch.device, torch.dtype], Tensor]


class Attention(nn.Module):
    """Multi-head attention of queries to keys, with a boolean mask of what each query may see."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(dim, dim) for _ in range(4))
        for layer in (self.query, self.key, self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None = None
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, N, dim).
            key: (B, L, dim), with positions.
            value: (B, L, dim), without.
            visible: (B, N, L) bool, every row with at least one True; None lets all be seen.

        Returns:
            (B, N, dim).
        """
        split = [
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, query), (self.key, key), (self.value, value))
        ]
        mask = None if visible is None else visible[:, None]
        attended = F.scaled_dot_product_attention(split[0], split[1], split[2], attn_mask=mask)
        merged: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return merged


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward; normalized after each sum."""

    def __init__(self, dim: int, heads: int, feedforward_dim: int) -> None:
        super().__init__()
        self.cross_attention, self.self_attention = Attention(dim, heads), Attention(dim, heads)
        self.feedforward = MLP(dim, feedforward_dim, dim)
        self.cross_norm, self.self_norm, self.feedforward_norm = (
            nn.LayerNorm(dim) for _ in range(3)
        )

    def forward(
        self,
        queries: Tensor,
        position: Tensor,
        memory: Tensor,
        memory_position: Tensor,
        visible: Tensor,
        alone: bool,
    ) -> Tensor:
        """One layer: queries and position (B, N, dim), memory (B, L, dim), visible (B, N, L) bool
        -> (B, N, dim).

        With `alone`, a query sees no other query in self-attention.
        """
        attended = self.cross_attention(
            queries + position, memory + memory_position, memory, visible
        )
        queries = self.cross_norm(queries + attended)
        if alone:  # softmax over one key is 1: self-attention is its value path
            attended = self.self_attention.output(self.self_attention.value(queries))
        else:
            attended = self.self_attention(queries + position, queries + position, queries)
        queries = self.self_norm(queries + attended)
        updated: Tensor = self.feedforward_norm(queries + self.feedforward(queries))
        return updated


class TransformerDecoder(nn.Module):
    """3 R decoder layers; a mask embedding of every query after each, and before the first.

    Args:
        hidden_dim: width of queries and scales.
        mask_dim: width D_F of mask embeddings.
        rounds: R; each round visits the three scales, coarse to fine.
        positions: height, width, hidden_dim, device, dtype -> encoding (height * width, hidden_dim)
            of a scale's cells.
    """

    def __init__(
        self,
        *,
        hidden_dim: int,
        mask_dim: int,
        rounds: int,
        heads: int,
        feedforward_dim: int,
        positions: PositionGrid = position_grid,
    ) -> None:
        super().__init__()
        self.positions = positions
        self.layers = Stack(
            DecoderLayer(hidden_dim, heads, feedforward_dim) for _ in range(rounds * LEVELS)
        )
        self.level_embed = nn.Embedding(LEVELS, hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)
        self.mask_head = MLP(hidden_dim, hidden_dim, hidden_dim, mask_dim)

    def forward(
        self,
        queries: Tensor,
        position: Tensor,
        scales: Sequence[Tensor],
        pixels: Tensor,
        *,
        mask_bias: Callable[[Tensor], Tensor] | None = None,
        region: Tensor | None = None,
        aux_outputs: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Decode.

        Args:
            queries: (B, N, hidden_dim), content.
            position: (B, N, hidden_dim), added wherever attention compares queries.
            scales: three maps (B, hidden_dim, h, w), coarse to fine.
            pixels: F, (B, mask_dim, H/4, W/4).
            mask_bias: for box-conditioned queries: normalized queries (B, N, hidden_dim) -> what is
                added to their mask logits, (B, N, H/4, W/4).
            region: (B, N, H/4, W/4) bool; with it, queries attend inside their region only and see
                no other query.
            aux_outputs: whether to tell what stands at the start and after each layer, or at the
                end alone.

        Returns:
            Normalized queries (B, L, N, hidden_dim) and mask logits (B, L, N, H/4, W/4); L is 3 R +
            1, or 1.
        """
        memories = [
            scale.flatten(2).transpose(1, 2) + self.level_embed.weight[level]
            for level, scale in enumerate(scales)
        ]
        grids = [
            self.positions(
                scale.shape[2], scale.shape[3], scale.shape[1], scale.device, scale.dtype
            )
            for scale in scales
        ]
        # Resizing and the product with F commute: what a layer may see needs no mask of full size.
        small = [_resized(pixels.detach(), scale.shape[-2:]) for scale in scales]
        told = [self._describe(queries, mask_bias)]
        for number in range(len(self.layers)):
            level = number % LEVELS
            visible = self._visible(told[-1], small[level], region)
            alone = region is not None
            queries = self.layers.run(
                number, queries, position, memories[level], grids[level], visible, alone
            )
            told.append(self._describe(queries, mask_bias))
        kept = told if aux_outputs else told[-1:]
        normalized = torch.stack([queries for queries, _, _ in kept], dim=1)
        embeddings = torch.stack([embedding for _, embedding, _ in kept], dim=1)
        mask_logits = torch.einsum("blnd,bdhw->blnhw", embeddings, pixels)
        biases = [bias for _, _, bias in kept if bias is not None]
        return normalized, mask_logits + torch.stack(biases, dim=1) if biases else mask_logits

    def _describe(
        self, queries: Tensor, mask_bias: Callable[[Tensor], Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Normalized queries, their mask embeddings (B, N, mask_dim), and what is added to their
        mask logits."""
        normalized = self.norm(queries)
        return (
            normalized,
            self.mask_head(normalized),
            None if mask_bias is None else mask_bias(normalized),
        )

    @torch.no_grad()
    def _visible(
        self, told: tuple[Tensor, Tensor, Tensor | None], pixels: Tensor, region: Tensor | None
    ) -> Tensor:
        """The cells of a scale that queries may attend to, given F at that scale's size: (B, N, h *
        w) bool."""
        _, embeddings, bias = told
        mask_logits = torch.einsum("bnd,bdhw->bnhw", embeddings, pixels)
        if bias is not None:
            mask_logits = mask_logits + _resized(bias, pixels.shape[-2:])
        return visible_cells(mask_logits, region)


def _resized(maps: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(maps, size=(size[0], size[1]), mode="bilinear", align_corners=False)


@torch.no_grad()
def visible_cells(mask_logits: Tensor, region: Tensor | None) -> Tensor:
    """The cells of a scale that lie in each query's current mask; a query with none sees its
    region, or everything.

    Args:
        mask_logits: (B, N, height, width), at the size of the scale.
        region: (B, N, H/4, W/4) bool, or None for the whole image.

    Returns:
        (B, N, height * width) bool, at least one True in a row.
    """
    visible = mask_logits.flatten(2) >= 0
    if region is not None:
        # Max pooling: a region smaller than a cell of this scale still owns the cells that it
        # touches.
        size = (mask_logits.shape[2], mask_logits.shape[3])
        inside = F.adaptive_max_pool2d(region.to(mask_logits.dtype), size).flatten(2) > 0
        visible = visible & inside
        visible = torch.where(visible.any(-1, keepdim=True), visible, inside)
    return visible | ~visible.any(-1, keepdim=True)
