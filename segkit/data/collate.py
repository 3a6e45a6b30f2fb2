"""Batches on their way: in few tensors, for each one that a worker sends costs a file
descriptor."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from segkit.data.batch import Batch, Targets
from segkit.shards.manifest import Task

_JOINED = ("labels", "is_thing", "has_mask", "masks", "boxes", "is_part")


@dataclass(frozen=True)
class CollatedBatch:
    """A batch whose targets lie one after the other."""

    images: Tensor
    sizes: list[int]
    """Targets of each image."""
    joined: dict[str, Tensor]
    """The fields of all targets that have an entry for each of them."""
    void: Tensor
    """(B, H, W)."""
    padding: Tensor | None
    """(B, H, W); None where no image has any."""
    annotated: list[list[bool] | None]
    dataset: str
    task: Task
    sample_ids: tuple[str, ...]

    def pin_memory(self) -> "CollatedBatch":
        """The same in memory that a GPU copies from by itself; torch's loader calls it, in a
        thread."""
        return replace(
            self,
            images=self.images.pin_memory(),
            joined={name: tensor.pin_memory() for name, tensor in self.joined.items()},
            void=self.void.pin_memory(),
            padding=None if self.padding is None else self.padding.pin_memory(),
        )


def collate(batch: Batch) -> CollatedBatch:
    """Join the targets of all images."""
    targets = batch.targets
    return CollatedBatch(
        images=batch.images,
        sizes=[len(target) for target in targets],
        joined={name: torch.cat([getattr(target, name) for target in targets]) for name in _JOINED},
        void=torch.stack([target.void for target in targets]),
        padding=_padding(targets),
        annotated=[
            None if target.annotated is None else target.annotated.tolist() for target in targets
        ],
        dataset=batch.dataset,
        task=batch.task,
        sample_ids=batch.sample_ids,
    )


def _padding(targets: Sequence[Targets]) -> Tensor | None:
    if all(target.padding is None for target in targets):
        return None
    return torch.stack(
        [torch.zeros_like(t.void) if t.padding is None else t.padding for t in targets]
    )


def uncollate(packed: CollatedBatch) -> Batch:
    """Inverse of `collate`; the targets share the packed tensors' memory."""
    pieces = {name: torch.split(tensor, packed.sizes) for name, tensor in packed.joined.items()}
    targets = tuple(
        Targets(
            **{name: piece[image] for name, piece in pieces.items()},
            void=packed.void[image],
            annotated=None if annotated is None else torch.tensor(annotated),
            padding=None if packed.padding is None else packed.padding[image],
        )
        for image, annotated in enumerate(packed.annotated)
    )
    return Batch(packed.images, targets, packed.dataset, packed.task, packed.sample_ids)
