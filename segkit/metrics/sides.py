"""The two sides of an evaluation, and the errors of metrics, which know only the side."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from segkit.errors import InputError
from segkit.sample import Sample
from segkit.shards.label_files import DAMAGE_HINT

Side = Literal["ground truth", "predictions"]
"""The file of an error until `named_files` replaces it."""
GROUND_TRUTH: Side = "ground truth"
PREDICTIONS: Side = "predictions"

MASKS_HINT = (
    "`segkit pseudolabel` makes masks from boxes, `segkit eval --task instance --by box` compares"
    " boxes"
)
"""Hint where boxes cannot be evaluated; it reads the same from every command."""
_SIZE_HINT = "predict at the size of the image"


@contextmanager
def named_files(truth: object, predictions: object) -> Iterator[None]:
    """Name the files of both sides in errors that name the side."""
    try:
        yield
    except InputError as error:
        files: dict[object, object] = {GROUND_TRUTH: truth, PREDICTIONS: predictions}
        if isinstance(error.file, str) and error.file in files:
            raise error.in_file(files[error.file]) from error
        raise


def unknown_class(class_id: int, source: Side, image: str) -> InputError:
    """The error for a segment of a class that the vocabulary does not list."""
    message = f"category {class_id} is not in the vocabulary"
    hint = "predict in the vocabulary of the ground truth"
    if source == GROUND_TRUTH:
        hint = DAMAGE_HINT
    return InputError(message, file=source, record=f"image {image}", hint=hint)


def missing_mask(source: Side, image: str) -> InputError:
    """The error for a segment that is only a box where masks are compared."""
    message = "a segment has a box but no mask"
    return InputError(message, file=source, record=f"image {image}", hint=MASKS_HINT)


def malformed_mask(source: Side, record: str | None) -> InputError:
    """The error for a mask whose string is not that of run lengths."""
    message, hint = "a mask whose run lengths are damaged", "write masks as COCO's run lengths"
    return InputError(message, file=source, record=record, hint=hint)


def size_mismatch(
    image: str, predicted: str, true: str, *, noun: str = "the prediction", hint: str = _SIZE_HINT
) -> InputError:
    """The error for a prediction whose size differs from that of its image."""
    message = f"{noun} is {predicted}, the image {true}"
    return InputError(message, file=PREDICTIONS, record=f"image {image}", hint=hint)


def require_image_size(
    prediction: Sample,
    image: Sample,
    file: object = PREDICTIONS,
    *,
    noun: str = "the prediction",
    hint: str = _SIZE_HINT,
) -> None:
    """Raise InputError unless a prediction, or what the noun names, has the size of its image."""
    if (prediction.width, prediction.height) != (image.width, image.height):
        sizes = (f"{side.width} x {side.height}" for side in (prediction, image))
        raise size_mismatch(image.id, *sizes, noun=noun, hint=hint).in_file(file)
