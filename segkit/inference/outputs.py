"""Write predictions: as samples, as shard sets, and as pictures."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

import cv2

from segkit.arguments import check_choice
from segkit.atomic import new_directory
from segkit.errors import InputError
from segkit.file_names import safe_path
from segkit.images.decode import decode_rgb
from segkit.images.draw import overlay
from segkit.inference.input_files import FileItems
from segkit.inference.label_shards import (
    Counts,
    Label,
    fingerprint_of,
    label_shards,
    write_shards,
)
from segkit.inference.pipeline import Image, RunnableModel, predict_images
from segkit.inference.postprocess import LabeledMask
from segkit.inference.streams import THREADS, prefetch
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.schema import InferenceConfig
from segkit.runs.run import Run, read_run
from segkit.sample import MIN_DRAWN_SCORE, ImageRef, Sample
from segkit.shards.header import Header
from segkit.shards.manifest import Ledger, Task
from segkit.shards.publish import staging
from segkit.shards.reader import ShardSet
from segkit.shards.writer import finish, input_digests, remember_images
from segkit.taxonomy import Taxonomy
from segkit.workers.devices import Workers


def predict_samples(
    model: RunnableModel,
    class_embeddings: ClassEmbeddings,
    taxonomy: Taxonomy,
    data: ShardSet,
    task: Task,
    config: InferenceConfig,
    *,
    samples: Iterable[Sample] | None = None,
) -> Iterator[Sample]:
    """Yield the samples of a set, in order, with predictions in place of their labels.

    Args:
        model: in evaluation mode.
        class_embeddings: of the taxonomy, on the model's device.
        taxonomy: the classes to predict; any, not only the set's own.
        data: any set with images.
        task: what to predict.
        config: image size, thresholds, batch size and precision.
        samples: some of the set's samples; None for all.
    """

    def read(sample: Sample) -> tuple[Sample, Image]:
        return sample, data.image(sample)

    classes = class_embeddings.mark_unseen(taxonomy, config.unseen)
    stream = data.samples(check_masks=True) if samples is None else samples
    predictions = predict_images(model, classes, data.read_ahead(stream), read, task, config)
    for sample, masks in predictions:
        yield predicted_sample(sample, masks, taxonomy)


def predicted_sample(sample: Sample, masks: Sequence[LabeledMask], taxonomy: Taxonomy) -> Sample:
    """The sample with these masks in place of its labels."""
    return replace(
        sample,
        segments=tuple(mask.to_segment(taxonomy) for mask in masks),
        annotated=None,
        exhaustive=True,
        not_exhaustive=(),
        void=None,
    )


def predict_set(
    run: Run,
    data: ShardSet,
    task: Task,
    out: str | Path,
    *,
    taxonomy: Taxonomy | None = None,
    workers: Workers = Workers(),
    force: bool = False,
    on_images: Callable[[int], None] = lambda images: None,
    on_resume: Callable[[int], None] = lambda images: None,
) -> ShardSet:
    """Predict every image of a set, and publish a label layer over the same images.

    Args:
        run: a trained model.
        data: any set with images; its labels are not read.
        task: what to predict.
        out: shard set to publish the new version in.
        taxonomy: the classes to predict; by default the set's own.
        workers: devices that share the work; each loads the run.
        force: as of `segkit.shards.writer.finish`.
        on_images: called with the number of images that were just predicted.
        on_resume: called before, with the number of those that an interrupted run had predicted.

    Raises:
        InputError: an unknown task, the set holds labels only, or the run may have seen an unseen
            class.
    """
    check_choice(task, Task, "task")
    data.require_images()
    classes = taxonomy or data.taxonomy
    _require_unseen(run, classes)
    label = partial(_label, data, run.class_embeddings(classes).to("cpu"), classes, task)
    arguments = {**run.as_arguments(), "task": task, "data": str(data.path)}
    header = replace(
        Header.from_set(data, "predict", arguments).with_taxonomy(classes),
        kind=task,
        parents=(run.as_parent(out),),
    )
    open_label = _opener(run, label, workers)
    layer, _ = label_shards(
        out,
        data,
        open_label,
        header,
        workers=workers,
        force=force,
        on_labeled=lambda images, counts: on_images(images),
        on_resume=on_resume,
    )
    return layer


def _label(
    data: ShardSet,
    class_embeddings: ClassEmbeddings,
    taxonomy: Taxonomy,
    task: Task,
    run: Run,
    samples: Iterable[Sample],
) -> Iterator[tuple[Sample, Counts]]:
    """Predict some samples of a set."""
    config = run.recipe.inference
    embeddings = class_embeddings.to(run.device)
    for sample in predict_samples(
        run.model, embeddings, taxonomy, data, task, config, samples=samples
    ):
        yield sample, {}


def predict_files(
    run: Run,
    files: Sequence[Path],
    root: Path,
    taxonomy: Taxonomy,
    task: Task,
    out: str | Path,
    *,
    ledger: Ledger | None = None,
    workers: Workers = Workers(),
    force: bool = False,
    on_images: Callable[[int], None] = lambda images: None,
    on_resume: Callable[[int], None] = lambda images: None,
) -> ShardSet:
    """Predict image files, and publish a set that references them.

    Args:
        run: a trained model.
        files: images.
        root: the folder from which sample ids are made.
        taxonomy: the classes to predict.
        task: what to predict.
        out: shard set to publish the new version in.
        ledger: the account of all files, from `check_files`.
        workers: devices that share the work; each loads the run.
        force: as of `segkit.shards.writer.finish`.
        on_images: called with the number of images that were just predicted.
        on_resume: called before, with the number of those that an interrupted run had predicted.

    Raises:
        InputError: an unknown task, or a file is not an image.
    """
    check_choice(task, Task, "task")
    _require_unseen(run, taxonomy)
    label = partial(_label_files, root, run.class_embeddings(taxonomy).to("cpu"), taxonomy, task)
    header = Header(
        name=root.resolve().name or "images",
        kind=task,
        taxonomy=taxonomy,
        command="predict",
        arguments={**run.as_arguments(), "task": task, "images": str(root)},
        images_by="reference",
        parents=(run.as_parent(out),),
    )
    items = FileItems.from_files(files, root)
    fingerprint = {**fingerprint_of(header), "files": items.state()}
    with staging(out, fingerprint, inputs=input_digests((), header), resume=True) as stage:
        shards = write_shards(
            stage,
            items,
            _opener(run, label, workers),
            workers,
            lambda images, counts: on_images(images),
            on_resume,
        )
        published = finish(stage, len(shards), header, ledger or Ledger(), force=force)
        remember_images(published, root)
        return published


def _label_files(
    root: Path,
    class_embeddings: ClassEmbeddings,
    taxonomy: Taxonomy,
    task: Task,
    run: Run,
    files: Iterable[tuple[Path, str]],
) -> Iterator[tuple[Sample, Counts]]:
    """Predict some image files."""
    config = run.recipe.inference
    embeddings = class_embeddings.to(run.device).mark_unseen(taxonomy, config.unseen)

    def read(item: tuple[Path, str]) -> tuple[Sample, Image]:
        return _read(*item, root)

    for sample, masks in predict_images(run.model, embeddings, files, read, task, config):
        yield predicted_sample(sample, masks, taxonomy), {}


def _opener(
    run: Run, label: Callable[..., Iterator[tuple[Sample, Counts]]], workers: Workers
) -> Callable[[str], Label]:
    """The function that opens the run on a device: in this process it is open already."""
    if workers.in_process:
        return lambda device: partial(label, run)
    return partial(_reopened, partial(read_run, run.path, run.manifest, run.recipe), label)


def _reopened(
    reopen: Callable[[str], Run], label: Callable[..., Iterator[tuple[Sample, Counts]]], device: str
) -> Label:
    """Open the run in a worker."""
    return partial(label, reopen(device))


def _require_unseen(run: Run, taxonomy: Taxonomy) -> None:
    """Raise InputError where a penalty on seen classes would do nothing."""
    config = run.recipe.inference
    if config.seen_penalty and not {*config.unseen} & {*taxonomy.names}:
        message = f"inference.unseen names no class of {taxonomy.name}: the penalty does nothing"
        raise InputError(message, hint="leave inference.seen_penalty out")


def _read(file: Path, sample_id: str, root: Path) -> tuple[Sample, Image]:
    content = file.read_bytes()
    pixels = decode_rgb(content, file=file, hint="remove or replace the file")
    digest = hashlib.sha256(content).hexdigest()
    image = ImageRef(path=str(file.resolve()), length=len(content), sha256=digest)
    height, width = pixels.shape[:2]
    name = file.relative_to(root).as_posix()
    return Sample(sample_id, name, width, height, image=image), pixels


def write_overlays(
    predictions: ShardSet,
    folder: Path,
    *,
    min_score: float = MIN_DRAWN_SCORE,
    on_image: Callable[[], None] = lambda: None,
) -> int:
    """Draw the segments of a prediction set over its images, as `folder`/<sample id>.jpg.

    An id that leads elsewhere or cannot name a file is replaced, see `segkit.file_names.safe_path`;
    a picture that would have the name of a folder is called `<sample id>.jpg (image).jpg`.

    Args:
        predictions: the set.
        folder: where to write the pictures; it appears when all are drawn, and replaces an older
            one.
        min_score: instances with a lower score are not drawn.
        on_image: called after each picture.

    Returns:
        The number of segments drawn.

    Raises:
        SegkitError: the disk is full, or another process is writing there.
    """
    least = min_score if predictions.manifest.kind == "instance" else 0.0
    ids = list(predictions.image_ids())
    folders = {parent for image in ids for parent in PurePosixPath(safe_path(image)).parents}

    def draw(sample: Sample) -> int:
        segments = [s for s in sample.segments if (s.score or 0.0) >= least]
        picture = overlay(predictions.image(sample), segments, predictions.taxonomy)
        name = PurePosixPath(f"{safe_path(sample.id)}.jpg")
        if name in folders:  # of the images `a` and `a.jpg/b`
            name = name.with_name(f"{name.name} (image).jpg")
        file = draft / name
        file.parent.mkdir(parents=True, exist_ok=True)
        bgr, quality = picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90]
        file.write_bytes(cv2.imencode(".jpg", bgr, quality)[1].tobytes())
        return len(segments)

    drawn, samples = 0, predictions.samples(check_masks=True)
    ahead_of_drawing = predictions.read_ahead(samples)
    with new_directory(folder, replace=True) as draft:
        for number in prefetch(draw, ahead_of_drawing, ahead=2 * THREADS):
            drawn += number
            on_image()
    return drawn
