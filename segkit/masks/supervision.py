"""Hands masks over to the supervision library (annotators, trackers, zones)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError


def detections(
    masks: NDArray[np.bool_],
    boxes: NDArray[np.float64],
    scores: Sequence[float | None],
    class_ids: Sequence[int],
    names: Sequence[str],
) -> Any:
    """Build `supervision.Detections`.

    Args:
        masks: (N, H, W).
        boxes: (N, 4) x, y, width, height in pixels.
        scores: of each mask; if one has none, the detections have no confidence.
        class_ids: of each mask.
        names: class name of each mask, as `data["class_name"]`.

    Raises:
        InputError: supervision is not installed.
    """
    try:
        import supervision
    except ImportError as error:
        hint = "install it: pip install supervision"
        raise InputError("supervision is not installed", hint=hint) from error
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    known = [score for score in scores if score is not None]
    return supervision.Detections(
        xyxy=corners.astype(np.float32).reshape(-1, 4),
        mask=masks if len(masks) else None,
        confidence=np.array(known, np.float32) if len(known) == len(scores) else None,
        class_id=np.array(class_ids, int),
        data={"class_name": np.array(names, dtype=str)},
    )
