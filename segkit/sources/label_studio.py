"""Converts Label Studio's JSON export: polygons, brush masks, ellipses and boxes of each task.

Coordinates are percentages of the image. Of several annotations of a task, one is taken: that
marked as ground truth, or else the one that was changed last. The export lacks the labeling
interface, so of a task that shows several images, the one that was annotated is known only where
its regions name its key in `data`. A task whose data has a thumbnail, an origin or the like beside
its image shows one image.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from segkit.errors import InputError, plural
from segkit.images.check import IMAGE_EXTENSIONS
from segkit.parse import is_id, nothing, parse_loosely
from segkit.sample import Sample
from segkit.sources import json_stream
from segkit.sources.annotation_files import image_candidates, stem
from segkit.sources.drawn_source import (
    Annotation,
    DrawnSource,
    ImageAnnotations,
    classes_of,
    plain_text,
)
from segkit.sources.file_format import reject_other_formats
from segkit.sources.image_files import Picture
from segkit.sources.label_studio_regions import (
    MASKED,
    annotated_images,
    image_size,
    labels_of,
    region_kind,
    regions,
    results,
)
from segkit.sources.ledger import AnnotationError, ImageError, Tally
from segkit.sources.source import Record
from segkit.storage import StrPath, location

IMAGE_ID, FILE_NAME = "segkit_id", "segkit_file_name"
"""Keys of a task's `data` under which an export of segkit keeps an image's id and name."""
_IMAGE_KEYS = ("image", "img", "image_url", "url")
_IMAGE_KEY = re.compile(rf"(?:{'|'.join(_IMAGE_KEYS)})[-_]?\d*")
"""A key of an image that is shown: one of those, or one of several that are numbered."""
_EXTENSIONS = tuple(IMAGE_EXTENSIONS)
_UPLOAD = re.compile(r"[0-9a-f]{8}-(.+)")
_HINT = "export the project from Label Studio in the format JSON"
_TAKE_PREDICTIONS = "`segkit convert labelstudio --annotations FILE --images FOLDER --predictions`"


@dataclass(frozen=True)
class LabelStudio(DrawnSource):
    """A JSON export and the images of its tasks."""

    predictions: bool = False
    """Whether tasks without an annotation have their last prediction."""
    name: str = "labelstudio"

    def all_records(self) -> Iterator[Record]:
        """Yield the tasks in the file's order, each with its text, and why its image is unknown."""
        for count, (task, text) in enumerate(json_stream.elements(self.annotations), start=1):
            data = task.get("data") if isinstance(task, dict) else None
            data = data if isinstance(data, dict) else {}
            content, _ = self._content(task) if isinstance(task, dict) else (None, False)
            value, reason = _image(data, content)
            name, candidates = _image_names(value, data, task)
            address = "" if FILE_NAME in data else _address(value or "")
            task_id = data.get(IMAGE_ID, task.get("id") if isinstance(task, dict) else None)
            record_id = str(task_id) if is_id(task_id) else stem(name)
            record_id = plain_text(record_id) or f"task {count}"
            yield Record(record_id, name, candidates, (text, reason), address=address)

    def read(self, record: Record) -> ImageAnnotations:
        """Read the regions of a task."""
        task = parse_loosely(record.data[0], nothing)
        name = f"image {record.id}"
        content, predicted = self._content(task)
        if content is None:
            message = "the task has no annotation"
            raise ImageError("not-annotated", message, file=self.annotations, record=name)
        annotations = list(regions(content, predicted=predicted))
        for entry in annotations_of(task):
            if entry is not content:
                annotations += _not_chosen(entry)
        return ImageAnnotations(self.annotations, annotations, image_size(content))

    def sample(
        self, record: Record, content: ImageAnnotations, picture: Picture | None, tally: Tally
    ) -> Sample:
        """Build the sample; ImageError if its regions may belong to another image of the task."""
        text, message = record.data
        if message:
            raise ImageError(
                "malformed-image",
                message,
                file=self.annotations,
                record=f"image {record.id}",
                data=parse_loosely(text)["data"],
                hint="make a task of each image, and annotate and export those",
            )
        return super().sample(record, content, picture, tally)

    def _content(self, task: Mapping[str, Any]) -> tuple[dict[str, Any] | None, bool]:
        """The annotation or prediction of a task that is used, and whether it is a prediction."""
        chosen = _choose(annotations_of(task))
        if chosen is not None or not self.predictions:
            return chosen, False
        return _last_prediction(task), True


