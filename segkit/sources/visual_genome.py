"""Converts Visual Genome: boxes of objects that people named freely, classed by WordNet synset.

`objects.json` lists the objects of each image; the names of an object are linked to synsets such as
`car.n.01`, and the most frequent ones become the classes (Hu et al. 2018 take 3,000, section 6).
`image_data.json` states sizes and addresses of the images.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from segkit.arguments import check_number
from segkit.errors import InputError
from segkit.parse import is_id, is_number, parse_loosely
from segkit.sample import Sample
from segkit.sources import drawn_shapes, json_stream
from segkit.sources.annotation_files import image_candidates, stem
from segkit.sources.drawn_source import Annotation, DrawnSource, ImageAnnotations, plain_text
from segkit.sources.file_format import reject_other_formats
from segkit.sources.image_files import Picture
from segkit.sources.ledger import AnnotationError, ImageError, Tally
from segkit.sources.source import Record
from segkit.storage import StrPath, location
from segkit.taxonomy import Category, Taxonomy

CLASSES = 3000
"""The most frequent synsets that Hu et al. take."""
_FOLDERS = ("VG_100K", "VG_100K_2")
"""Folders of the two archives of images."""
_HINT = "give objects.json of Visual Genome, a list with `image_id` and `objects` of each image"
_SIZE_HINT = "give image_data.json of Visual Genome"


class _ImageData(NamedTuple):
    """What image_data.json says of an image."""

    width: int
    height: int
    url: str


@dataclass(frozen=True)
class VisualGenome(DrawnSource):
    """An objects.json and its images, of which not every object is labeled."""

    image_data: Path | None = None
    """image_data.json; None takes the sizes of the image files."""
    name: str = "visual-genome"

    def all_records(self) -> Iterator[Record]:
        """Yield the images in the file's order, each with its text and its size."""
        known = {} if self.image_data is None else _read_image_data(self.image_data)
        for count, (entry, text) in enumerate(json_stream.elements(self.annotations)):
            image_id = _image_id(entry)
            facts = known.get(image_id)
            name, candidates = _image_names(image_id, entry, facts)
            size = None if facts is None else (facts.width, facts.height)
            yield Record(image_id or f"[{count}]", name, candidates, (text, size))

    def read(self, record: Record) -> ImageAnnotations:
        """Read the objects of an image."""
        text, size = record.data
        objects = parse_loosely(text).get("objects")
        if not isinstance(objects, list):
            message, name = "it has no list of objects", f"image {record.id}"
            raise ImageError("malformed-image", message, file=self.annotations, record=name)
        annotations = [self._annotation(value, count) for count, value in enumerate(objects)]
        return ImageAnnotations(self.annotations, annotations, size)

    def sample(
        self, record: Record, content: ImageAnnotations, picture: Picture | None, tally: Tally
    ) -> Sample:
        """Build the sample; nobody labeled every object of every class."""
        sample = super().sample(record, content, picture, tally)
        return replace(sample, exhaustive=False, not_exhaustive=())

    def _annotation(self, value: Any, count: int) -> Annotation:
        if not isinstance(value, dict):
            error = AnnotationError("malformed-annotation", "it is not an object with fields")
            return Annotation("", f"objects[{count}]", error, value)
        object_id = value.get("object_id", value.get("id"))
        source_id = str(object_id) if is_id(object_id) else None
        place = f"objects[{count}]" if source_id is None else f"object {source_id}"
        label, draw = _synset(value), _box(value)
        if label is None:
            draw = AnnotationError("no-synset", "none of its names has a synset")
        elif self._category(label) is None:
            draw = AnnotationError("rare-class", f"{label} is not one of the classes")
        return Annotation(label or "", place, draw, value, source_id=source_id)


