"""The text classifier: a class is its frozen text embedding; one learned row stands for
background."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkit.taxonomy import Taxonomy


class TextClassifier(nn.Module):
    """Query features -> class logits over any vocabulary (DaTaSeg, "Text classifier").

    Cosine similarities between the projected query and the rows of the table, times one learned
    temperature; the table comes with the call, so a change of vocabulary touches no weight. The
    background row is shared by all data sets. Always in the precision of the weights: half
    precision makes ties of alike classes, and costs here are small.
    """

    MAX_SCALE = 100.0  # CLIP's bound: beyond it the softmax saturates and gradients vanish

    def __init__(self, hidden_dim: int, text_dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(hidden_dim, text_dim)
        self.background = nn.Parameter(torch.randn(text_dim) / math.sqrt(text_dim))
        self.log_scale = nn.Parameter(torch.tensor([math.log(10.0)]))  # FSDP shards no scalars

    def forward(self, queries: Tensor, text: Tensor) -> Tensor:
        """Class logits.

        Args:
            queries: (..., N, hidden_dim).
            text: (K, text_dim) unit rows, one a class.

        Returns:
            (..., N, K + 1); the last column is background.
        """
        with torch.autocast(queries.device.type, enabled=False):
            rows = torch.cat((text, F.normalize(self.background, dim=0)[None]))
            scale = self.log_scale.exp().clamp(max=self.MAX_SCALE)
            return scale * F.normalize(self.project(queries.to(text.dtype)), dim=-1) @ rows.T


@dataclass(frozen=True)
class ClassEmbeddings:
    """Rows of the frozen text classifier, in the index order of a taxonomy."""

    text: Tensor
    """(K, D_T) float32, unit rows."""
    is_thing: Tensor
    """(K,) bool."""

    @classmethod
    def from_taxonomy(cls, taxonomy: Taxonomy, text: Tensor) -> "ClassEmbeddings":
        """The table of a taxonomy whose embeddings (K, D_T) are given."""
        return cls(
            text.float(),
            torch.tensor([category.kind == "thing" for category in taxonomy.categories]),
        )

    def to(self, device: torch.device | str) -> "ClassEmbeddings":
        """The same table on another device."""
        return ClassEmbeddings(self.text.to(device), self.is_thing.to(device))