def open_label_studio(
    annotations: StrPath,
    images: StrPath,
    *,
    labels: StrPath | None = None,
    predictions: bool = False,
    boxes_only: bool = False,
) -> LabelStudio:
    """Open a JSON export of Label Studio as a source.

    Args:
        annotations: the JSON file, a list of tasks.
        images: folder in which the images of the tasks are, under their paths or file names.
        labels: list of classes; None takes the labels that occur, in alphabetical order from 0.
        predictions: take the last prediction of tasks without an annotation.
        boxes_only: keep only the boxes of polygons and masks.

    Raises:
        InputError: the file cannot be read, is not a list of tasks, or has no label.
    """
    annotations, images = location(annotations), location(images)
    labels = None if labels is None else location(labels)
    reject_other_formats(annotations, "labelstudio")
    names: set[str] = set()
    masked, only_predicted, passed_over = False, 0, Counter[str]()
    for count, (task, _) in enumerate(json_stream.elements(annotations)):
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
            raise InputError(_not_a_task(task), file=annotations, record=f"[{count}]", hint=_HINT)
        chosen = _choose(annotations_of(task))
        predicted = _last_prediction(task) if chosen is None else None
        only_predicted += predicted is not None and not predictions
        content = chosen if chosen is not None or not predictions else predicted
        for result in results(content):
            kind = region_kind(result)
            masked |= kind in MASKED
            if kind is None:
                passed_over[str(result.get("type"))[:40]] += 1
        names.update(label for label, kind in labels_of(content) if kind != "unsupported")
    if not names and only_predicted:
        message = f"its tasks have no annotations, but {only_predicted} have predictions"
        raise InputError(message, file=annotations, hint=f"{_TAKE_PREDICTIONS} takes those")
    return LabelStudio(
        images,
        annotations,
        classes_of(names, labels, file=annotations, name="labelstudio"),
        "instance" if masked and not boxes_only else "boxes",
        {"predictions": predictions},
        boxes_only,
        _notes(only_predicted, passed_over),
        predictions=predictions,
    )


