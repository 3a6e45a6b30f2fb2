"""Load a shard set, with predictions beside it, into a FiftyOne dataset, or update it."""

import hashlib
import mimetypes
import re
import signal
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segkit.browse.appearance import save_views, set_appearance
from segkit.browse.connect import fiftyone
from segkit.browse.image_facts import image_figures, quarantined_ids, shared_ids
from segkit.browse.labels import keep_label_tags, labels_of
from segkit.browse.media import image_file, media_root
from segkit.cache import exclusive_lock
from segkit.errors import InputError, SegkitError
from segkit.metrics.prediction_ids import images_of_set
from segkit.sample import MIN_DRAWN_SCORE, Sample
from segkit.shards.reader import ShardSet
from segkit.stopping import cleanup_on_stop, signals_blocked

TRUTH = "ground_truth"
_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,40}")


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
    views: tuple[str, ...] = ()
    """Saved views."""
    without_figures: dict[str, str] = field(default_factory=dict)
    """Name of predictions that could not be evaluated -> the reason."""


def load(
    shards: ShardSet,
    predictions: Mapping[str, ShardSet] | None = None,
    *,
    name: str | None = None,
    min_score: float = MIN_DRAWN_SCORE,
    leaks: Sequence[ShardSet] = (),
    advance: Callable[[], None] = lambda: None,
) -> LoadResult:
    """Load a version into FiftyOne's database, or update the dataset of an earlier load.

    An update keeps the user's tags (of images, and of labels that are still there), saved views and
    fields. A load that fails changes nothing.

    Args:
        shards: the set; panoptic and semantic labels become class maps, things and boxes become
            detections.
        predictions: name -> a prediction set over the images of `shards`; each gets fields of
            its own, and `<name>_figure`: the PQ, mIoU or IoU of each image, where the labels can
            be compared.
        name: name of the dataset; the default is `default_name`.
        min_score: instances of lower score are hidden in the saved view `confident`.
        leaks: other sets; images that they contain too get the tag `leak`.
        advance: called after every image.

    Raises:
        InputError: the set has no images, no image of the predictions is in the set, a name of
            predictions cannot be a field, or the name belongs to a dataset of another source or is
            one that FiftyOne does not accept.
    """
    predictions = predictions or {}
    sets = {TRUTH: shards, **predictions}
    for prefix in predictions:
        _check_prefix(prefix)
    ids = list(shards.image_ids())
    if not ids:
        raise InputError("the set has no images", file=shards.path, hint="give another set")
    rows = {prefix: _rows(item, shards, ids) for prefix, item in predictions.items()}
    tags = _image_tags(shards, leaks)
    scores: dict[str, dict[str, float]] = {}
    without_figures: dict[str, str] = {}
    for prefix, item in predictions.items():
        try:
            scores[prefix] = image_figures(shards, item)
        except SegkitError as error:  # labels can be looked at without figures
            without_figures[prefix] = str(error)
    counts = {"segments": 0, "masked": 0, "predicted_segments": 0}

    def build() -> Iterator[Any]:
        for sample in shards.samples(check_masks=True):
            counts["segments"] += len(sample.segments)
            counts["masked"] += sum(segment.mask is not None for segment in sample.segments)
            fields = labels_of(shards, sample, TRUTH)
            for prefix, item in predictions.items():
                row = rows[prefix].get(sample.id)
                if row is not None:
                    prediction = item.sample(row, check_masks=True)
                    counts["predicted_segments"] += len(prediction.segments)
                    fields |= labels_of(item, prediction, prefix)
            for prefix, figures in scores.items():
                fields[f"{prefix}_figure"] = figures.get(sample.id)
            yield _sample(shards, sample, fields, tags.get(sample.id, ()))
            advance()

    name, views = _fill(name or default_name(shards), sets, build(), min_score)
    predicted = set().union(*rows.values())
    return LoadResult(
        name,
        len(ids),
        predicted=len(predicted & set(ids)),
        unmatched=len(predicted - set(ids)),
        media=str(media_root()),
        views=tuple(views),
        without_figures=without_figures,
        **counts,
    )


def default_name(shards: ShardSet) -> str:
    """The set's folder and the first digits of its digest, such as `coco-val-1f3a09c2`.

    A folder whose name FiftyOne does not accept, such as one without a letter or digit of ASCII, is
    replaced by `set`.
    """
    folder, digest = shards.path.parent.name, shards.manifest.digest[:8]
    try:
        fiftyone().core.utils.to_slug(folder)
    except ValueError:
        folder = "set"
    return f"{folder}-{digest}"


def lineage_of(dataset: Any) -> dict[str, Any] | None:
    """The set that a dataset shows: path, version, digest; None for one of the user."""
    lineage: dict[str, Any] | None = dataset.info.get("segkit", {}).get(TRUTH)
    return lineage


def open_app(
    name: str, announce: Callable[[str], None], *, host: str = "localhost", view: str | None = None
) -> None:
    """Open the FiftyOne App on a loaded dataset and return when its last tab is closed.

    Anyone who reaches the App can read every file that this user can read, so by default it accepts
    connections from this machine only.

    Args:
        name: the dataset.
        announce: called with the App's address.
        host: address that the App listens on.
        view: the saved view to open with.
    """
    fo = fiftyone()
    # in a container FiftyOne ignores its settings and listens on 0.0.0.0, unless given an address
    dataset = fo.load_dataset(name)
    shown = dataset.load_saved_view(view) if view else None
    with signals_blocked(signal.SIGINT):  # its server would print a traceback at Ctrl-C
        session = fo.launch_app(dataset, view=shown, address=host)
    announce(session.url)
    try:
        session.wait()
    finally:
        session.close()


