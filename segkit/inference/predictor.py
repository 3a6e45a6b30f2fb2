"""Segment images with a trained run, from Python: one image, a stream of images, or boxes."""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit import storage
from segkit.arguments import check_choice
from segkit.errors import InputError, Notice, short
from segkit.images.decode import decode_rgb
from segkit.inference.box_masks import ImagePrompts
from segkit.inference.pipeline import Image, predict_images
from segkit.inference.predict_boxes import predict_box_masks
from segkit.inference.predicted_masks import PredictedMask, PredictedMasks
from segkit.masks.boxes import touches_image
from segkit.runs.calibration import Calibration
from segkit.runs.open_run import check_trained, load_run, no_box_prompts
from segkit.runs.run import Run
from segkit.sample import Box
from segkit.shards.manifest import Task
from segkit.storage import StrPath
from segkit.taxonomy import Category, Taxonomy
from segkit.text.vocabulary import require_classes, taxonomy_from_names

Classes = Taxonomy | Sequence[str] | None
Boxes = Sequence[Box] | NDArray[np.floating[Any] | np.integer[Any]]
"""(Q, 4) x, y, width, height in pixels."""


class Predictor:
    """A trained run that segments images.

    Classes are a taxonomy, a list of names, or None for those that the run was trained with. Names
    that its text encoder has not read yet are encoded first, as `segkit vocabulary encode` does.
    Images are arrays of (H, W, 3) uint8 RGB, or the paths of image files.

    Args:
        run: a run, or its directory (`DIR` or `DIR@v2`).
        device: auto, cpu, cuda or cuda:N; only for a directory.

    Raises:
        InputError: no run there, or no such device.
    """

    def __init__(self, run: Run | StrPath, device: str = "auto") -> None:
        self.run = run if isinstance(run, Run) else load_run(run, device)

    def predict(
        self, image: Image | StrPath, classes: Classes = None, task: Task = "panoptic"
    ) -> PredictedMasks:
        """Segment one image.

        Args:
            image: (H, W, 3) uint8 RGB, or an image file.
            classes: what to segment; None for the classes of the run.
            task: panoptic (masks do not overlap), semantic (one mask per class, together they cover
                the image) or instance (things; masks may overlap).

        Raises:
            InputError: an image of another shape or type, a name without a text embedding, another
                task, no
                thing among the classes of an instance task, or a run that was trained with box
                prompts only.
        """
        return next(self.predict_many([image], classes, task))

    def predict_many(
        self,
        images: Iterable[Image | StrPath],
        classes: Classes = None,
        task: Task = "panoptic",
    ) -> Iterator[PredictedMasks]:
        """Segment a stream of images, in order; images of equal shape share batches.

        Args:
            images: (H, W, 3) uint8 RGB or an image file each; read slightly ahead of the results.
            classes: as of `predict`.
            task: as of `predict`.

        Raises:
            InputError: as of `predict`.
        """
        check_choice(task, Task, "task")
        check_trained(self.run.recipe, task, self.run.path)
        taxonomy = self.taxonomy(classes)
        if task == "instance" and all(category.kind == "stuff" for category in taxonomy.categories):
            hint = "add a thing, or use the task semantic or panoptic"
            raise InputError(f"no class is a thing: {', '.join(taxonomy.names[:5])}", hint=hint)
        embeddings = self.run.class_embeddings(taxonomy)
        predictions = predict_images(
            self.run.model,
            embeddings.mark_unseen(taxonomy, self.run.recipe.inference.unseen),
            images,
            _read,
            task,
            self.run.recipe.inference,
        )
        return (
            PredictedMasks(image, (PredictedMask.from_labeled(mask, taxonomy) for mask in masks))
            for image, masks in predictions
        )

    def predict_boxes(
        self,
        image: Image | StrPath,
        boxes: Boxes,
        labels: Sequence[str | None] | None = None,
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Segment the object in each box.

        Args:
            image: (H, W, 3) uint8 RGB, or an image file.
            boxes: (Q, 4) x, y, width, height in pixels.
            labels: the class name of each box, or None where it is not known; None for all if no
                class is known.

        Returns:
            (Q, H, W) bool, False outside each box, and (Q,) scores in 0-1: the expected IoU of a
            calibrated run, else the mean probability within the mask; so also, with a warning, of a
            run that was calibrated with test-time augmentation, which is not used here.

        Raises:
            InputError: an image of another shape or type, a box without extent or beyond the image,
                unequal numbers of labels and boxes, a name without a text embedding, or a public
                model or another run without box prompts.
        """
        if self.run.recipe.loss.box_prompts == 0:
            raise no_box_prompts(self.run.path)
        if isinstance(labels, str):
            message = f"labels are one text, {short(repr(labels))}"
            raise InputError(message, hint="give a list with a name for each box")
        names = [None] * len(boxes) if labels is None else list(labels)
        image = _pixels(image)
        _check_boxes(image, boxes, names)
        known = sorted({name for name in names if name is not None})
        taxonomy = Taxonomy(
            "box labels", tuple(Category(row, name, "thing") for row, name in enumerate(known))
        )
        rows = [-1 if name is None else known.index(name) for name in names]
        prompts = ImagePrompts(image, np.asarray(boxes).tolist(), rows)
        config, crop_size = self.run.recipe.inference, self.run.recipe.data.image_size
        (predictions,) = predict_box_masks(
            self.run.model,
            self.run.class_embeddings(taxonomy),
            [prompts],
            config,
            crop_size=crop_size,
            calibration=self._calibration(),
        )
        masks = np.zeros((len(boxes), *image.shape[:2]), bool)
        for mask, prediction in zip(masks, predictions, strict=True):
            mask[prediction.place] = prediction.inside
        return masks, np.array([prediction.score for prediction in predictions], np.float32)

    def _calibration(self) -> Calibration | None:
        """The calibration of masks that are predicted without test-time augmentation."""
        calibration = self.run.calibration
        if calibration is None or not calibration.tta:
            return calibration
        message = (
            f"{self.run.path} is calibrated with test-time augmentation, without which masks are "
            "predicted here: scores are mean probabilities, not expected IoUs"
        )
        warnings.warn(message, Notice, stacklevel=3)
        return None

    def taxonomy(self, classes: Classes = None) -> Taxonomy:
        """The classes as a taxonomy; None: all that the run was trained with, each once.

        Raises:
            InputError: no name, or one that occurs twice.
        """
        if isinstance(classes, Taxonomy):
            return require_classes(classes)
        if classes is not None:
            return taxonomy_from_names(classes)
        return Taxonomy.union("run", list(self.run.taxonomies.values()))


def open_run(run: StrPath, device: str = "auto") -> Predictor:
    """Open a run to segment images: `open_run("work/run").predict("photo.jpg")`.

    Arguments and errors are those of `Predictor`.
    """
    return Predictor(run, device)


def segment_boxes(
    run: Run | StrPath,
    image: Image | StrPath,
    boxes: Boxes,
    labels: Sequence[str | None] | None = None,
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Segment the object in each box: `Predictor(run).predict_boxes(image, boxes, labels)`."""
    return Predictor(run).predict_boxes(image, boxes, labels)


def _read(image: Image | StrPath) -> tuple[Image, Image]:
    pixels = _pixels(image)
    return pixels, pixels


def _pixels(image: Image | StrPath) -> Image:
    """The contiguous pixels of an array or a file, checked."""
    if isinstance(image, str | os.PathLike):
        try:
            data = storage.read_bytes(storage.location(image))
        except OSError as error:
            message = f"not readable ({storage.reason(error)})"
            raise InputError(message, file=image, hint="check the path") from error
        return decode_rgb(data, file=str(image), hint="give an intact image file")
    hint = "give (height, width, 3) uint8 in RGB order, such as np.asarray(image.convert('RGB'))"
    if not isinstance(image, np.ndarray):
        raise InputError(f"an image of the type {type(image).__name__}", hint=hint)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        message = f"an image of shape {image.shape} and type {image.dtype}"
        raise InputError(message, hint=hint)
    # torch warns of arrays that must not be written to, such as those of Pillow's images
    return np.ascontiguousarray(image) if image.flags.writeable else image.copy(order="C")


def _check_boxes(image: Image, boxes: Boxes, names: Sequence[str | None]) -> None:
    if len(names) != len(boxes):
        message = f"{len(names)} labels for {len(boxes)} boxes"
        raise InputError(message, hint="give one per box, None where it is not known")
    for name in names:
        if name is not None and not name.strip():
            raise InputError("a label is empty", hint="give None where the class is not known")
    height, width = image.shape[:2]
    for number, box in enumerate(boxes):
        if np.ndim(box) != 1 or len(box) != 4 or not np.isfinite(box).all() or min(box[2:]) <= 0:
            hint = "give x, y, width and height in pixels, with a width and height above 0"
            raise InputError(f"box {number} is {np.asarray(box).tolist()}", hint=hint)
        if not touches_image(box, height, width):
            message = f"box {number} is outside the image of {width} x {height} pixels"
            raise InputError(message, hint="give x, y, width and height in pixels of this image")