def annotations_of(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the annotations of a task; `completions` is their name before version 1.0."""
    entries = task.get("annotations", task.get("completions"))
    if not isinstance(entries, list):
        return []
    return [entry for entry in entries if isinstance(entry, dict)]


def _choose(entries: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The ground truth, or else the annotation that was changed last; none that was canceled."""
    valid = [entry for entry in entries if not entry.get("was_cancelled")]
    return max(
        enumerate(valid),
        key=lambda pair: (
            bool(pair[1].get("ground_truth")),
            str(pair[1].get("updated_at") or pair[1].get("created_at") or ""),
            pair[0],
        ),
        default=(0, None),
    )[1]


def _last_prediction(task: Mapping[str, Any]) -> dict[str, Any] | None:
    """The last prediction; exports may list only the ids of predictions."""
    entries = task.get("predictions")
    if not isinstance(entries, list):
        return None
    return next((entry for entry in reversed(entries) if isinstance(entry, dict)), None)


def _not_chosen(entry: dict[str, Any]) -> Iterator[Annotation]:
    number = entry.get("id")
    reason = "it was canceled" if entry.get("was_cancelled") else "another one of its task is used"
    for label, kind in labels_of(entry):
        if kind is not None:
            error = AnnotationError("not-chosen", f"a region of annotation {number}: {reason}")
            yield Annotation(label, f"annotation {number}", error, {"annotation": number})


def _image(data: Mapping[str, Any], content: Mapping[str, Any] | None) -> tuple[str | None, str]:
    """The image of a task, as its data gives it, and why it may be another; "" if it is known.

    Of several images it is the annotated one, or the first.
    """
    images, annotated = _images(data), annotated_images(content)
    if not images:
        return None, ""
    value = _annotated_image(data, images, annotated)
    first = next(iter(images.values()))[0]
    if value is not None or not annotated:
        return value or first, ""
    names = (f"{name!r} page {page + 1}" if page else repr(name) for name, page in annotated)
    listed = ", ".join(map(repr, images))
    reason = (
        f"the task shows several images ({listed}), its regions are on {', '.join(sorted(names))}"
    )
    return first, reason


def _image_names(
    value: str | None, data: Mapping[str, Any], task: Any
) -> tuple[str, tuple[str, ...]]:
    """The name of a task's image, "" if it has none, and its possible paths."""
    if value is None:
        return "", ("",)
    path = _path(value)
    upload = _UPLOAD.fullmatch(path.rpartition("/")[2])
    names = [data[FILE_NAME]] if isinstance(data.get(FILE_NAME), str) else []
    parts = path.split("/")
    names += ["/".join(parts[index:]) for index in range(len(parts))]
    if upload:
        names.append(upload[1])
    if isinstance(task, dict) and isinstance(task.get("file_upload"), str):
        names.append(task["file_upload"])
    candidates = image_candidates(names) or (value,)
    return candidates[0], candidates


def _annotated_image(
    data: Mapping[str, Any], images: Mapping[str, list[str]], annotated: set[tuple[str, int]]
) -> str | None:
    """The image that regions are on: the only one, or that of their key; None if unknown.

    Args:
        data: of a task.
        images: of a task, by key.
        annotated: name and page, from 0, of the images that have regions.
    """
    values = [value for entry in images.values() for value in entry]
    if len({_path(value) for value in values}) > 1:
        names = [name for name, _ in annotated]
        values = images.get(_image_key(data, images, names[0]), []) if len(names) == 1 else []
    is_one = len({_path(value) for value in values}) == 1
    return values[0] if is_one and not any(page for _, page in annotated) else None


def _image_key(data: Mapping[str, Any], images: Mapping[str, list[str]], name: str) -> str:
    """The key of the image that regions name: the name, or else the only key of a shown image.

    The image tag may have a name of its own: `<Image name="img" value="$image"/>`.
    """
    keys = [key for key in images if _IMAGE_KEY.fullmatch(key)]
    return keys[0] if name not in data and len(keys) == 1 else name


def _images(data: Mapping[str, Any]) -> dict[str, list[str]]:
    """The images in a task's data by key: that under `image` first, then all paths of images.

    A value is a path, or a list of the paths of pages. The mere file name of an image, such as
    under `filename`, is none.
    """
    lists = {key: value if isinstance(value, list) else [value] for key, value in data.items()}
    texts = {
        key: [value for value in values if isinstance(value, str) and value]
        for key, values in lists.items()
        if key != FILE_NAME
    }
    first = next((key for key in _IMAGE_KEYS if texts.get(key)), None)
    images = {} if first is None else {first: texts[first]}
    for key, values in texts.items():
        paths = [value for value in values if _path(value).lower().endswith(_EXTENSIONS)]
        if key != first and paths:
            images[key] = paths
    names = {name for paths in images.values() for path in paths for name in _file_names(path)}
    return {
        key: paths
        for key, paths in images.items()
        if _IMAGE_KEY.fullmatch(key) or not names.issuperset(paths)
    }


def _file_names(value: str) -> set[str]:
    """The file name of a path with folders, with and without the prefix of an upload."""
    folder, _, last = _path(value).rpartition("/")
    upload = _UPLOAD.fullmatch(last)
    return {last, upload[1] if upload else last} if folder else set()


def _path(value: str) -> str:
    """The path in `/data/upload/..`, `/data/local-files/?d=..`, a URL, or a plain path."""
    text = value.replace("\\", "/")
    try:
        parts = urlsplit(text)
        local = parse_qs(parts.query).get("d", [""])[0]
    except ValueError:
        return text
    if parts.path.startswith("/data/local-files") and local:
        return local.lstrip("/")
    if not parts.scheme and not parts.path.startswith("/data/"):
        return text.lstrip("/")  # a plain path, in which %, ? and # are letters
    path = unquote(parts.path)
    return path.removeprefix("/data/upload/").lstrip("/") if not parts.scheme else path.lstrip("/")


def _address(value: str) -> str:
    """Host and path of a URL; "" for a path."""
    try:
        parts = urlsplit(value)
    except ValueError:
        return ""
    return parts.netloc + unquote(parts.path) if parts.netloc else ""


def _not_a_task(task: Any) -> str:
    if isinstance(task, dict) and ({"annotator", "annotation_id", "label"} & task.keys()):
        return "is an export in the format JSON-MIN, which lacks what the format JSON has"
    return "is not a task of Label Studio: it has no `data`"


def _notes(only_predicted: int, passed_over: Counter[str]) -> tuple[str, ...]:
    notes = []
    if only_predicted:
        notes.append(
            f"{plural(only_predicted, 'task')} with predictions but no annotation; "
            f"{_TAKE_PREDICTIONS} takes the predictions"
        )
    if passed_over:
        listed = ", ".join(f"{name} {count}" for name, count in passed_over.most_common(5))
        notes.append(f"results that are not regions are not kept: {listed}")
    return tuple(notes)
