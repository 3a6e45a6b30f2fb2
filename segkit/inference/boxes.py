"""Boxes in, masks out: box-conditioned queries, each on an enlarged crop around its box."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from segkit.data.augment import Crop, square_crop
from segkit.distributed import autocast
from segkit.errors import InputError
from segkit.inference.forward_pass import Image, upload
from segkit.inference.streams import ahead, by_parts, like
from segkit.masks.boxes import pixels_of_box, tight_box
from segkit.model.box_prompt_encoder import BoxPrompts
from segkit.model.dataseg import DataSeg
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.schema import InferenceConfig
from segkit.runs.run import Run
from segkit.sample import Box
from segkit.taxonomy import Category, Taxonomy

FACTOR = 1.6
"""Side of a crop over the longer side of its box, in the middle of what training zooms show (1.2 to
2.5)."""
ENLARGE = 8.0
"""No crop enlarges pixels more than this."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Question:
    """The boxes of one image for which masks are wanted."""

    image: Image
    """(H, W, 3) RGB."""
    boxes: Sequence[Box]
    """Q of them, x, y, width, height in pixels."""
    labels: Sequence[int]
    """(Q,) row of the class table, or -1 where the class of a box is not known."""


@dataclass(frozen=True)
class BoxMask:
    """The answer for one box; what lies outside of the box is not kept, so that thousands fit in
    memory."""

    size: tuple[int, int]
    """Height and width of the image."""
    place: tuple[slice, slice]
    """Rows and columns of the image's pixels that the box touches."""
    inside: Mask
    """The mask of these pixels; may be empty."""
    score: float
    """0-1."""
    class_index: int
    """Row of the class table: the given one, or the model's where none was given (-1 if the table
    has no rows)."""

    @property
    def mask(self) -> Mask:
        """(H, W), False outside the box."""
        whole = np.zeros(self.size, bool)
        whole[self.place] = self.inside
        return whole


@dataclass(frozen=True)
class _BoxCrop:
    size: tuple[int, int]
    """Height and width of the image, which itself is not held."""
    box: Box
    label: int
    crop: Crop
    pixels: Image


def masks_of_boxes(
    model: DataSeg,
    table: ClassEmbeddings,
    questions: Iterable[Question],
    config: InferenceConfig,
    *,
    crop_size: int,
) -> Iterator[list[BoxMask]]:
    """The mask of each box of each image, in order; the mask of one box does not depend on the
    other boxes.

    Crops of all images fill batches together, so that many images with few boxes are as fast as few
    with many.

    Args:
        model: in evaluation mode.
        table: vocabulary of the labels, on the model's device.
        questions: images with their boxes; read a little ahead of what is given back.
        config: batch size and precision.
        crop_size: side of the crops in pixels, a multiple of 32: that of the training crops, in which
            the model has seen objects at this scale.

    Yields:
        A list for each question. Score: mean probability within the mask, times the IoU of the
        mask's own box with the given one (a mask that does not touch the sides of its box is
        doubtful).
    """

    def cut(part: tuple[Image, Box, int]) -> _BoxCrop:
        image, box, label = part
        crop = _crop_around(image.shape[0], image.shape[1], box, crop_size)
        return _BoxCrop((image.shape[0], image.shape[1]), box, label, crop, crop.image(image))

    def answers(parts: Iterable[tuple[Image, Box, int]]) -> Iterator[BoxMask]:
        crops = ahead(cut, parts, waiting=2 * config.batch_size)
        batches = like(crops, lambda one: None, size=config.batch_size, patience=config.batch_size)
        return ahead(_paste, _ask(model, table, batches, config), waiting=2 * config.batch_size)

    def parts(question: Question) -> Sequence[tuple[Image, Box, int]]:
        pairs = zip(question.boxes, question.labels, strict=True)
        return [(question.image, box, label) for box, label in pairs]

    for _, found in by_parts(questions, parts, answers):
        yield found


@torch.no_grad()
def _ask(
    model: DataSeg,
    table: ClassEmbeddings,
    batches: Iterable[list[tuple[int, _BoxCrop]]],
    config: InferenceConfig,
) -> Iterator[tuple[_BoxCrop, Tensor, Tensor]]:
    """Each crop with the class of its box () and its mask logits (h, w), both still on the
    device."""
    device = table.text.device
    for batch in batches:
        crops = [box_crop for _, box_crop in batch]
        images = upload([box_crop.pixels for box_crop in crops], device)
        boxes = torch.tensor(
            [box_crop.crop.box(box_crop.box) for box_crop in crops],
            dtype=torch.float32,
            device=device,
        )
        labels = torch.tensor([box_crop.label for box_crop in crops], device=device)
        with autocast(config.precision, device):
            prompts = BoxPrompts(list(boxes[:, None]), list(labels[:, None]))
            outputs = model(images, table.text, prompts, learned_queries=False, aux_outputs=False)
            answer = outputs.box_prompts
        named = (
            answer.class_logits[:, -1, 0, :-1].argmax(-1)
            if len(table.text)
            else torch.full_like(labels, -1)
        )
        classes = torch.where(labels >= 0, labels, named)
        yield from zip(crops, classes, answer.mask_logits[:, -1, 0].float(), strict=True)


