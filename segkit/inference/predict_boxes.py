"""Segment box prompts: each box on its own enlarged crop, in batches across images."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.data.augment import CROP_FACTOR, MAX_ZOOM, Crop, square_crop
from segkit.distributed import HostCopy, autocast
from segkit.inference.box_masks import BoxMask, ImagePrompts
from segkit.inference.pipeline import Image, upload
from segkit.inference.streams import batch_by_shape, prefetch, unbatch
from segkit.masks.boxes import clip_box, pixels_of_box
from segkit.model.box_prompt_encoder import BoxPrompts
from segkit.model.dataseg import DataSeg
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.schema import InferenceConfig
from segkit.runs.calibration import Calibration
from segkit.sample import Box

TTA_FACTORS = (1.3, 1.6, 2.0)
"""Crop factors of test-time augmentation."""


class View(NamedTuple):
    """How a box is shown to the model."""

    factor: float
    """Side of the crop over the longer side of the box."""
    mirrored: bool


TTA_VIEWS = tuple(View(factor, flip) for factor in TTA_FACTORS for flip in (False, True))
"""Views of test-time augmentation, whose probabilities are averaged."""


@dataclass(frozen=True)
class _BoxCrop:
    """The crop around one box; the image itself is not held."""

    size: tuple[int, int]
    """Height and width of the image."""
    box: Box
    label: int
    neighbors: Sequence[Box]
    """Boxes of the other objects of the image."""
    crop: Crop
    pixels: Image
    """(crop_size, crop_size, 3)."""


@dataclass(frozen=True)
class _BoxOutput:
    """The model's output for one crop of a batch."""

    box_crop: _BoxCrop
    batch: HostCopy
    """(B,) predicted classes and (B, h, w) float32 mask logits of the full crops."""
    row: int
    """Of the crop in its batch."""

    @property
    def class_index(self) -> int:
        """The class of the prompt or, without one, the predicted one; waits for the device."""
        label = self.box_crop.label
        return label if label >= 0 else int(self.batch.wait()[0][self.row])

    @property
    def mask_logits(self) -> Tensor:
        """(h, w) on the CPU; waits for the device."""
        return self.batch.wait()[1][self.row]


def predict_box_masks(
    model: DataSeg,
    class_embeddings: ClassEmbeddings,
    prompts: Iterable[ImagePrompts],
    config: InferenceConfig,
    *,
    crop_size: int,
    calibration: Calibration | None = None,
    tta: bool = False,
) -> Iterator[list[BoxMask]]:
    """Segment the boxes of a stream of images.

    The mask of a box does not depend on other boxes, except with `model.prompt_maps`.

    Crops of all images share batches, so many images with few boxes are as fast as few with many.

    Args:
        model: in evaluation mode.
        class_embeddings: the classes of the labels, on the model's device.
        prompts: images with their boxes; read slightly ahead of the results.
        config: batch size and precision.
        crop_size: side of the crops in pixels, a multiple of 32: that of the training crops, in
            which the model has seen objects at this scale.
        calibration: of the run; makes each score the IoU to expect.
        tta: average the probabilities of `TTA_VIEWS`, at six times the cost.

    Yields:
        The masks of each image, in order. Score: mean probability within the mask, 0.5 to 1; 0
        where it is empty. `scripts/experiment_calibration.py` compares it with other scores.
    """

    views = TTA_VIEWS if tta else (View(CROP_FACTOR, mirrored=False),)
    size = config.batch_size

    def boxes_of(image: ImagePrompts) -> Sequence[tuple[ImagePrompts, int]]:
        return [(image, row) for row in range(len(image.boxes))]

    def views_of(prompt: tuple[ImagePrompts, int]) -> Sequence[tuple[ImagePrompts, int, View]]:
        return [(*prompt, view) for view in views]

    def load(prompt: tuple[ImagePrompts, int, View]) -> _BoxCrop:
        image, row, view = prompt
        height, width = image.image.shape[:2]
        box, label = image.boxes[row], image.labels[row]
        neighbors = [*image.boxes[:row], *image.boxes[row + 1 :], *image.neighbors]
        crop = crop_around(clip_box(box, height, width), height, width, crop_size, view)
        return _BoxCrop((height, width), box, label, neighbors, crop, crop.image(image.image))

    def run(prompts: Iterable[tuple[ImagePrompts, int, View]]) -> Iterator[_BoxOutput]:
        crops = prefetch(load, prompts, ahead=2 * size)
        batches = batch_by_shape(crops, lambda crop: crop.pixels.shape, size=size, patience=size)
        for batch in batches:
            yield from _run_model(model, class_embeddings, [crop for _, crop in batch], config)

    def predict(boxes: Iterable[tuple[ImagePrompts, int]]) -> Iterator[BoxMask]:
        outputs = (outputs for _, outputs in unbatch(boxes, views_of, run))
        return prefetch(_paste_mask, outputs, ahead=2 * size)

    for image, masks in unbatch(prompts, boxes_of, predict):
        yield masks if calibration is None else _calibrate(masks, image, calibration)


