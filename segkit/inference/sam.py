"""Teachers `sam`, `sam2` and `samhq`: promptable models of transformers, one image embedding for
all boxes of an image."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit.distributed import autocast, choose_device, gpu_computes_bf16
from segkit.errors import InputError, first_line
from segkit.hub import WEIGHTS, model_kind, model_name
from segkit.inference.box_masks import BoxMask, ImagePrompts
from segkit.inference.streams import prefetch
from segkit.inference.teacher import Teacher, mask_place
from segkit.masks.boxes import corners, touches_image
from segkit.sample import Box
from segkit.workers.devices import Workers

MAX_BOXES = 16
"""Boxes in a forward pass of the mask decoder, which needs about 35 MB for each of them."""
_AHEAD = 2
"""Images resized ahead of the model."""


@dataclass(frozen=True)
class _Prepared:
    """One image as its model takes it."""

    prompts: ImagePrompts
    indices: list[int]
    """The boxes that touch the image."""
    inputs: Any
    """The processor's output for these boxes; None where there are none."""


class SamTeacher(Teacher):
    """SAM, SAM 2 or SAM-HQ.

    A prompt is the box itself, clipped to the image, without padding. The model answers a single
    mask (`multimask_output=False`): a box is not ambiguous, and the authors advise it for boxes.
    SAM 2 then replaces an unstable mask by the best of three, SAM-HQ adds its high-quality mask.
    Masks are clipped to the box with the margin of `mask_place`. Score: the model's own prediction
    of the IoU, limited to 0-1.

    On a GPU, the image encoder runs in half precision: bf16 where the GPU has it, else fp16. The
    prompt encoder and the mask decoder stay in float32, since coordinates need it.

    Args:
        source: `sam:`, `sam2:` or `samhq:` and NAME or FOLDER.
        folder: the model's local folder, by `fetch_model`.
        device: auto, cpu, cuda or cuda:N.
        min_score: lowest predicted IoU of a mask.

    Raises:
        InputError: files that are not those of such a model, or no such device.
    """

    score_name = "predicted IoU"

    def __init__(self, source: str, folder: Path, device: str, min_score: float) -> None:
        self.min_score = min_score
        name = model_name(source)
        place = str(Path(name).resolve()) if Path(name).is_dir() else name
        self.kind = model_kind(source)
        self.name = self.kind.prefix + place
        self.device = choose_device(device)
        self.precision = _precision(self.device.type)
        self.processor = _load(self.kind.processor_class, folder)
        self.model = _load_model(self.kind.model_class, folder).to(self.device).eval()
        self._input_size = self._find_input_size(folder)
        with (folder / WEIGHTS).open("rb") as file:
            self._digest = hashlib.file_digest(file, "sha256").hexdigest()

    def predict(self, prompts: Iterable[ImagePrompts]) -> Iterator[list[BoxMask | None]]:
        """As of `Teacher`; None for boxes outside the image."""
        for prepared in prefetch(self._prepare, prompts, ahead=_AHEAD):
            yield self._segment(prepared)

    def as_arguments(self) -> dict[str, Any]:
        """The model, the digest of its weights and the precision of its image encoder."""
        return {
            **super().as_arguments(),
            "weights_sha256": self._digest,
            "precision": self.precision,
        }

    def worker_arguments(self, workers: Workers) -> dict[str, Any]:
        """As of `Teacher`: on their devices, the image encoder may have another precision."""
        return {**self.as_arguments(), "precision": _precision(workers.kind)}

    def _prepare(self, prompts: ImagePrompts) -> _Prepared:
        height, width = size = prompts.image.shape[:2]
        indices = [i for i, box in enumerate(prompts.boxes) if touches_image(box, height, width)]
        scale = max(self._input_size) / max(size)
        thin = self.kind.prefix != "sam2:" and min(size) * scale < 0.5  # resized to no pixels
        if not indices or thin:
            return _Prepared(prompts, [], None)
        boxes = [_clipped_corners(prompts.boxes[i], height, width) for i in indices]
        inputs = self._process(prompts.image, boxes)
        return _Prepared(prompts, indices, inputs)

    @torch.no_grad()
    def _segment(self, prepared: _Prepared) -> list[BoxMask | None]:
        prompts, inputs = prepared.prompts, prepared.inputs
        masks: list[BoxMask | None] = [None] * len(prompts.boxes)
        if inputs is None:
            return masks
        embeddings = self._embed(inputs["pixel_values"].to(self.device))
        boxes = inputs["input_boxes"].float().to(self.device)  # (1, Q, 4)
        # SAM 2 squeezes images to a square, without padding to cut off
        keys = ("original_sizes", "reshaped_input_sizes")[: 1 if self.kind.prefix == "sam2:" else 2]
        sizes = [inputs[key] for key in keys]
        for first in range(0, len(prepared.indices), MAX_BOXES):
            chunk = slice(first, first + MAX_BOXES)
            outputs = self.model(**embeddings, input_boxes=boxes[:, chunk], multimask_output=False)
            scores = outputs.iou_scores[0, :, 0].clamp(0, 1).tolist()
            logits = outputs.pred_masks[0]  # (q, 1, h, w)
            for index, score, mask in zip(prepared.indices[chunk], scores, logits, strict=True):
                # one at a time: at the size of the image, the logits of a mask take megabytes
                (full_mask,) = self.processor.post_process_masks([mask[None]], *sizes)
                masks[index] = _box_mask(prompts, index, full_mask[0, 0], score)
        return masks

    def _embed(self, pixels: Tensor) -> dict[str, Any]:
        """The image embeddings, as arguments of the model's forward pass."""
        with autocast(self.precision, self.device):
            embeddings = _as_float(self.model.get_image_embeddings(pixels))
        if self.kind.prefix == "samhq:":
            return dict(
                zip(("image_embeddings", "intermediate_embeddings"), embeddings, strict=True)
            )
        return {"image_embeddings": embeddings}

    def _process(self, image: NDArray[np.uint8], boxes: list[list[float]]) -> Any:
        # channels first: transformers would mistake an image of one or three rows for channels
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return self.processor(images=pixels, input_boxes=[boxes], return_tensors="pt")

    def _find_input_size(self, folder: Path) -> tuple[int, int]:
        """Height and width of the model's images; InputError where the processor gives others."""
        hint = "give the files of one model"
        size = self.model.config.prompt_encoder_config.image_size
        expected = (size, size) if isinstance(size, int) else tuple(size)
        larger = np.zeros((expected[0], 2 * expected[1], 3), np.uint8)
        try:
            inputs = self._process(larger, [[1.0, 1.0, 5.0, 5.0]])
            height, width = inputs["pixel_values"].shape[-2:]
        except Exception as error:  # any setting of the processor may be invalid
            message = f"the image processor fails ({first_line(error)})"
            raise InputError(message, file=folder, hint=hint) from error
        if (height, width) != expected:
            message = f"the processor gives images of {height, width}, the model takes {expected}"
            raise InputError(message, file=folder, hint=hint)
        return height, width


