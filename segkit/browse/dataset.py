"""Load a shard set, with predictions beside it, into a FiftyOne dataset."""

import mimetypes
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from segkit.browse.connect import fiftyone
from segkit.browse.labels import MAPS, labels_of, mask_targets
from segkit.browse.media import image_file, media_root
from segkit.errors import InputError
from segkit.sample import Sample
from segkit.shards.reader import ShardSet
from segkit.shards.writer import class_labels

TRUTH = "ground_truth"
PREDICTIONS = "predictions"


@dataclass(frozen=True)
class LoadResult:
    """Counts of a load, as `segkit browse --json` prints them."""

    dataset: str
    samples: int
    segments: int
    masked: int
    predicted: int
    """Images with predictions."""
    predicted_segments: int
    unmatched: int
    """Images of the prediction set that the shard set does not have."""
    media: str
    """Folder of the extracted files."""


def load(
    shards: ShardSet,
    predictions: ShardSet | None = None,
    *,
    name: str | None = None,
    advance: Callable[[], None] = lambda: None,
) -> LoadResult:
    """Load a version into FiftyOne's database; replaces a dataset that segkit made by that name.

    Args:
        shards: the set; panoptic and semantic labels become class maps, things and boxes become
            detections.
        predictions: a prediction set over the sample ids of `shards`; its labels get separate
            fields.
        name: name of the dataset; the default is `default_name`.
        advance: called after every image.

    Raises:
        InputError: the set has no images, no sample id of the predictions is in the set, or a
            dataset that segkit did not make has that name.
    """
    predicted = (
        {sample.id: i for i, sample in enumerate(predictions.samples())} if predictions else {}
    )
    ids = [sample.id for sample in shards.samples()]
    matched = len(predicted.keys() & set(ids))
    if predictions and not matched:
        hint = f"give predictions of {shards.manifest.name}"
        raise InputError(
            "no sample id of the predictions is in the set", file=predictions.path, hint=hint
        )
    counts = {"segments": 0, "masked": 0, "predicted_segments": 0}

    def build() -> Iterator[Any]:
        for sample in shards.samples():
            row = predicted.get(sample.id)
            prediction = None if predictions is None or row is None else predictions.sample(row)
            counts["segments"] += len(sample.segments)
            counts["masked"] += sum(segment.mask is not None for segment in sample.segments)
            counts["predicted_segments"] += len(prediction.segments) if prediction else 0
            yield _sample(shards, sample, predictions, prediction)
            advance()

    name = _fill(name or default_name(shards), shards, predictions, build())
    unmatched = len(predicted) - matched
    return LoadResult(
        name, len(ids), predicted=matched, unmatched=unmatched, media=str(media_root()), **counts
    )


def default_name(shards: ShardSet) -> str:
    """Join the set's name, split and version, such as `coco-val-v1`."""
    manifest = shards.manifest
    return "-".join(filter(None, (manifest.name, manifest.split, f"v{shards.version}")))


def open_app(name: str, announce: Callable[[str], None]) -> None:
    """Open the FiftyOne App on a loaded dataset and return when its last tab is closed.

    Args:
        name: the dataset.
        announce: called with the App's address.
    """
    fo = fiftyone()
    session = fo.launch_app(fo.load_dataset(name))
    announce(session.url)
    session.wait()


def as_json(result: LoadResult) -> dict[str, Any]:
    """Return the counts as a JSON object."""
    return asdict(result)


def _fill(name: str, shards: ShardSet, predictions: ShardSet | None, samples: Iterator[Any]) -> str:
    """Fill a dataset under a temporary name, then rename it: a failed load changes nothing."""
    fo = fiftyone()
    exists = fo.dataset_exists(name)
    if exists and "segkit" not in fo.load_dataset(name).info:
        hint = "give another name with --name"
        raise InputError(f"FiftyOne has a dataset {name!r} that segkit did not make", hint=hint)
    dataset = fo.Dataset(f"{name}-loading", overwrite=True)
    try:
        _describe(dataset, shards, predictions)
        dataset.add_samples(samples, progress=False)
        dataset.add_dynamic_sample_fields()
    except BaseException:
        dataset.delete()
        raise
    if exists:
        fo.delete_dataset(name)
    dataset.name = name
    dataset.persistent = True
    return str(dataset.name)


def _describe(dataset: Any, shards: ShardSet, predictions: ShardSet | None) -> None:
    sets = {TRUTH: shards, **({PREDICTIONS: predictions} if predictions else {})}
    dataset.mask_targets = {
        f"{prefix}_classes": mask_targets(item)
        for prefix, item in sets.items()
        if item.manifest.kind in MAPS
    }
    dataset.default_classes = list(class_labels(shards.taxonomy).values())
    # The App's default colors by field, so that all classes of a map share one color.
    dataset.app_config.color_scheme = fiftyone().ColorScheme(color_by="value")
    dataset.info = {"segkit": {prefix: _lineage(item) for prefix, item in sets.items()}}
    dataset.save()


def _lineage(shards: ShardSet) -> dict[str, Any]:
    manifest = shards.manifest
    return {
        "path": str(shards.path),
        "version": shards.version,
        "digest": manifest.digest,
        "kind": manifest.kind,
        "command": manifest.command,
    }


def _sample(
    shards: ShardSet, sample: Sample, predictions: ShardSet | None, prediction: Sample | None
) -> Any:
    fo = fiftyone()
    split = shards.manifest.split
    fields = labels_of(shards, sample, TRUTH)
    if predictions is not None and prediction is not None:
        fields |= labels_of(predictions, prediction, PREDICTIONS)
    names = class_labels(shards.taxonomy)
    file = image_file(shards, sample, media_root())
    size, mime = file.stat().st_size, mimetypes.guess_type(file.name)[0]
    return fo.Sample(
        filepath=str(file),
        tags=[split] if split else [],
        metadata=fo.ImageMetadata(
            width=sample.width, height=sample.height, size_bytes=size, mime_type=mime
        ),
        image_id=sample.id,
        file_name=sample.file_name,
        annotated=None
        if sample.annotated is None
        else [names[class_id] for class_id in sample.annotated],
        exhaustive=sample.exhaustive,
        **fields,
    )