def _check_prefix(prefix: str) -> None:
    """Refuse a name of predictions that cannot be the beginning of a field's name."""
    if not _PREFIX.fullmatch(prefix) or prefix == TRUTH:
        hint = "give letters, digits and underscores, such as --predictions baseline=SET"
        raise InputError(f"predictions cannot be called {prefix!r}", hint=hint)


def _rows(predictions: ShardSet, shards: ShardSet, ids: Sequence[str]) -> dict[str, int]:
    """Sample id -> index in the prediction set; InputError if none is in the set."""
    rows = {image: index for index, image in enumerate(images_of_set(predictions, shards))}
    if rows.keys().isdisjoint(ids):
        hint = f"give predictions of {shards.manifest.name}"
        raise InputError(
            "no image of the predictions is in the set", file=predictions.path, hint=hint
        )
    return rows


def _image_tags(shards: ShardSet, leaks: Sequence[ShardSet]) -> dict[str, list[str]]:
    """Tags of images: `quarantined` where the conversion dropped a label, `leak`."""
    tags: dict[str, list[str]] = {}
    for sample_id in quarantined_ids(shards):
        tags.setdefault(sample_id, []).append("quarantined")
    for other in leaks:
        for sample_id in shared_ids(shards, other):
            tags.setdefault(sample_id, []).append("leak")
    return {sample_id: sorted(set(names)) for sample_id, names in tags.items()}


def _fill(
    name: str, sets: Mapping[str, ShardSet], samples: Iterator[Any], min_score: float
) -> tuple[str, list[str]]:
    """Fill a dataset under a temporary name, then rename it or merge it into the earlier one.

    FiftyOne deletes a dataset that is not persistent, such as the one of a killed load.
    """
    fo = fiftyone()
    _check_name(name, sets[TRUTH])
    lock = hashlib.sha256(name.encode()).hexdigest()[:16]
    with exclusive_lock(media_root() / "locks" / lock), cleanup_on_stop():
        loading = f"segkit-loading-{uuid.uuid4()}"
        try:
            dataset = fo.Dataset(loading)
            dataset.add_samples(samples, progress=False)
            dataset.add_dynamic_sample_fields()
            _check_name(name, sets[TRUTH])
            if fo.dataset_exists(name):
                earlier = fo.load_dataset(name)
                keep_label_tags(earlier, dataset)
                _merge(dataset, earlier)
                dataset.delete()
                dataset = earlier
            else:
                dataset.name = name
        except BaseException:
            if fo.dataset_exists(loading):
                fo.delete_dataset(loading)
            raise
        set_appearance(dataset, sets)
        views = save_views(dataset, sets, min_score)
        dataset.info = {"segkit": {prefix: _lineage(item) for prefix, item in sets.items()}}
        dataset.persistent = True
        dataset.save()
        return str(dataset.name), views


def _merge(new: Any, earlier: Any) -> None:
    """Update the earlier dataset to the new one's samples and fields; what the user added stays."""
    stale = set(earlier.values("image_id")) - set(new.values("image_id"))
    if stale:
        earlier.delete_samples(earlier.match(fiftyone().ViewField("image_id").is_in(list(stale))))
    ours = [n for n in new.get_field_schema() if n not in ("id", "tags", "created_at")]
    if gone := [name for name in _loaded_fields(earlier) if name not in ours]:
        earlier.delete_sample_fields(gone)
    fields = [name for name in ours if name != "last_modified_at"]
    tags = dict(zip(*new.values(["image_id", "tags"]), strict=True))
    known = set(earlier.values("image_id"))
    earlier.merge_samples(
        new,
        key_field="image_id",
        fields=fields,
        merge_lists=False,
        overwrite=True,
        include_info=False,
        progress=False,
    )
    for sample in earlier.match(fiftyone().ViewField("image_id").is_in(list(tags.keys() - known))):
        sample.tags = tags[sample.image_id]
        sample.save()


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
    lineage = lineage_of(fo.load_dataset(owner))
    if lineage is not None:
        is_same_set = Path(lineage["path"]).parent == shards.path.parent
        if owner == name and (is_same_set or lineage["digest"] == shards.manifest.digest):
            return
        message = f"FiftyOne has a dataset {owner!r} of another set, {lineage['path']}"
    raise InputError(message, file=shards.path, hint=hint)


def _lineage(shards: ShardSet) -> dict[str, Any]:
    manifest = shards.manifest
    return {
        "path": str(shards.path),
        "version": shards.version,
        "digest": manifest.digest,
        "kind": manifest.kind,
        "command": manifest.command,
    }


def _loaded_fields(dataset: Any) -> list[str]:
    """The fields that the last load wrote for its sets."""
    prefixes = dataset.info.get("segkit", {})
    return [
        name
        for name in dataset.get_field_schema()
        for prefix in prefixes
        if name in (f"{prefix}_classes", f"{prefix}_things", f"{prefix}_figure")
    ]


def _sample(
    shards: ShardSet, sample: Sample, fields: Mapping[str, Any], tags: Sequence[str]
) -> Any:
    fo = fiftyone()
    split = shards.manifest.split
    names = shards.taxonomy.unique_names
    file = image_file(shards, sample, media_root())
    size, mime = file.stat().st_size, mimetypes.guess_type(file.name)[0]
    return fo.Sample(
        filepath=str(file),
        tags=[*([split] if split else []), *tags],
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
