"""Collate the targets of a batch: a worker sends few tensors, as each costs a file descriptor."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from segkit.data.batch import Batch, Targets
from segkit.shards.manifest import Task

_PER_TARGET = ("labels", "is_thing", "has_mask", "masks", "boxes", "is_part")
"""The fields of `Targets` with one entry per target."""


@dataclass(frozen=True)
class CollatedBatch:
    """A batch whose images' targets are concatenated."""

    images: Tensor
    """(B, 3, H, W)."""
    counts: list[int]
    """(B,) targets of each image."""
    targets: dict[str, Tensor]
    """Each field with one entry per target, (sum of counts, ...)."""
    void: Tensor
    """(B, H, W)."""
    padding: Tensor | None
    """(B, H, W); None where no image has any."""
    annotated: list[list[bool] | None]
    """(B,) lists of K; None where all classes were annotated."""
    dataset: str
    task: Task
    sample_ids: tuple[str, ...]

    def pin_memory(self) -> "CollatedBatch":
        """The same batch in pinned memory; torch's loader calls it, in a thread."""
        return replace(
            self,
            images=self.images.pin_memory(),
            targets={name: tensor.pin_memory() for name, tensor in self.targets.items()},
            void=self.void.pin_memory(),
            padding=None if self.padding is None else self.padding.pin_memory(),
        )


def collate(batch: Batch) -> CollatedBatch:
    """Concatenate the targets of all images."""
    targets = batch.targets
    return CollatedBatch(
        images=batch.images,
        counts=[len(target) for target in targets],
        targets={
            name: torch.cat([getattr(target, name) for target in targets]) for name in _PER_TARGET
        },
        void=torch.stack([target.void for target in targets]),
        padding=_stack_padding(targets),
        annotated=[
            None if target.annotated is None else target.annotated.tolist() for target in targets
        ],
        dataset=batch.dataset,
        task=batch.task,
        sample_ids=batch.sample_ids,
    )


def _stack_padding(targets: Sequence[Targets]) -> Tensor | None:
    if all(target.padding is None for target in targets):
        return None
    return torch.stack(
        [
            torch.zeros_like(target.void) if target.padding is None else target.padding
            for target in targets
        ]
    )


def uncollate(collated: CollatedBatch) -> Batch:
    """Inverse of `collate`; the targets share the memory of the collated tensors."""
    fields = {
        name: torch.split(tensor, collated.counts) for name, tensor in collated.targets.items()
    }
    targets = tuple(
        Targets(
            **{name: pieces[image] for name, pieces in fields.items()},
            void=collated.void[image],
            annotated=None if annotated is None else torch.tensor(annotated),
            padding=None if collated.padding is None else collated.padding[image],
        )
        for image, annotated in enumerate(collated.annotated)
    )
    return Batch(collated.images, targets, collated.dataset, collated.task, collated.sample_ids)
