"""Generators: class embeddings and noise -> features as the frozen model's queries have them.

Features are standardized (`segkit.zeroshot.second_stage.Scale`) on both sides.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from segkit.model.layers import MLP
from segkit.model.transformer_decoder import Attention

HEADS = 4


class PrimitiveGenerator(nn.Module):
    """Assembles features from learned primitives (PADing, section 3.2).

    Each layer adds noise to the class queries, lets the primitives attend to each other and the
    queries to the primitives.

    Args:
        text_dim: width of class embeddings.
        feature_dim: width of features, a multiple of `HEADS`.
        primitives: number of learned primitives.
        layers: number of layers.
    """

    def __init__(self, text_dim: int, feature_dim: int, primitives: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Linear(text_dim, feature_dim)
        self.primitives = nn.Parameter(torch.randn(primitives, feature_dim))
        self.layers = nn.ModuleList(_PrimitiveLayer(feature_dim) for _ in range(layers))
        self.output = MLP(feature_dim, 2 * feature_dim, feature_dim)

    def noise(self, count: int) -> Tensor:
        """Noise for `count` features: (layers, count, feature_dim)."""
        return torch.randn(len(self.layers), count, self.primitives.shape[1])

    def forward(self, text: Tensor, noise: Tensor | None) -> Tensor:
        """Generate features.

        Args:
            text: (M, text_dim) class embeddings.
            noise: (layers, M, feature_dim), or None for none: equal classes then give equal
                features.

        Returns:
            (M, feature_dim).
        """
        queries = self.embed(text)[None]  # (1, M, feature_dim)
        memory = self.primitives[None]  # (1, P, feature_dim)
        for number, layer in enumerate(self.layers):
            if noise is not None:
                queries = queries + noise[number]
            queries, memory = layer(queries, memory)
        features: Tensor = self.output(queries[0])
        return features


class _PrimitiveLayer(nn.Module):
    """Self-attention of the primitives, cross-attention of the queries, feed-forward."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.self_attention, self.cross_attention = Attention(dim, HEADS), Attention(dim, HEADS)
        self.feedforward = MLP(dim, 2 * dim, dim)
        self.memory_norm, self.cross_norm, self.feedforward_norm = (
            nn.LayerNorm(dim) for _ in range(3)
        )

    def forward(self, queries: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(1, M, dim), (1, P, dim) -> the same shapes."""
        memory = self.memory_norm(memory + self.self_attention(memory, memory, memory))
        queries = self.cross_norm(queries + self.cross_attention(queries, memory, memory))
        queries = self.feedforward_norm(queries + self.feedforward(queries))
        return queries, memory


class MlpGenerator(nn.Module):
    """A plain network on class embedding and noise (GMMN, Li et al. 2015).

    Arguments and results as of `PrimitiveGenerator`; noise enters every layer.
    """

    def __init__(self, text_dim: int, feature_dim: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Linear(text_dim, feature_dim)
        self.layers = nn.ModuleList(nn.Linear(2 * feature_dim, feature_dim) for _ in range(layers))
        self.output = MLP(feature_dim, 2 * feature_dim, feature_dim)

    def noise(self, count: int) -> Tensor:
        """Noise for `count` features: (layers, count, feature_dim)."""
        return torch.randn(len(self.layers), count, self.embed.out_features)

    def forward(self, text: Tensor, noise: Tensor | None) -> Tensor:
        """(M, text_dim) -> (M, feature_dim)."""
        features = self.embed(text)  # (M, feature_dim)
        for number, layer in enumerate(self.layers):
            added = torch.zeros_like(features) if noise is None else noise[number]
            features = layer(torch.cat((features, added), dim=-1)).relu()
        generated: Tensor = self.output(features)
        return generated


class Parts(NamedTuple):
    """The two parts of features, and what is rebuilt from them."""

    related: Tensor
    """(M, text_dim): the part that class embeddings explain."""
    mean: Tensor
    log_variance: Tensor
    """(M, feature_dim): a normal distribution of the other part."""
    rebuilt: Tensor
    """(M, feature_dim), from the related part and a sample of the other."""


class Disentangler(nn.Module):
    """Divides features into a semantic-related and a semantic-unrelated part (section 3.3)."""

    def __init__(self, text_dim: int, feature_dim: int) -> None:
        super().__init__()
        self.related = MLP(feature_dim, feature_dim, text_dim)
        self.unrelated = MLP(feature_dim, feature_dim, 2 * feature_dim)
        self.rebuild = MLP(text_dim + feature_dim, feature_dim, feature_dim)

    def forward(self, features: Tensor) -> Parts:
        """Divide and rebuild features (M, feature_dim)."""
        related = self.related(features)  # (M, text_dim)
        mean, log_variance = self.unrelated(features).chunk(2, dim=-1)  # (M, feature_dim)
        log_variance = log_variance.clamp(-8, 8)
        other = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        rebuilt = self.rebuild(torch.cat((related, other), dim=-1))
        return Parts(related, mean, log_variance, rebuilt)