@torch.no_grad()
def _run_model(
    model: DataSeg,
    class_embeddings: ClassEmbeddings,
    box_crops: list[_BoxCrop],
    config: InferenceConfig,
) -> Iterator[_BoxOutput]:
    text, device = class_embeddings.text, class_embeddings.text.device
    images = upload([box_crop.pixels for box_crop in box_crops], device)  # (B, 3, S, S)
    corners = [crop.crop.box(clip_box(crop.box, *crop.size)) for crop in box_crops]
    boxes = torch.tensor(corners, dtype=torch.float32)  # (B, 4); the model moves its prompts
    labels = torch.tensor([box_crop.label for box_crop in box_crops])  # (B,)
    with autocast(config.precision, device):
        prompts = BoxPrompts(list(boxes[:, None]), list(labels[:, None]))
        if model.config.prompt_maps:
            neighbors = [_clipped_boxes(crop.neighbors, crop.crop) for crop in box_crops]
            prompts = replace(prompts, neighbors=neighbors)
        outputs = model(images, text, prompts, learned_queries=False, aux_outputs=False)
        proposals = outputs.box_prompts
    if len(text):
        classes = proposals.class_logits[:, -1, 0, :-1].argmax(-1)  # (B,)
    else:
        classes = labels.new_full(labels.shape, -1, device=device)
    mask_logits = proposals.mask_logits[:, -1, 0].float()  # (B, h, w)
    batch = HostCopy.from_tensors(classes, mask_logits)
    yield from (_BoxOutput(box_crop, batch, row) for row, box_crop in enumerate(box_crops))


def crop_around(box: Box, height: int, width: int, crop_size: int, view: View) -> Crop:
    """The square crop around a box; at most as large as the image's longer side."""
    longest = max(box[2], box[3])
    side = min(max(longest * view.factor, crop_size / MAX_ZOOM), max(height, width, longest))
    side = max(2, round(side))
    x = round(box[0] + box[2] / 2 - side / 2)
    y = round(box[1] + box[3] / 2 - side / 2)
    crop = square_crop(height, width, x, y, side, crop_size)
    return replace(crop, mirrored=True) if view.mirrored else crop


def _clipped_boxes(boxes: Sequence[Box], crop: Crop) -> Tensor:
    """The boxes that reach into a crop, clipped to it as those of training: (M, 4)."""
    corners = torch.tensor([crop.clip(crop.box(box)) for box in boxes]).reshape(-1, 4)
    return corners[(corners[:, 2:] - corners[:, :2]).amin(-1) > 0]


def _paste_mask(views: Sequence[_BoxOutput]) -> BoxMask:
    """Average the probabilities of a box's views at the image's pixels inside the box."""
    box_crop = views[0].box_crop
    rows, columns = place = pixels_of_box(box_crop.box, *box_crop.size)
    maps = [
        _sample_logits(view.mask_logits, view.box_crop.crop, rows, columns).sigmoid()
        for view in views
    ]
    probability = torch.stack(maps).mean(0).numpy()  # (rows, columns)
    inside = probability >= 0.5
    score = float(probability[inside].mean()) if inside.any() else 0.0
    return BoxMask(box_crop.size, place, inside, score, views[0].class_index)


def _calibrate(
    masks: list[BoxMask], image: ImagePrompts, calibration: Calibration
) -> list[BoxMask]:
    areas = np.array([width * height for _, _, width, height in image.boxes])  # (Q,)
    expected = calibration.expected_iou([mask.score for mask in masks], areas)  # (Q,)
    return [
        replace(mask, score=float(iou), raw_score=mask.score)
        for mask, iou in zip(masks, expected, strict=True)
    ]


def _sample_logits(logits: Tensor, crop: Crop, rows: slice, columns: slice) -> Tensor:
    """Sample a crop's logits (h, w) bilinearly at the centers of image pixels: (rows, columns)."""
    x, y, width, height = crop.source
    left, top, content_w, content_h = crop.content
    image_x = torch.arange(columns.start, columns.stop, device=logits.device) + 0.5
    image_y = torch.arange(rows.start, rows.stop, device=logits.device) + 0.5
    crop_x = (image_x - x) * content_w / width
    crop_x = (content_w - crop_x if crop.mirrored else crop_x) + left
    crop_y = (image_y - y) * content_h / height + top
    u = crop_x / crop.padded_size[1] * 2 - 1  # -1 to 1 from edge to edge
    v = crop_y / crop.padded_size[0] * 2 - 1
    grid = torch.stack(torch.meshgrid(v, u, indexing="ij")[::-1], dim=-1)[None]  # (1, r, c, 2)
    sampled = F.grid_sample(
        logits[None, None], grid.to(logits.dtype), align_corners=False, padding_mode="border"
    )
    return sampled[0, 0]
