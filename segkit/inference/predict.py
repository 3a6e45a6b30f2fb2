"""Images -> predictions as samples: the same rows as ground truth, with scores."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit.data.augment import Window, evaluation_window
from segkit.errors import InputError
from segkit.inference.config import InferenceConfig
from segkit.inference.postprocess import LabelledMask, answer, to_segments
from segkit.manifest import Task
from segkit.model.class_table import ClassTable
from segkit.model.dataseg import DataSeg
from segkit.sample import ImageRef, Sample
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_layer, write_set
from segkit.taxonomy import Taxonomy
from segkit.training.run_reader import Run, load_run

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def canvas(image: NDArray[np.uint8], size: int, device: torch.device | str) -> tuple[Window, Tensor]:
    """Lay an image (H, W, 3) on a padded canvas with its longer side at `size`: (1, 3, h, w) in 0-1."""
    window = evaluation_window(image.shape[0], image.shape[1], size=size)
    pixels = torch.from_numpy(np.ascontiguousarray(window.image(image))).to(device)
    return window, pixels.permute(2, 0, 1)[None].float() / 255


@torch.no_grad()
def predict_image(
    model: DataSeg, table: ClassTable, image: NDArray[np.uint8], task: Task, config: InferenceConfig
) -> list[LabelledMask]:
    """Labelled masks of one image (H, W, 3) RGB, for any task and vocabulary."""
    window, inputs = canvas(image, config.image_size, table.text.device)
    proposals = model(inputs, table.text).matching[-1]
    class_logits, mask_logits = proposals.class_logits[0].float(), proposals.mask_logits[0].float()
    return answer(task, class_logits, mask_logits, window, table.is_thing, config)


def predict_samples(
    model: DataSeg, table: ClassTable, taxonomy: Taxonomy, data: ShardSet, task: Task, config: InferenceConfig
) -> Iterator[Sample]:
    """The samples of a set with predictions in the place of their labels."""
    for sample in data.samples():
        found = predict_image(model, table, data.image(sample), task, config)
        yield replace(sample, segments=to_segments(found, taxonomy), annotated=None, exhaustive=True, void=None)


def predict_set(
    run: str | Path,
    data: ShardSet,
    task: Task,
    out: Path,
    device: str = "cpu",
    on_image: Callable[[], None] = lambda: None,
) -> ShardSet:
    """Predict every image of a set in the set's own vocabulary; a label layer over the same images."""
    loaded = load_run(run, device)
    samples = predict_samples(
        loaded.model, loaded.table(data.taxonomy), data.taxonomy, data, task, loaded.recipe.inference
    )
    return write_layer(
        out,
        data,
        _counted(samples, on_image),
        command="predict",
        arguments={"checkpoint": str(run), "data": str(data.path), "task": task},
        kind=task,
        extra_parents=(loaded.as_parent(out),),
    )


def predict_folder(
    run: Run, images: Path, taxonomy: Taxonomy, task: Task, out: Path, on_image: Callable[[], None] = lambda: None
) -> ShardSet:
    """Predict every image under a folder; the new set points at the files."""
    table, config = run.table(taxonomy), run.recipe.inference

    def records() -> Iterator[tuple[Sample, None]]:
        for file, sample_id in sample_ids(image_files(images), images).items():
            sample, pixels = _read(file, images, sample_id)
            found = predict_image(run.model, table, pixels, task, config)
            yield replace(sample, segments=to_segments(found, taxonomy)), None
            on_image()

    return write_set(
        out,
        records(),
        taxonomy=taxonomy,
        kind=task,
        name=images.name,
        split=None,
        command="predict",
        arguments={"checkpoint": str(run.path), "images": str(images), "task": task},
        images_by="reference",
        parents=(run.as_parent(out),),
    )


def image_files(folder: Path) -> Sequence[Path]:
    """Image files under a folder, by path; InputError where there are none."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    if not files:
        raise InputError("no images found", file=folder, mend=f"give a folder with {', '.join(sorted(IMAGE_SUFFIXES))}")
    return files


def sample_ids(files: Sequence[Path], root: Path) -> dict[Path, str]:
    """An id for each file: its path under `root`, with the extension only where two files differ in nothing else."""
    bare = {file: file.relative_to(root).with_suffix("") for file in files}
    count = Counter(bare.values())
    return {file: (name if count[name] == 1 else file.relative_to(root)).as_posix() for file, name in bare.items()}


def _read(file: Path, root: Path, sample_id: str) -> tuple[Sample, NDArray[np.uint8]]:
    data = file.read_bytes()
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise InputError("cannot be decoded as an image", file=file, mend="remove or replace the file")
    name = file.relative_to(root).as_posix()
    reference = ImageRef(path=str(file.resolve()), length=len(data), sha256=hashlib.sha256(data).hexdigest())
    sample = Sample(sample_id, name, pixels.shape[1], pixels.shape[0], image=reference)
    return sample, np.ascontiguousarray(pixels[:, :, ::-1])


def _counted(samples: Iterable[Sample], on_image: Callable[[], None]) -> Iterator[Sample]:
    for sample in samples:
        yield sample
        on_image()