def _box_mask(prompts: ImagePrompts, index: int, mask: Tensor, score: float) -> BoxMask:
    size = (mask.shape[0], mask.shape[1])
    place = mask_place(prompts.boxes[index], size)
    inside = mask[place].cpu().numpy().copy()  # a view would keep the full mask
    return BoxMask(size, place, inside, score, prompts.labels[index])


def _clipped_corners(box: Box, height: int, width: int) -> list[float]:
    x0, y0, x1, y1 = corners(box)
    return [max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1)]


def _as_float(value: Any) -> Any:
    """Embeddings in float32: a tensor, or a sequence of embeddings."""
    if isinstance(value, Tensor):
        return value.float()
    return [_as_float(item) for item in value]


def _precision(kind: str) -> str:
    """Precision of the image encoder on a kind of device, cpu or cuda."""
    if kind == "cpu":
        return "fp32"
    # the GPUs of a cluster are taken for recent ones where this machine has none to ask
    lacks_bf16 = torch.cuda.is_available() and not gpu_computes_bf16()
    return "fp16" if lacks_bf16 else "bf16"


def _load(class_name: str, folder: Path, **options: Any) -> Any:
    """An object of transformers, from local files only; no code of the folder runs."""
    import transformers

    logging = transformers.utils.logging
    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        return getattr(transformers, class_name).from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **options
        )
    except Exception as error:  # transformers and safetensors raise errors of any type
        message = f"cannot be loaded as a {class_name} ({first_line(error)})"
        raise InputError(message, file=folder, hint="download the model again") from error
    finally:
        logging.set_verbosity(verbosity)


def _load_model(class_name: str, folder: Path) -> Any:
    """A model whose weights are all in the folder, and finite."""
    options = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    model, info = _load(class_name, folder, **options)
    missing = sorted({*info["missing_keys"], *map(str, info["mismatched_keys"])})
    if missing:
        message = f"has no weights for {missing[0]} and {len(missing) - 1} more"
        raise InputError(message, file=folder / WEIGHTS, hint="download the model again")
    for name, tensor in model.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            message = f"the weights of {name} are not finite"
            raise InputError(message, file=folder / WEIGHTS, hint="download the model again")
    return model
