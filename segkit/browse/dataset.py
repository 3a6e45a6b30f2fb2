"""Load a shard set, with predictions beside it, into a FiftyOne dataset."""

import hashlib
import mimetypes
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segkit.browse.connect import fiftyone
from segkit.browse.labels import MAPS, labels_of, mask_targets
from segkit.browse.media import image_file, media_root
from segkit.errors import InputError
from segkit.sample import Sample
from segkit.shards.reader import ShardSet
from segkit.storage import exclusive_lock

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
    """Load a version into FiftyOne's database; replaces the dataset of an earlier load of the set.

    Args:
        shards: the set; panoptic and semantic labels become class maps, things and boxes become
            detections.
        predictions: a prediction set over the sample ids of `shards`; its labels get separate
            fields.
        name: name of the dataset; the default is `default_name`.
        advance: called after every image.

    Raises:
        InputError: the set has no images, no sample id of the predictions is in the set, or the
            name belongs to a dataset of another source or is one that FiftyOne does not accept.
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
    """Join the set's name, split and version, such as `coco-val-v1`.

    A name that FiftyOne does not accept, such as one without a letter or digit of ASCII, is
    replaced by the set's digest.
    """
    manifest = shards.manifest
    name = "-".join(filter(None, (manifest.name, manifest.split, f"v{shards.version}")))
    try:
        fiftyone().core.utils.to_slug("-".join(filter(None, (manifest.name, manifest.split))))
    except ValueError:
        return f"set-{manifest.digest[:12]}-v{shards.version}"
    return name


def open_app(name: str, announce: Callable[[str], None], *, host: str = "localhost") -> None:
    """Open the FiftyOne App on a loaded dataset and return when its last tab is closed.

    Anyone who reaches the App can read every file that this user can read, so by default it accepts
    connections from this machine only.

    Args:
        name: the dataset.
        announce: called with the App's address.
        host: address that the App listens on.
    """
    fo = fiftyone()
    # in a container FiftyOne ignores its settings and listens on 0.0.0.0, unless given an address
    session = fo.launch_app(fo.load_dataset(name), address=host)
    announce(session.url)
    try:
        session.wait()
    finally:
        session.close()


def as_json(result: LoadResult) -> dict[str, Any]:
    """Return the counts as a JSON object."""
    return asdict(result)


def _fill(name: str, shards: ShardSet, predictions: ShardSet | None, samples: Iterator[Any]) -> str:
    """Fill a dataset under a temporary name, then rename it: a failed load changes nothing.

    FiftyOne deletes a dataset that is not persistent, such as the one of a killed load.
    """
    fo = fiftyone()
    _check_name(name, shards)
    lock = hashlib.sha256(name.encode()).hexdigest()[:16]
    with exclusive_lock(media_root() / "locks" / lock):
        dataset = fo.Dataset(f"segkit-loading-{uuid.uuid4()}")
        try:
            _describe(dataset, shards, predictions)
            dataset.add_samples(samples, progress=False)
            dataset.add_dynamic_sample_fields()
            _check_name(name, shards)
            if fo.dataset_exists(name):
                fo.delete_dataset(name)
            dataset.name = name
        except BaseException:
            dataset.delete()
            raise
        dataset.persistent = True
        return str(dataset.name)


def _check_name(name: str, shards: ShardSet) -> None:
    """Raise InputError for a name that FiftyOne refuses, or that another source's dataset has."""
    fo = fiftyone()
    hint = "give another name with --name"
    try:
        slug = fo.core.utils.to_slug(name)
    except ValueError as error:
        raise InputError(
            f"FiftyOne does not accept the name {name!r} ({error})", hint=hint
        ) from error
    owner = next((twin for twin in fo.list_datasets() if fo.core.utils.to_slug(twin) == slug), None)
    if owner is None:
        return
    message = f"FiftyOne has a dataset {owner!r} that segkit did not create"
    lineage = fo.load_dataset(owner).info.get("segkit", {}).get(TRUTH)
    if lineage is not None:
        is_same_set = Path(lineage["path"]).parent == shards.path.parent
        if owner == name and (is_same_set or lineage["digest"] == shards.manifest.digest):
            return
        message = f"FiftyOne has a dataset {owner!r} of another set, {lineage['path']}"
    raise InputError(message, file=shards.path, hint=hint)


def _describe(dataset: Any, shards: ShardSet, predictions: ShardSet | None) -> None:
    sets = {TRUTH: shards, **({PREDICTIONS: predictions} if predictions else {})}
    dataset.mask_targets = {
        f"{prefix}_classes": mask_targets(item)
        for prefix, item in sets.items()
        if item.manifest.kind in MAPS
    }
    dataset.default_classes = list(shards.taxonomy.unique_names.values())
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
    names = shards.taxonomy.unique_names
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
