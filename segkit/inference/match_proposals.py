"""Match the proposals of a model to boxes, by class and overlap."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from segkit.data.augment import Crop
from segkit.inference.box_masks import BoxMask
from segkit.inference.upscale import bands, to_image
from segkit.masks.boxes import box_of_projections, pixels_of_box, touches_image
from segkit.masks.iou import box_iou
from segkit.recipes.schema import InferenceConfig
from segkit.sample import Box


def match_proposals(
    mask_logits: Tensor,
    crop: Crop,
    class_probability: NDArray[np.float32],
    boxes: Sequence[Box],
    labels: Sequence[int],
    config: InferenceConfig,
) -> list[BoxMask | None]:
    """Assign proposals to the boxes that they agree with in class and place, one to one.

    Args:
        mask_logits: (N, h, w) of the proposals, padding included.
        crop: how the image was resized and padded.
        class_probability: (N, Q), of each proposal for the class of each box.
        boxes: (Q,) x, y, width, height in pixels.
        labels: (Q,) row of the class embeddings.
        config: lowest overlap and class probability of a match.

    Returns:
        (Q,) masks, clipped to their boxes; None where no proposal matches, as for every box outside
        the image. Score: IoU of the proposal's tight box with the box, times the mean probability
        within the mask.
    """
    size = crop.image_size
    overlap = box_iou(_tight_boxes(mask_logits, crop), boxes)  # (N, Q)
    allowed = overlap >= config.pseudo_overlap
    allowed &= class_probability >= config.pseudo_class
    allowed &= np.array([touches_image(box, *size) for box in boxes], bool)
    gain = np.where(allowed, overlap + class_probability, 0.0)
    matches: list[BoxMask | None] = [None] * len(boxes)
    pairs = np.stack(linear_sum_assignment(-gain), axis=1)
    for proposal, index in pairs.tolist():
        if not allowed[proposal, index]:
            continue
        rows, columns = place = pixels_of_box(boxes[index], *size)
        logits = to_image(mask_logits[proposal, None], crop, rows)[0, :, columns]
        probability = logits.sigmoid().cpu().numpy()
        inside = probability >= 0.5
        if inside.any():
            score = float(overlap[proposal, index] * probability[inside].mean())
            matches[index] = BoxMask(size, place, inside, score, labels[index])
    return matches


def _tight_boxes(mask_logits: Tensor, crop: Crop) -> list[Box]:
    """The tight box of each mask (N, h, w) in the image."""
    height, width = crop.image_size
    count, device = len(mask_logits), mask_logits.device
    rows = torch.zeros((count, height), dtype=torch.bool, device=device)
    columns = torch.zeros((count, width), dtype=torch.bool, device=device)
    for band, logits in bands(mask_logits, crop):
        masks = logits.sigmoid() >= 0.5  # (N, band, W)
        rows[:, band] = masks.any(2)
        columns |= masks.any(1)
    sides = zip(rows.cpu().numpy(), columns.cpu().numpy(), strict=True)
    return [box_of_projections(*projections) for projections in sides]
