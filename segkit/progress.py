"""Protocols of progress: what a long function tells whoever shows how far it is."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Advance(Protocol):
    """Advances the display of a stage."""

    def __call__(self, number: int = 1, /) -> None:
        """Count parts that were just done."""

    def resume(self, number: int, /) -> None:
        """Count parts that an interrupted run had done; they are not part of the rate."""

    def count_boxes(self, number: int, /) -> None:
        """Count boxes of the parts that are counted next, to show their rate as well."""


class Progress(Protocol):
    """Shows the stages."""

    def __call__(
        self, label: str, total: int, unit: str = "images", /
    ) -> AbstractContextManager[Advance]:
        """A context for a stage with a number of parts; yields what advances it."""


class _Silent:
    def __call__(self, number: int = 1, /) -> None:
        pass

    def resume(self, number: int, /) -> None:
        pass

    def count_boxes(self, number: int, /) -> None:
        pass


@contextmanager
def silent(label: str, total: int, unit: str = "images", /) -> Iterator[Advance]:
    """Progress that shows nothing."""
    yield _Silent()
