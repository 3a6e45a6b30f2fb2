"""The inference loop: load images, batch them by shape, run the model, post-process in order."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit.data.augment import Crop, full_image_crop
from segkit.distributed import autocast
from segkit.inference.dense import dense_masks, penalize_seen_cells
from segkit.inference.head_boxes import with_head_boxes
from segkit.inference.mask2former import mask2former_masks
from segkit.inference.postprocess import LabeledMask, penalize_seen, postprocess
from segkit.inference.streams import batch_by_shape, prefetch, reorder
from segkit.model.cell_classifier import cell_probability
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.schema import InferenceConfig, ModelConfig
from segkit.shards.manifest import Task

Image = NDArray[np.uint8]
Item = TypeVar("Item")
Record = TypeVar("Record")
Result = TypeVar("Result")

_MULTIPLE = 32
"""Sides of padded images are multiples of this, the coarsest stride of a model."""
PATIENCE = 8
"""An image of a rare shape waits for a full batch until this many batches' worth of other images
have been loaded."""


@dataclass(frozen=True)
class ModelInput(Generic[Record]):
    """One image, resized and padded."""

    record: Record
    """What the caller knows of the image, such as its sample."""
    crop: Crop
    """How the image was resized and padded."""
    pixels: Image
    """(h, w, 3) RGB."""


@dataclass(frozen=True)
class ModelOutput(Generic[Record]):
    """The proposals for one image."""

    record: Record
    crop: Crop
    class_logits: Tensor
    """(N, K + 1) float32, background last."""
    mask_logits: Tensor
    """(N, h / 4, w / 4) float32, padding included."""
    cells: Tensor | None = None
    """(K, h / 8, w / 8) class probabilities, padding included; None unless they are read."""
    boxes: Tensor | None = None
    """(F, 4) cx, cy, w, h in 0-1 across the padded image, of the last F proposals; None without
    foreground queries."""

    def of_things(self) -> "ModelOutput[Record]":
        """The proposals that may show things: with foreground queries, only theirs.

        Learned queries are trained to show stuff then, and no set of instances or boxes trains
        them, not even to tell its names from background.
        """
        if self.boxes is None:
            return self
        count = len(self.boxes)
        logits = self.class_logits[-count:], self.mask_logits[-count:]
        return replace(self, class_logits=logits[0], mask_logits=logits[1])


class RunnableModel(Protocol):
    """A `DataSeg`, or a wrapper that runs one."""

    @property
    def config(self) -> ModelConfig:
        """The configuration of the model."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model, see `DataSeg.forward`."""
        ...


Batch = list[tuple[int, ModelInput[Record]]]
"""Images of equal padded size, each with its index in the stream."""


def predict_images(
    model: RunnableModel,
    class_embeddings: ClassEmbeddings,
    images: Iterable[Item],
    read: Callable[[Item], tuple[Record, Image]],
    task: Task,
    config: InferenceConfig,
) -> Iterator[tuple[Record, list[LabeledMask]]]:
    """Predict a stream of images: yield the record of each with its masks, in order.

    Args:
        model: in evaluation mode.
        class_embeddings: K classes, on the model's device.
        images: what `read` takes; the stream is read slightly ahead of the results.
        read: the record of an image and its pixels (H, W, 3) RGB; called in threads.
        task: what to predict.
        config: image size, thresholds, batch size and precision.
    """

    label_masks = mask2former_masks if config.postprocess == "mask2former" else postprocess

    def label(output: ModelOutput[Record]) -> tuple[Record, list[LabeledMask]]:
        if task == "instance":
            output = output.of_things()
        is_thing, is_unseen = class_embeddings.is_thing, class_embeddings.is_unseen
        class_logits = penalize_seen(
            output.class_logits, is_unseen, config.seen_penalty, config.classes
        )
        logits = class_logits, output.mask_logits
        if output.cells is not None:
            cells = penalize_seen_cells(output.cells, is_unseen, config.seen_penalty)
            masks = dense_masks(task, *logits, cells, output.crop, is_thing, config)
        else:
            masks = label_masks(task, *logits, output.crop, is_thing, config)
        if output.boxes is not None and head_boxes:
            masks = with_head_boxes(masks, output.boxes, len(class_logits), output.crop)
        return output.record, masks

    head_boxes = task == "instance" and config.boxes == "head"
    dense = task != "instance" and config.dense > 0
    return infer(model, class_embeddings, images, read, label, config, dense=dense)


