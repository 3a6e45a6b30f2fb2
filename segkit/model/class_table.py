"""A vocabulary as the model sees it: text embeddings and thing flags, one row a class."""

from dataclasses import dataclass

import torch
from torch import Tensor

from segkit.taxonomy import Taxonomy


@dataclass(frozen=True)
class ClassTable:
    """Rows of the frozen text classifier, in the index order of a taxonomy."""

    text: Tensor
    """(K, D_T) float32, unit rows."""
    is_thing: Tensor
    """(K,) bool."""

    @classmethod
    def of(cls, taxonomy: Taxonomy, text: Tensor) -> "ClassTable":
        """The table of a taxonomy whose embeddings (K, D_T) are given."""
        return cls(text.float(), torch.tensor([category.kind == "thing" for category in taxonomy.categories]))

    def to(self, device: torch.device | str) -> "ClassTable":
        """The same table on another device."""
        return ClassTable(self.text.to(device), self.is_thing.to(device))
