"""Batches: crops of one data set and their targets, and how they leave a worker process."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit.shards.manifest import Task


@dataclass(frozen=True)
class PackedMasks:
    """T masks of H x W pixels, eight pixels in a byte: 100 masks of 1024 x 1024 take 12.5 MiB."""

    bits: Tensor
    """(T, H, ceil(W / 8)) uint8: bit x % 8 of byte x // 8 is pixel x of a row, the lowest first."""
    width: int
    """W."""

    @classmethod
    def from_dense(cls, masks: NDArray[np.bool_] | Tensor) -> "PackedMasks":
        """Pack masks (T, H, W) bool on the CPU."""
        bits = np.packbits(np.asarray(masks), axis=-1, bitorder="little")
        return cls(torch.from_numpy(bits), masks.shape[-1])

    @classmethod
    def zeros(
        cls, count: int, size: Sequence[int], device: torch.device | str = "cpu"
    ) -> "PackedMasks":
        """`count` masks of (height, width) without a pixel, all in one byte: not to be written."""
        height, width = size
        byte = torch.zeros(1, 1, 1, dtype=torch.uint8, device=device)
        return cls(byte.expand(count, height, -(-width // 8)), width)

    @classmethod
    def cat(cls, masks: Sequence["PackedMasks"]) -> "PackedMasks":
        """The masks of several images of one size, in one tensor."""
        assert len({m.width for m in masks}) == 1
        return cls(torch.cat([m.bits for m in masks]), masks[0].width)

    def __len__(self) -> int:
        return len(self.bits)

    def __getitem__(self, rows: Tensor | slice) -> "PackedMasks":
        """Some of the masks: rows (R,) int64 on the same device, or a slice."""
        return PackedMasks(self.bits[rows], self.width)

    def split(self, counts: Sequence[int]) -> list["PackedMasks"]:
        """Inverse of `cat`, in the same memory."""
        return [PackedMasks(bits, self.width) for bits in torch.split(self.bits, list(counts))]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "PackedMasks":
        """The masks on a device."""
        return PackedMasks(self.bits.to(device, non_blocking=non_blocking), self.width)

    def pin_memory(self) -> "PackedMasks":
        """The masks in pinned memory."""
        return PackedMasks(self.bits.pin_memory(), self.width)

    def at(self, rows: Tensor, pixels: Tensor) -> Tensor:
        """Values of masks at pixels: bool, in the shape to which both arguments broadcast.

        Args:
            rows: int64, indices of masks.
            pixels: int64, pixels in row-major order.
        """
        row_bytes = self.bits.shape[-1]
        if 8 * row_bytes == self.width:
            places, bit = pixels >> 3, pixels.to(torch.uint8) & 7
        else:
            x = pixels % self.width
            places, bit = pixels // self.width * row_bytes + (x >> 3), x.to(torch.uint8) & 7
        values = self.bits.flatten(1)[rows, places]
        return (values >> bit & 1).view(torch.bool)

    def dense(self) -> Tensor:
        """The masks, (T, H, W) bool."""
        shifts = torch.arange(8, dtype=torch.uint8, device=self.bits.device)
        pixels = self.bits[..., None] >> shifts & 1  # (T, H, W / 8, 8)
        return pixels.flatten(2)[..., : self.width].bool()


@dataclass(frozen=True)
class Targets:
    """The (mask, class) pairs of one image crop of H x W pixels; T of them, possibly 0."""

    labels: Tensor
    """(T,) int64: index of the class in the data set's taxonomy."""
    is_thing: Tensor
    """(T,) bool."""
    has_mask: Tensor
    """(T,) bool: False where only the box is known; its mask is then False everywhere."""
    masks: PackedMasks
    """T masks of H x W pixels; those of instances may overlap. Without any mask, they take one
    byte."""
    boxes: Tensor
    """(T, 4) float32: x0, y0, x1, y1 in pixels of the crop, clipped to it."""
    is_part: Tensor
    """(T,) bool: a connected part of another target, with a tighter box; only for box prompts,
    never matched to proposals."""
    void: Tensor
    """(H, W) bool: pixels without a usable label (padding, void, crowd, ignore), in no mask."""
    annotated: Tensor | None = None
    """(K,) bool: the classes that were annotated in this image; None means all of the taxonomy."""
    padding: Tensor | None = None
    """(H, W) bool: pixels of the crop beyond the image, all of them void; None means there are
    none."""
    trust: Tensor | None = None
    """(T,) float32 in 0-1: weight of the losses of each mask; those of its box get the rest. 0
    without a mask. None: 1 for every mask."""

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Targets":
        """The same targets with their maps on another device.

        The other fields stay on the CPU: they decide what is computed, and reading them must not
        wait for the device.
        """
        if bool(self.has_mask.any()):
            masks = self.masks.to(device, non_blocking=non_blocking)
        else:
            masks = PackedMasks.zeros(len(self), self.void.shape, device)
        void, padding = self.void.to(device, non_blocking=non_blocking), self.padding
        if padding is not None:
            padding = padding.to(device, non_blocking=non_blocking)
        return replace(self, masks=masks, void=void, padding=padding)


@dataclass(frozen=True)
class Batch:
    """B crops of equal size, all from one data set."""

    images: Tensor
    """(B, 3, H, W) RGB: uint8 from the loader, float32 in 0-1 after `to`."""
    targets: tuple[Targets, ...]
    dataset: str
    """Name of the data set in the mix."""
    task: Task
    sample_ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.targets)

    def padding(self) -> Tensor | None:
        """The pixels of each crop beyond its image, (B, H, W) bool; None where no crop has any."""
        return _stack_padding(self.targets)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """The batch with its maps and its float32 images on a device (see `Targets.to`)."""
        targets = tuple(target.to(device, non_blocking=non_blocking) for target in self.targets)
        images = self.images.to(device, non_blocking=non_blocking)
        if images.dtype == torch.uint8:
            images = images.float().div_(255)
        return replace(self, images=images, targets=targets)


_PER_TARGET = ("labels", "is_thing", "has_mask", "boxes", "is_part")
"""The fields of `Targets` with one entry per target, except for masks and the optional trust."""


@dataclass(frozen=True)
class CollatedBatch:
    """A batch with the targets of all images concatenated.

    A worker process sends few tensors this way; each costs a file descriptor.
    """

    images: Tensor
    """(B, 3, H, W)."""
    counts: list[int]
    """(B,) targets of each image."""
    targets: dict[str, Tensor]
    """Each field with one entry per target, (sum of counts, ...)."""
    masks: PackedMasks
    """M of H x W pixels: those of all targets of the images in which any has one."""
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
            masks=self.masks.pin_memory(),
            void=self.void.pin_memory(),
            padding=None if self.padding is None else self.padding.pin_memory(),
        )


def collate(batch: Batch) -> CollatedBatch:
    """Concatenate the targets of all images."""
    targets = batch.targets
    names = _PER_TARGET if targets[0].trust is None else (*_PER_TARGET, "trust")
    return CollatedBatch(
        images=batch.images,
        counts=[len(target) for target in targets],
        targets={name: torch.cat([getattr(target, name) for target in targets]) for name in names},
        masks=PackedMasks.cat([target.masks[: _masks_sent(target.has_mask)] for target in targets]),
        void=torch.stack([target.void for target in targets]),
        padding=batch.padding(),
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
    pieces = collated.masks.split([_masks_sent(flags) for flags in fields["has_mask"]])
    masks = [
        piece if len(piece) == count else PackedMasks.zeros(count, collated.void.shape[1:])
        for piece, count in zip(pieces, collated.counts, strict=True)
    ]
    targets = tuple(
        Targets(
            **{name: pieces[image] for name, pieces in fields.items()},
            masks=masks[image],
            void=collated.void[image],
            annotated=None if annotated is None else torch.tensor(annotated),
            padding=None if collated.padding is None else collated.padding[image],
        )
        for image, annotated in enumerate(collated.annotated)
    )
    return Batch(collated.images, targets, collated.dataset, collated.task, collated.sample_ids)


def _masks_sent(has_mask: Tensor) -> int:
    """How many masks a worker sends of an image: those of all targets, or none."""
    return len(has_mask) if bool(has_mask.any()) else 0
