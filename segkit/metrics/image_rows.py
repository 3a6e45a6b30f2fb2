"""The rows that pixel metrics keep, each with the index of its image."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, Generic, Self, TypeVar

import numpy as np

Rows = TypeVar("Rows", bound=Any)


class RowMetric(Generic[Rows]):
    """Base of the pixel metrics: rows of all images so far, so that any images can be summed.

    Args:
        none: the rows of no image: a dataclass of arrays, of which `image` (N,) is the index of
            each row's image.
    """

    def __init__(self, none: Rows) -> None:
        self.images = 0
        self._batches = [none]

    def add(self, rows: Rows, images: int) -> None:
        """Add the rows of further images, whose indices begin at 0."""
        self._batches.append(replace(rows, image=rows.image + self.images))
        self.images += images

    def merge(self, parts: Sequence[Self]) -> None:
        """Add what other metrics have counted; their images follow those of this one."""
        for part in parts:
            self.add(part.rows, part.images)

    @property
    def rows(self) -> Rows:
        """The rows of all images so far."""
        if len(self._batches) > 1:
            self._batches = [concatenate(self._batches)]
        return self._batches[0]


def concatenate(batches: Sequence[Rows]) -> Rows:
    """The rows of all batches (at least one), each a dataclass of arrays."""
    columns = (
        np.concatenate([getattr(batch, field.name) for batch in batches])
        for field in fields(batches[0])
    )
    rows: Rows = type(batches[0])(*columns)
    return rows
