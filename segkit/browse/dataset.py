"""A shard set, with predictions beside it, as a FiftyOne dataset."""

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
class Loaded:
    """What was loaded."""

    dataset: str
    samples: int
    segments: int
    masked: int
    predicted: int
    """Images with predictions."""
    predicted_segments: int
    unmatched: int
    """Images of the prediction set that the shard set has not."""
    media: str
    """Folder of the extracted files."""


def load(
    shards: ShardSet,
    predictions: ShardSet | None = None,
    *,
    name: str | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Loaded:
    """Load a version into FiftyOne's database; a dataset of that name that segkit made before is
    replaced.

    Args:
        shards: the set; panoptic and semantic labels become class maps, things and boxes
            detections.
        predictions: a prediction set whose sample ids are those of `shards`; its labels get fields
            of their own.
        name: the dataset's name; by default that of the set with split and version.
        advance: called after every image.

    Raises:
        InputError: the set has no images, no prediction fits, or the name belongs to a dataset of
            the user's.
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
            guess = predictions.sample(row) if predictions is not None and row is not None else None
            counts["segments"] += len(sample.segments)
            counts["masked"] += sum(segment.mask is not None for segment in sample.segments)
            counts["predicted_segments"] += len(guess.segments) if guess else 0
            yield _sample(shards, sample, predictions, guess)
            advance()

    name = _fill(name or default_name(shards), shards, predictions, build())
    unmatched = len(predicted) - matched
    return Loaded(
        name, len(ids), predicted=matched, unmatched=unmatched, media=str(media_root()), **counts
    )


def default_name(shards: ShardSet) -> str:
    """Name, split and version, such as `coco-val-v1`."""
    manifest = shards.manifest
    return "-".join(filter(None, (manifest.name, manifest.split, f"v{shards.version}")))


def open_app(name: str, announce: Callable[[str], None]) -> None:
    """Open the FiftyOne App on a loaded dataset, announce its address, and return when its last tab
    is closed."""
    fo = fiftyone()
    session = fo.launch_app(fo.load_dataset(name))
    announce(session.url)
    session.wait()


def as_json(loaded: Loaded) -> dict[str, Any]:
    """The counts as a JSON object."""
    return asdict(loaded)


def _fill(name: str, shards: ShardSet, predictions: ShardSet | None, samples: Iterator[Any]) -> str:
    """Fill a dataset under another name, then put it in the place of the old one: a failed load
    changes nothing."""
    fo = fiftyone()
    replaces = fo.dataset_exists(name)
    if replaces and "segkit" not in fo.load_dataset(name).info:
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
    if replaces:
        fo.delete_dataset(name)
    dataset.name = name
    dataset.persistent = True
    return str(dataset.name)


def _describe(dataset: Any, shards: ShardSet, predictions: ShardSet | None) -> None:
    sets = {TRUTH: shards, **({PREDICTIONS: predictions} if predictions else {})}
    maps = {prefix: item for prefix, item in sets.items() if item.manifest.kind in MAPS}
    dataset.mask_targets = {
        f"{prefix}_classes": mask_targets(item) for prefix, item in maps.items()
    }
    dataset.default_classes = list(class_labels(shards.taxonomy).values())
    # by field, the App's default, every class of a map has one color
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
    shards: ShardSet, sample: Sample, predictions: ShardSet | None, guess: Sample | None
) -> Any:
    fo = fiftyone()
    split = shards.manifest.split
    fields = labels_of(shards, sample, TRUTH)
    if predictions is not None and guess is not None:
        fields |= labels_of(predictions, guess, PREDICTIONS)
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
