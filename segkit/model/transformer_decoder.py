"""Transformer decoder: queries attend to image features within their current masks.

Masked attention is that of Mask2Former (Cheng et al. 2022, section 3.2).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.model.layers import MLP, Stack, position_grid

LEVELS = 3
"""Scales that the layers attend to in turn: strides 32, 16, 8."""
PositionGrid = Callable[[int, int, int, torch.device, torch.dtype], Tensor]
MaskBias = Callable[[Tensor], Tensor]
MaskAddition = Callable[[Tensor], Tensor]


class Attention(nn.Module):
    """Multi-head attention with a boolean mask."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(dim, dim) for _ in range(4))
        for layer in (self.query, self.key, self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, N, dim).
            key: (B, L, dim), with positions.
            value: (B, L, dim), without.
            attn_mask: (B, N, L) bool, True where attention is allowed, at least once in every row;
                None allows all.

        Returns:
            (B, N, dim).
        """
        heads = [
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N or L, dim/head)
            for layer, x in ((self.query, query), (self.key, key), (self.value, value))
        ]
        mask = None if attn_mask is None else attn_mask[:, None]
        attended = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], attn_mask=mask)
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
        attn_mask: Tensor,
        independent: bool,
    ) -> Tensor:
        """Run one layer.

        Args:
            queries, position: (B, N, dim).
            memory: (B, L, dim).
            memory_position: (L, dim).
            attn_mask: (B, N, L) bool, as in `Attention`.
            independent: let each query attend to no other query in self-attention.

        Returns:
            (B, N, dim).
        """
        attended = self.cross_attention(
            queries + position, memory + memory_position, memory, attn_mask
        )
        queries = self.cross_norm(queries + attended)
        if independent:  # softmax over one key is 1: self-attention is its value path
            attended = self.self_attention.output(self.self_attention.value(queries))
        else:
            attended = self.self_attention(queries + position, queries + position, queries)
        queries = self.self_norm(queries + attended)
        updated: Tensor = self.feedforward_norm(queries + self.feedforward(queries))
        return updated


class QueryState(NamedTuple):
    """Queries before the first layer or after one, and what makes their masks."""

    normalized: Tensor
    """(B, N, hidden_dim)."""
    mask_embedding: Tensor
    """(B, N, mask_dim)."""
    mask_bias: Tensor | None
    """(B, N, H/4, W/4), added to the mask logits."""


class TransformerDecoder(nn.Module):
    """3 R decoder layers; a mask embedding of every query before the first and after each.

    Args:
        hidden_dim: width of queries and scales.
        mask_dim: width of mask embeddings and of the per-pixel map F.
        rounds: R; each round visits the three scales, coarse to fine.
        positions: height, width, hidden_dim, device, dtype -> position encoding of a scale's cells,
            (height * width, hidden_dim).
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
        position: Tensor | Callable[[], Tensor],
        scales: Sequence[Tensor],
        pixels: Tensor,
        *,
        mask_bias: MaskBias | None = None,
        mask_addition: MaskAddition | None = None,
        region: Tensor | None = None,
        independent: bool = False,
        aux_outputs: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Decode.

        Args:
            queries: (B, N, hidden_dim), content.
            position: (B, N, hidden_dim), added to queries in attention; a function is called before
                each layer.
            scales: three maps (B, hidden_dim, h, w), coarse to fine.
            pixels: F, (B, mask_dim, H/4, W/4).
            mask_bias: for box prompts: normalized queries (B, N, hidden_dim) -> addition to their
                mask logits, (B, N, H/4, W/4).
            mask_addition: with weight transfer: normalized queries -> addition to their mask
                embeddings, (B, N, mask_dim).
            region: (B, N, H/4, W/4) bool, for box prompts: queries attend only inside their region.
            independent: let each query attend to no other query.
            aux_outputs: return the outputs before the first layer and after each, or only the last.

        Returns:
            Normalized queries (B, L, N, hidden_dim) and mask logits (B, L, N, H/4, W/4); L is 3 R +
            1, or 1.
        """
        memories = [
            scale.flatten(2).transpose(1, 2) + self.level_embed.weight[level]  # (B, h * w, dim)
            for level, scale in enumerate(scales)
        ]
        grids = [
            self.positions(
                scale.shape[2], scale.shape[3], scale.shape[1], scale.device, scale.dtype
            )
            for scale in scales
        ]
        # Resizing and the product with F commute, so attention masks need no mask of full size.
        small_pixels = [_resize(pixels.detach(), scale.shape[-2:]) for scale in scales]
        states = [self._state(queries, mask_bias, mask_addition)]
        for number in range(len(self.layers)):
            level = number % LEVELS
            attn_mask = self._attn_mask(states[-1], small_pixels[level], region)
            at = position if isinstance(position, Tensor) else position()  # (B, N, hidden_dim)
            queries = self.layers.run(
                number, queries, at, memories[level], grids[level], attn_mask, independent
            )
            states.append(self._state(queries, mask_bias, mask_addition))
        if not aux_outputs:
            states = states[-1:]
        normalized = torch.stack([state.normalized for state in states], dim=1)
        embeddings = torch.stack([state.mask_embedding for state in states], dim=1)
        mask_logits = torch.einsum("blnd,bdhw->blnhw", embeddings, pixels)
        biases = [state.mask_bias for state in states if state.mask_bias is not None]
        return normalized, mask_logits + torch.stack(biases, dim=1) if biases else mask_logits

    def _state(
        self, queries: Tensor, mask_bias: MaskBias | None, mask_addition: MaskAddition | None
    ) -> QueryState:
        """Normalize queries (B, N, hidden_dim) and predict their masks."""
        normalized = self.norm(queries)
        embedding = self.mask_head(normalized)
        if mask_addition is not None:
            embedding = embedding + mask_addition(normalized)
        bias = None if mask_bias is None else mask_bias(normalized)
        return QueryState(normalized, embedding, bias)

    @torch.no_grad()
    def _attn_mask(self, state: QueryState, pixels: Tensor, region: Tensor | None) -> Tensor:
        """`attention_mask` of the queries' current masks, given F at the scale's size."""
        mask_logits = torch.einsum("bnd,bdhw->bnhw", state.mask_embedding, pixels)
        if state.mask_bias is not None:
            mask_logits = mask_logits + _resize(state.mask_bias, pixels.shape[-2:])
        return attention_mask(mask_logits, region)


def _resize(maps: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(maps, size=(size[0], size[1]), mode="bilinear", align_corners=False)


@torch.no_grad()
def attention_mask(mask_logits: Tensor, region: Tensor | None) -> Tensor:
    """Cells of a scale that queries may attend to: their current mask.

    A query with an empty mask attends to its region, or to everything.

    Args:
        mask_logits: (B, N, height, width), at the size of the scale.
        region: (B, N, H/4, W/4) bool, or None for the whole image.

    Returns:
        (B, N, height * width) bool, at least one True in a row.
    """
    allowed = mask_logits.flatten(2) >= 0
    if region is not None:
        # Max pooling: a region smaller than a cell of this scale includes the cells it touches.
        size = (mask_logits.shape[2], mask_logits.shape[3])
        inside = F.adaptive_max_pool2d(region.to(mask_logits.dtype), size).flatten(2) > 0
        allowed = allowed & inside
        allowed = torch.where(allowed.any(-1, keepdim=True), allowed, inside)
    return allowed | ~allowed.any(-1, keepdim=True)