def open_visual_genome(
    annotations: StrPath,
    images: StrPath,
    *,
    image_data: StrPath | None = None,
    classes: int = CLASSES,
) -> VisualGenome:
    """Open Visual Genome as a source.

    Args:
        annotations: objects.json, of version 1.2 or later, which has synsets.
        images: folder with VG_100K and VG_100K_2, or with the images themselves.
        image_data: image_data.json, with the sizes of the images.
        classes: number of synsets, at least 1: the most frequent first, and of equally frequent
            ones, the first in alphabetical order.

    Raises:
        InputError: a file cannot be read, is not of this format, or has no synset.
    """
    check_number(classes, "classes", 1)
    annotations, images = location(annotations), location(images)
    image_data = None if image_data is None else location(image_data)
    reject_other_formats(annotations, "visual-genome")
    counts: Counter[str] = Counter()
    for number, (entry, _) in enumerate(json_stream.elements(annotations)):
        if not isinstance(entry, dict) or not ({"objects", "image_id", "id"} & entry.keys()):
            message = "has no image_id and objects"
            raise InputError(message, file=annotations, record=f"[{number}]", hint=_HINT)
        objects = entry.get("objects")
        for value in objects if isinstance(objects, list) else ():
            label = _synset(value) if isinstance(value, dict) else None
            if label is not None:
                counts[label] += 1
    if not counts:
        message = "none of its objects has a synset"
        raise InputError(message, file=annotations, hint="give objects.json of version 1.2 or 1.4")
    if image_data is not None:
        _read_image_data(image_data)  # before any work
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    chosen = [label for label, _ in islice(ranked, classes)]
    kept, total = sum(counts[label] for label in chosen), counts.total()
    notes = []
    if kept < total:
        notes.append(
            f"the {len(chosen)} most frequent of {len(counts)} synsets hold {kept} of {total} "
            "objects that have one"
        )
    return VisualGenome(
        images,
        annotations,
        _taxonomy(chosen),
        "boxes",
        {"classes": classes, "image_data": None if image_data is None else str(image_data)},
        boxes_only=True,
        notes=tuple(notes),
        image_data=image_data,
    )


def _taxonomy(synsets: list[str]) -> Taxonomy:
    """Classes with ids from 1 in the order of frequency, named by lemma where that is unique."""
    lemmas = Counter(map(_lemma, synsets))
    categories = []
    for number, synset in enumerate(synsets, start=1):
        lemma = _lemma(synset)
        name = lemma if lemmas[lemma] == 1 else synset
        source_name = synset if name != synset else None
        categories.append(Category(number, name, "thing", (lemma,), source_name))
    return Taxonomy("visual-genome", tuple(categories))


def _lemma(synset: str) -> str:
    """The words of `fire_hydrant.n.01`; a synset of another form stays as it is."""
    word, _, rest = synset.partition(".")
    return (word.replace("_", " ").strip() if rest else "") or synset


def _synset(value: Mapping[str, Any]) -> str | None:
    """The first synset of an object; None without any."""
    synsets = value.get("synsets")
    first = synsets[0] if isinstance(synsets, list) and synsets else None
    return (plain_text(first) or None) if isinstance(first, str) else None


def _box(value: Mapping[str, Any]) -> drawn_shapes.Draw | AnnotationError:
    """The box of an object, or why there is none."""
    sides = [side for key in ("x", "y", "w", "h") if is_number(side := value.get(key))]
    if len(sides) < 4:
        return AnnotationError("malformed-annotation", "x, y, w and h are not four numbers")
    try:
        drawn_shapes.check_coordinates(sides)
        x, y, width, height = map(float, sides)
        return drawn_shapes.box(x, y, width, height)
    except AnnotationError as error:
        return error


def _image_id(entry: Any) -> str:
    """The id of an image, under `id` in version 1.0; "" without one."""
    value = entry.get("image_id", entry.get("id")) if isinstance(entry, dict) else None
    return plain_text(str(value)) if is_id(value) else ""


def _image_names(
    image_id: str, entry: Any, facts: _ImageData | None
) -> tuple[str, tuple[str, ...]]:
    """The name of an image, "" if it has none, and its possible paths."""
    url = entry.get("image_url") if facts is None and isinstance(entry, dict) else None
    address = facts.url if facts is not None else url if isinstance(url, str) else ""
    path = plain_text(address).replace("\\", "/").split("/")[-2:]
    name = "/".join(path) if stem(path[-1]) else f"{image_id}.jpg"
    if not image_id:
        return "", ("",)
    last = name.rpartition("/")[2]
    names = [name, last, *(f"{folder}/{last}" for folder in _FOLDERS)]
    candidates = image_candidates(names)
    return candidates[0], candidates


def _read_image_data(path: Path) -> dict[str, _ImageData]:
    """The images in image_data.json by id; the first of several with one id.

    Raises:
        InputError: the file cannot be read, or an entry has no id, size or address.
    """
    images: dict[str, _ImageData] = {}
    for number, (entry, _) in enumerate(json_stream.elements(path)):
        image_id = _image_id(entry)
        facts = entry if isinstance(entry, dict) else {}
        size = drawn_shapes.stated_size(facts.get("width"), facts.get("height"))
        url = facts.get("url", "")
        if not image_id or size is None or max(size) >= 1 << 31 or not isinstance(url, str):
            message, record = "an image without image_id, width, height or url", f"[{number}]"
            raise InputError(message, file=path, record=record, hint=_SIZE_HINT)
        images.setdefault(image_id, _ImageData(*size, url))
    return images
