"""The batched forward pass of inference: images in, the proposals of each image finished, in order.

Three stages overlap: threads read and resize, the device proposes, threads finish. Images are
batched with others of the same canvas, so padding, and with it the answer, is what it would be for
an image alone.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit.data.augment import Crop, full_image_crop
from segkit.distributed import autocast
from segkit.inference.streams import ahead, in_order, like
from segkit.model.dataseg import DataSeg
from segkit.recipes.schema import InferenceConfig

Image = NDArray[np.uint8]
Item = TypeVar("Item")
Record = TypeVar("Record")
Result = TypeVar("Result")

PATIENCE = 8
"""Batches' worth of other images after which an image of a rare shape is no longer kept waiting."""


@dataclass(frozen=True)
class Proposed(Generic[Record]):
    """What the model proposes for one image."""

    record: Record
    """What belongs to the image, such as its sample."""
    class_logits: Tensor
    """(N, K + 1) float32, background last."""
    mask_logits: Tensor
    """(N, h, w) float32, of the whole canvas."""
    crop: Crop
    """How the image lies on the canvas."""


@dataclass(frozen=True)
class _Laid(Generic[Record]):
    record: Record
    crop: Crop
    pixels: Image


def propose(
    model: DataSeg,
    text: Tensor,
    items: Iterable[Item],
    read: Callable[[Item], tuple[Record, Image]],
    finish: Callable[[Proposed[Record]], Result],
    config: InferenceConfig,
) -> Iterator[Result]:
    """What `finish` makes of the proposals of each item, in the order of the items.

    Memory is bounded by the batch size, not by the number of items.

    Args:
        model: in evaluation mode.
        text: (K, D_T) of the vocabulary, on the model's device.
        items: what to read; iterated in the caller's thread.
        read: the image (H, W, 3) RGB of an item, and what belongs to it; called in threads.
        finish: called in threads, without gradients.
        config: image size, batch size and precision.
    """

    def lay(item: Item) -> _Laid[Record]:
        record, image = read(item)
        crop = full_image_crop(image.shape[0], image.shape[1], size=config.image_size)
        return _Laid(record, crop, crop.image(image))

    def end(given: tuple[int, Proposed[Record]]) -> tuple[int, Result]:
        return given[0], finish(given[1])

    many = config.batch_size
    laid = ahead(lay, items, waiting=2 * many)
    batches = like(laid, lambda one: one.crop.padded_size, size=many, patience=PATIENCE * many)
    return in_order(ahead(end, _forward(model, text, batches, config), waiting=2 * many))


@torch.no_grad()
def _forward(
    model: DataSeg,
    text: Tensor,
    batches: Iterable[list[tuple[int, _Laid[Record]]]],
    config: InferenceConfig,
) -> Iterator[tuple[int, Proposed[Record]]]:
    for batch in batches:
        images = upload([laid.pixels for _, laid in batch], text.device)
        with autocast(config.precision, text.device):
            found = model(images, text, aux_outputs=False).queries
        for row, (place, laid) in enumerate(batch):
            class_logits, mask_logits = (
                found.class_logits[row, -1].float(),
                found.mask_logits[row, -1].float(),
            )
            yield place, Proposed(laid.record, class_logits, mask_logits, laid.crop)


def upload(images: Sequence[Image], device: torch.device) -> Tensor:
    """Images (H, W, 3) of one size as a batch (B, 3, H, W) float32 in 0-1 on a device; the copy
    does not block."""
    stacked = torch.from_numpy(np.stack(images))
    if device.type == "cuda":
        stacked = stacked.pin_memory().to(device, non_blocking=True)
    return stacked.permute(0, 3, 1, 2).float() / 255
