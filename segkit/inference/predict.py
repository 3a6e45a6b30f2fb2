"""Images -> predictions as samples: the same rows as ground truth, with scores."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from segkit.images.decode import decode_rgb
from segkit.inference.forward_pass import Image, Item, Proposed, propose
from segkit.inference.input_files import sample_ids
from segkit.inference.postprocess import answer, to_segments
from segkit.model.dataseg import DataSeg
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.schema import InferenceConfig
from segkit.runs.run import Run, load_run
from segkit.sample import ImageRef, Sample
from segkit.shards.manifest import Ledger, Task
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_layer, write_set
from segkit.taxonomy import Taxonomy


def predict_images(
    model: DataSeg,
    table: ClassEmbeddings,
    taxonomy: Taxonomy,
    items: Iterable[Item],
    read: Callable[[Item], tuple[Sample, Image]],
    task: Task,
    config: InferenceConfig,
) -> Iterator[Sample]:
    """Predictions for a stream of images, in its order.

    Args:
        model: in evaluation mode.
        table: of the taxonomy, on the model's device.
        taxonomy: the classes to look for.
        items: the images; read a little ahead of what is given back.
        read: an item's sample and image (H, W, 3) RGB; called in threads.
        task: what to predict.
        config: image size, thresholds and batches.

    Yields:
        The samples with predictions in the place of their labels.
    """

    def finish(found: Proposed[Sample]) -> Sample:
        masks = answer(
            task, found.class_logits, found.mask_logits, found.crop, table.is_thing, config
        )
        segments = to_segments(masks, taxonomy)
        return replace(
            found.record,
            segments=segments,
            annotated=None,
            exhaustive=True,
            not_exhaustive=(),
            void=None,
        )

    return propose(model, table.text, items, read, finish, config)


def predict_samples(
    model: DataSeg,
    table: ClassEmbeddings,
    taxonomy: Taxonomy,
    data: ShardSet,
    task: Task,
    config: InferenceConfig,
) -> Iterator[Sample]:
    """The samples of a set with predictions in the place of their labels; the taxonomy need not be
    the set's."""
    return predict_images(
        model,
        table,
        taxonomy,
        data.samples(),
        lambda sample: (sample, data.image(sample)),
        task,
        config,
    )


def predict_set(
    run: str | Path | Run,
    data: ShardSet,
    task: Task,
    out: Path,
    device: str = "cpu",
    on_image: Callable[[], None] = lambda: None,
    *,
    taxonomy: Taxonomy | None = None,
) -> ShardSet:
    """Predict every image of a set; a label layer over the same images.

    Args:
        run: a trained model, or where one lies.
        data: any set with images; its labels are not looked at.
        task: what to predict.
        out: shard set to publish the new version in.
        device: where a run that is yet to be loaded runs.
        on_image: called after each image.
        taxonomy: the classes to look for; by default the set's own.
    """
    loaded = run if isinstance(run, Run) else load_run(run, device)
    classes = taxonomy or data.taxonomy
    samples = predict_samples(
        loaded.model, loaded.class_embeddings(classes), classes, data, task, loaded.recipe.inference
    )
    return write_layer(
        out,
        data,
        _counted(samples, on_image),
        command="predict",
        arguments={**loaded.as_arguments(), "task": task, "data": str(data.path)},
        kind=task,
        taxonomy=classes,
        extra_parents=(loaded.as_parent(out),),
    )


def predict_files(
    run: Run,
    files: Sequence[Path],
    root: Path,
    taxonomy: Taxonomy,
    task: Task,
    out: Path,
    on_image: Callable[[], None] = lambda: None,
    *,
    ledger: Ledger | None = None,
) -> ShardSet:
    """Predict image files; the new set points at them, names them from `root` and holds the account
    of `check_files`.

    Raises:
        InputError: a file is no image.
    """
    ids = sample_ids(files, root)
    samples = predict_images(
        run.model,
        run.class_embeddings(taxonomy),
        taxonomy,
        files,
        lambda file: _read(file, root, ids[file]),
        task,
        run.recipe.inference,
    )
    return write_set(
        out,
        ((sample, None) for sample in _counted(samples, on_image)),
        taxonomy=taxonomy,
        kind=task,
        name=root.name,
        split=None,
        command="predict",
        arguments={**run.as_arguments(), "task": task, "images": str(root)},
        images_by="reference",
        ledger=ledger,
        parents=(run.as_parent(out),),
    )


def _read(file: Path, root: Path, sample_id: str) -> tuple[Sample, Image]:
    data = file.read_bytes()
    pixels = decode_rgb(data, file=file, hint="remove or replace the file")
    name = file.relative_to(root).as_posix()
    reference = ImageRef(
        path=str(file.resolve()), length=len(data), sha256=hashlib.sha256(data).hexdigest()
    )
    return Sample(sample_id, name, pixels.shape[1], pixels.shape[0], image=reference), pixels


def _counted(samples: Iterable[Sample], on_image: Callable[[], None]) -> Iterator[Sample]:
    for sample in samples:
        yield sample
        on_image()