def infer(
    model: RunnableModel,
    class_embeddings: ClassEmbeddings,
    images: Iterable[Item],
    read: Callable[[Item], tuple[Record, Image]],
    finish: Callable[[ModelOutput[Record]], Result],
    config: InferenceConfig,
    *,
    dense: bool = False,
) -> Iterator[Result]:
    """Run the model on a stream of images; yield `finish(output)` for each, in order.

    Three stages overlap: threads load the next images, the device runs a batch, threads finish the
    outputs of earlier ones. The batch size bounds the memory, not the number of images.

    Args:
        model: in evaluation mode.
        class_embeddings: K classes, on the model's device.
        images: what `read` takes; iterated in the caller's thread.
        read: the record of an image and its pixels (H, W, 3) RGB; called in threads.
        finish: called in threads, without gradients.
        config: image size, batch size and precision.
        dense: whether the outputs hold the cells' classes.
    """

    def finish_indexed(output: tuple[int, ModelOutput[Record]]) -> tuple[int, Result]:
        return output[0], finish(output[1])

    loader = load_batches(images, read, config)
    outputs = (
        output
        for batch in loader
        for output in run_model(model, class_embeddings, batch, config, dense=dense)
    )
    yield from reorder(prefetch(finish_indexed, outputs, ahead=2 * config.batch_size))


def load_batches(
    images: Iterable[Item], read: Callable[[Item], tuple[Record, Image]], config: InferenceConfig
) -> Iterator[Batch[Record]]:
    """Read and resize images in threads, and batch those of equal padded size.

    So an image is padded as it would be by itself, independent of its batch.
    """

    def load(item: Item) -> ModelInput[Record]:
        record, image = read(item)
        crop = image_crop(image.shape[0], image.shape[1], config)
        return ModelInput(record, crop, crop.image(image))

    size = config.batch_size
    inputs = prefetch(load, images, ahead=2 * size)
    return batch_by_shape(
        inputs, lambda loaded: loaded.crop.padded_size, size=size, patience=PATIENCE * size
    )


@torch.no_grad()
def run_model(
    model: RunnableModel,
    class_embeddings: ClassEmbeddings,
    batch: Batch[Record],
    config: InferenceConfig,
    *,
    dense: bool = False,
) -> Iterator[tuple[int, ModelOutput[Record]]]:
    """Run one batch through the model; yield the index and the output of each image."""
    text, things = class_embeddings.text, class_embeddings.things
    images = upload([loaded.pixels for _, loaded in batch], text.device)  # (B, 3, h, w)
    padding = None
    if model.config.foreground:  # no other query reads it
        padding = _padding([loaded.crop for _, loaded in batch], text.device)
    with autocast(config.precision, text.device):
        outputs = model(
            images, text, things=things, padding=padding, aux_outputs=False, dense=dense
        )
    proposals = outputs.queries
    cells = None if outputs.cells is None else cell_probability(outputs.cells)  # (B, K, h, w)
    for row, (index, loaded) in enumerate(batch):
        class_logits = proposals.class_logits[row, -1].float()  # (N, K + 1)
        mask_logits = proposals.mask_logits[row, -1].float()  # (N, h / 4, w / 4)
        of_image = None if cells is None else cells[row]
        boxes = None if proposals.boxes is None else proposals.boxes[row, -1]  # (F, 4)
        logits = class_logits, mask_logits
        yield index, ModelOutput(loaded.record, loaded.crop, *logits, of_image, boxes)


def upload(images: Sequence[Image], device: torch.device) -> Tensor:
    """Stack images (H, W, 3) of one size as (B, 3, H, W) float32 in 0-1 on a device.

    The transfer does not block.
    """
    return _send(np.stack(images), device).permute(0, 3, 1, 2).float() / 255


def _padding(crops: Sequence[Crop], device: torch.device) -> Tensor | None:
    """The pixels beyond the images, (B, h, w) bool; None where there are none."""
    padding = np.stack([crop.padding() for crop in crops])
    return _send(padding, device) if padding.any() else None


def _send(array: NDArray[Any], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def image_crop(height: int, width: int, config: InferenceConfig) -> Crop:
    """How an image of this size is resized and padded: `image_size`, `resize` and `max_size`."""
    size, max_size = config.image_size, config.max_size
    if config.resize == "fit":
        return full_image_crop(height, width, size=size)
    sides = size, size
    if config.resize == "shorter":
        sides = _shorter_side(height, width, size, max_size)
    padded_h, padded_w = (-(-side // _MULTIPLE) * _MULTIPLE for side in sides)
    return Crop((0, 0, width, height), (0, 0, padded_w, padded_h), (padded_h, padded_w))


def _shorter_side(height: int, width: int, size: int, max_size: int) -> tuple[int, int]:
    """Height and width after resizing, rounded as by transformers' get_size_with_aspect_ratio, but
    to a pixel at least."""
    shorter, longer = min(height, width), max(height, width)
    exact = float(size)
    if longer / shorter * size > max_size:
        exact = max_size * shorter / longer
        size = round(exact)
    if shorter == size:
        return height, width
    short, long = max(1, size), int(exact * longer / shorter)
    return (short, long) if height <= width else (long, short)