def _crop_around(height: int, width: int, box: Box, crop_size: int) -> Crop:
    """The crop in which a box is segmented: FACTOR times its longer side, no larger than the
    image's."""
    longest = max(box[2], box[3])
    side = max(
        2, round(min(max(longest * FACTOR, crop_size / ENLARGE), max(height, width, longest)))
    )
    x, y = (
        round(start + extent / 2 - side / 2)
        for start, extent in ((box[0], box[2]), (box[1], box[3]))
    )
    return square_crop(height, width, x, y, side, crop_size)


def _paste(asked: tuple[_BoxCrop, Tensor, Tensor]) -> BoxMask:
    """Read the logits of a crop at the pixels of its box."""
    box_crop, index, logits = asked
    place = pixels_of_box(box_crop.box, *box_crop.size)
    probability = _read(logits, box_crop.crop, *place).sigmoid().cpu().numpy()
    inside = probability >= 0.5
    score = float(probability[inside].mean()) * tightness(inside) if inside.any() else 0.0
    return BoxMask(box_crop.size, place, inside, score, int(index))


def _read(logits: Tensor, crop: Crop, rows: slice, columns: slice) -> Tensor:
    """Bilinear values of a crop's logits (h, w) at the centers of image pixels: (rows, columns)."""
    (x, y, width, height), (left, top, content_w, content_h) = crop.source, crop.content
    across = (
        torch.arange(columns.start, columns.stop, device=logits.device) + 0.5 - x
    ) * content_w / width + left
    down = (
        torch.arange(rows.start, rows.stop, device=logits.device) + 0.5 - y
    ) * content_h / height + top
    u, v = across / crop.padded_size[1] * 2 - 1, down / crop.padded_size[0] * 2 - 1
    grid = torch.stack(torch.meshgrid(v, u, indexing="ij")[::-1], dim=-1)[None].to(logits.dtype)
    return F.grid_sample(logits[None, None], grid, align_corners=False, padding_mode="border")[0, 0]


def tightness(mask: Mask) -> float:
    """IoU of the box around a mask with the whole array (h, w): 1 where the mask touches all four
    sides."""
    _, _, width, height = tight_box(mask)
    return width * height / mask.size


def conditioned(
    run: Run, table: ClassEmbeddings, questions: Iterable[Question]
) -> Iterator[list[BoxMask]]:
    """`masks_of_boxes` by a run, as its recipe says."""
    return masks_of_boxes(
        run.model, table, questions, run.recipe.inference, crop_size=run.recipe.data.image_size
    )


def segment_boxes(
    run: Run,
    image: NDArray[np.uint8],
    boxes: Sequence[Box],
    labels: Sequence[str | None] | None = None,
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Masks of given boxes.

    Args:
        run: a trained model, from `segkit.load_run`.
        image: (H, W, 3) uint8 RGB.
        boxes: x, y, width, height in pixels; an array (Q, 4) will do.
        labels: a class name for each box, of any vocabulary that has text embeddings, or None where
            it is not known; None for all where no class is known.

    Returns:
        (Q, H, W) bool, False outside each box, and (Q,) scores in 0-1.

    Raises:
        InputError: an image of another shape or type, a box of no extent or beyond the image,
            labels that are not as many as the boxes, or a name that has no text embedding.
    """
    given = [None] * len(boxes) if labels is None else list(labels)
    _check(image, boxes, given)
    names = sorted({label for label in given if label is not None})
    taxonomy = Taxonomy("asked", tuple(Category(i, name, "thing") for i, name in enumerate(names)))
    rows = [-1 if label is None else names.index(label) for label in given]
    question = Question(np.ascontiguousarray(image), boxes, rows)
    found = next(conditioned(run, run.class_embeddings(taxonomy), [question]))
    masks = (
        np.stack([item.mask for item in found]) if found else np.zeros((0, *image.shape[:2]), bool)
    )
    return masks, np.array([item.score for item in found], np.float32)


def _check(image: NDArray[np.uint8], boxes: Sequence[Box], labels: Sequence[str | None]) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        message = f"an image of shape {image.shape} and type {image.dtype}"
        raise InputError(message, hint="give (height, width, 3) uint8, red first")
    if len(labels) != len(boxes):
        message = f"{len(labels)} labels for {len(boxes)} boxes"
        raise InputError(message, hint="give one a box, None where it is not known")
    for number, box in enumerate(boxes):
        if len(box) != 4 or not np.isfinite(box).all() or min(box[2:]) <= 0:
            hint = "give x, y, width and height in pixels, the sides above 0"
            raise InputError(f"box {number} is {[float(side) for side in box]}", hint=hint)
        rows, columns = pixels_of_box(box, image.shape[0], image.shape[1])
        if rows.start == rows.stop or columns.start == columns.stop:
            height, width = image.shape[:2]
            message = f"box {number} lies beyond the image of {width} x {height} pixels"
            raise InputError(message, hint="give x, y, width and height in pixels of this image")
