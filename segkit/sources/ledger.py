"""Counts what becomes of every image and annotation of a source, for the manifest's ledger.

Inputs are counted where the source is read, kept annotations in the finished samples, and dropped
ones where they are rejected. The three counts are independent, so `input == kept + sum(dropped)`
is a real check: it can fail.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import IO, Any

from segkit.errors import InputError
from segkit.shards.manifest import Count, Ledger

DROP_HINTS: dict[str, str] = {
    "bad-size": "give the image a positive width and height in the annotation file",
    "covered-by-instance": "nothing to fix: instances pasted over the region hide all of it",
    "degenerate-box": "give the box a positive width and height",
    "degenerate-polygon": "give every polygon at least three points",
    "duplicate-id": "make the ids unique",
    "empty-mask": "remove the annotation or give it pixels",
    "known-missing-image": "nothing to fix: no archive of the dataset contains this image",
    "malformed-annotation": "fix the fields of the record",
    "malformed-image": "fix the fields of the record",
    "mask-size-mismatch": "give the mask the size of its image",
    "missing-image": "put the file there or remove the image from the annotation file",
    "missing-mask": "put the mask there or remove the image",
    "no-panoptic-segment": (
        "nothing to fix: the object is hidden, or the panoptic file does not show it"
    ),
    "no-synset": "nothing to fix: the object's names are not linked to a synset",
    "not-annotated": "annotate the image; nobody says that it shows no object",
    "not-chosen": "nothing to fix: another annotation of the task was taken, or it is a prediction",
    "rare-class": (
        "nothing to fix: the class is not among the most frequent ones, of which "
        "`segkit convert visual-genome --classes N` takes more"
    ),
    "size-mismatch": "use the image that was annotated, or fix its size in the annotation file",
    "turned-image": (
        "convert with --exif apply if the labels were drawn on the picture as viewers show it, "
        "with --exif keep if they were drawn on the stored pixels"
    ),
    "unknown-category": "add the category to the source's list or remove the annotation",
    "unknown-image": "add the image to the annotation file or remove the annotation",
    "unlisted-segment": "list the segment in the JSON or set its pixels to 0",
    "unreadable-annotations": "fix the file or save it again with the labeling tool",
    "unreadable-image": "replace the file with an undamaged copy",
    "unreadable-mask": "replace the file with an undamaged copy",
    "unsafe-path": "use a file name inside the data folder",
    "unsupported-shape": "nothing to fix: a line, a point or a tag covers no pixels",
}
"""Codes under which an image or annotation is dropped, each with the way to fix the source."""

UNAVOIDABLE = frozenset(
    {
        *("covered-by-instance", "known-missing-image", "no-panoptic-segment"),
        *("no-synset", "not-annotated", "not-chosen", "rare-class", "unsupported-shape"),
    }
)
"""Drops that nobody can fix: they are counted and quarantined, but never fail a conversion."""

MAX_DEFECTS = 100
"""Defects that a tally lists in full; it only counts the rest, of which there may be millions."""

WARNINGS: dict[str, str] = {
    "area-mismatch": (
        "the area in the JSON is not that of the pixels; panoptic sets take the pixels, "
        "instances keep an area of 0 or more, wrong by a factor of 2"
    ),
    "box-beyond-image": "the box reaches beyond the image; kept as it is",
    "box-mismatch": "the box in the JSON does not fit the pixels; their tight box is taken",
    "crowd-differs": (
        "the panoptic file and the instances file disagree on `iscrowd`; "
        "the value of the instances file is kept"
    ),
    "dark-16-bit": (
        "a 16-bit image whose values fill less than a quarter of the range, so that it is nearly "
        "black; multiply its values"
    ),
    "degenerate-part": (
        "a polygon of fewer than three points beside other parts of its object is left out"
    ),
    "exact-duplicate": "the same class, box and mask twice in an image; both kept",
    "exif-orientation": (
        "the file asks viewers to turn it; its pixels are used as stored; if the labels were drawn "
        "on the turned picture, convert with --exif apply"
    ),
    "exif-turned": "the file asks viewers to turn it; stored turned, as a PNG",
    "instance-class-differs": (
        "an instance covers pixels of another class in the semantic map; the instance is kept"
    ),
    "file-name-differs": (
        "an annotation file that names another image than the one with its own name, which is used"
    ),
    "joined": (
        "a panoptic segment shows the same object as an instance; one segment holds both and "
        "counts once"
    ),
    "joined-parts": (
        "a further part of an object (same group and class); one segment holds them and counts once"
    ),
    "mask-without-image": "a mask that has no image",
    "negative-area": "the area in the JSON is negative; that of the pixels or of the box is taken",
    "no-instance": "a thing that only the panoptic file has; kept",
    "no-mask": "an annotation without a mask; kept as a box",
    "non-canonical-rle": (
        "run lengths with empty runs or long numbers; stored as pycocotools writes the same pixels"
    ),
    "not-exhaustive": (
        "an image without a dropped annotation; it counts as not exhaustive for that class, "
        "so that the instance AP of the set follows the rules of LVIS"
    ),
    "not-in-instances": "an image of the panoptic file that the instances file does not list; kept",
    "passed-over": "a file of a listed folder that has no extension of an image or mask",
    "rotated-box": "a rotated box; kept as the upright box around it, with its corners",
    "thin-polygon": (
        "a polygon that contains the center of no pixel; its mask is the pixels on its edge"
    ),
    "score-out-of-range": "a score that is not within 0-1 is left out",
    "unlabelled-image": "an image without any annotation; kept as an image without segments",
    "wrong-extension": "the format of the file is not the one that its extension names",
}
"""Codes of oddities that lose nothing."""


@dataclass(frozen=True, slots=True)
class Defect:
    """A defect of the source that loses data, with what a person needs to find and fix it."""

    code: str
    """A key of `DROP_HINTS`."""
    message: str
    file: str
    record: str
    class_name: str | None = None
    """Class of the annotation; None for an entire image."""
    data: Any = None
    """The source's own record, as JSON values."""
    hint: str | None = None
    """How to fix it, where the source can say more than `DROP_HINTS`."""

    def error(self, more: int = 0, hint: str | None = None) -> InputError:
        """Return the error of one line that fails a conversion.

        Args:
            more: number of further defects.
            hint: how to fix all of them; by default the hint of this defect.
        """
        rest = f" (and {more} more defect{'s' * (more > 1)})" if more else ""
        hint = hint or f"{self.hint or DROP_HINTS[self.code]}, or convert with --on-error skip"
        return InputError(
            f"{self.message} [{self.code}]{rest}", file=self.file, record=self.record, hint=hint
        )

    def to_json(self) -> dict[str, Any]:
        """Return a line of `quarantine.jsonl`; `hint` only appears where the defect has its own."""
        return {key: value for key, value in asdict(self).items() if key != "hint" or value}


class ImageError(Exception):
    """An image that cannot be used at all; raised with its defect."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        file: object,
        record: str,
        data: Any = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.defect = Defect(code, message, str(file), record, None, data, hint)


class AnnotationError(Exception):
    """An annotation that cannot be kept; its image can."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


_BY_CLASS = (
    "images_dropped",
    "image_warnings",
    "annotations_in",
    "kept",
    "uncounted",
    "corner_boxes",
)
_BY_CLASS_AND_CODE = ("dropped", "warnings")


@dataclass
class Tally:
    """Counts over a shard or an entire run; annotations are counted by class name."""

    images_in: int = 0
    images_kept: int = 0
    images_dropped: Counter[str] = field(default_factory=Counter)
    """Code -> images."""
    image_warnings: Counter[str] = field(default_factory=Counter)
    """Code -> images."""
    annotations_in: Counter[str] = field(default_factory=Counter)
    """Class -> annotations read."""
    kept: Counter[str] = field(default_factory=Counter)
    """Class -> annotations kept."""
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(class, code) -> annotations."""
    warnings: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(class, code) -> annotations."""
    defects: list[Defect] = field(default_factory=list)
    """The first `MAX_DEFECTS` defects that fail a conversion."""
    offenders: int = 0
    """Number of all defects that fail a conversion."""
    uncounted: Counter[str] = field(default_factory=Counter)
    """Class -> kept annotations that neither training nor scores count: crowds, ignored ones."""
    corner_boxes: Counter[str] = field(default_factory=Counter)
    """Class -> kept boxes (x, y, width, height) that look like corners (x1, y1, x2, y2)."""
    notes: list[str] = field(default_factory=list)
    """What the source must tell the user, one line each."""
    log: IO[str] | None = field(default=None, compare=False, repr=False)
    """Receives every loss as a line of JSON."""

    def drop_image(self, defect: Defect, classes: Iterable[str]) -> None:
        """Count an image as lost, together with its annotations of these classes."""
        self.images_dropped[defect.code] += 1
        self.dropped.update((name, defect.code) for name in classes)
        self._record(defect)

    def drop_orphan(self, defect: Defect, classes: Iterable[str]) -> None:
        """Count a record that belongs to no image as read and lost, with its annotations."""
        names = list(classes)
        self.annotations_in.update(names)
        self.dropped.update((name, defect.code) for name in names)
        self._record(defect)

    def drop(self, defect: Defect) -> None:
        """Count one annotation as lost."""
        self.dropped[str(defect.class_name), defect.code] += 1
        self._record(defect)

    def warn(self, code: str, class_name: str) -> None:
        """Count an oddity of an annotation that is kept."""
        self.warnings[class_name, code] += 1

    def join(self, class_name: str, code: str = "joined") -> None:
        """Count two annotations of one object, both read, as a single input."""
        self.annotations_in[class_name] -= 1
        self.warn(code, class_name)

    def add(self, tally: "Tally") -> None:
        """Add the counts and defects of another tally to this one."""
        self.images_in += tally.images_in
        self.images_kept += tally.images_kept
        for name in (*_BY_CLASS, *_BY_CLASS_AND_CODE):
            getattr(self, name).update(getattr(tally, name))
        self.defects.extend(tally.defects[: MAX_DEFECTS - len(self.defects)])
        self.offenders += tally.offenders

    def _record(self, defect: Defect) -> None:
        if self.log is not None:
            self.log.write(json.dumps(defect.to_json()) + "\n")
        if defect.code in UNAVOIDABLE:
            return
        self.offenders += 1
        if len(self.defects) < MAX_DEFECTS:
            self.defects.append(defect)

    def ledger(self) -> Ledger:
        """Return the ledger.

        Raises:
            SegkitError: the ledger does not balance.
        """
        classes = sorted({*self.annotations_in, *self.kept, *(name for name, _ in self.dropped)})
        images = Count(
            input=self.images_in,
            kept=self.images_kept,
            dropped=_nonzero(self.images_dropped),
            warnings=_nonzero(self.image_warnings),
        )
        annotations = Count(
            input=self.annotations_in.total(),
            kept=self.kept.total(),
            dropped=_sum_by_code(self.dropped),
            warnings=_sum_by_code(self.warnings),
        )
        dropped, warnings = _codes_by_class(self.dropped), _codes_by_class(self.warnings)
        per_class = {
            name: Count(
                input=self.annotations_in[name],
                kept=self.kept[name],
                dropped=_nonzero(dropped.get(name, {})),
                warnings=_nonzero(warnings.get(name, {})),
            )
            for name in classes
        }
        ledger = Ledger(annotations=annotations, images=images, per_class=per_class)
        ledger.check()
        return ledger

    def to_json(self) -> dict[str, Any]:
        """Return the tally as JSON values; `from_json` is the inverse."""
        return {
            "images_in": self.images_in,
            "images_kept": self.images_kept,
            **{name: dict(getattr(self, name)) for name in _BY_CLASS},
            **{
                name: [[*key, count] for key, count in getattr(self, name).items()]
                for name in _BY_CLASS_AND_CODE
            },
            "defects": [defect.to_json() for defect in self.defects],
            "offenders": self.offenders,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Tally":
        """Read a tally back from the values of `to_json`."""

        def by_code(name: str) -> Counter[tuple[str, str]]:
            return Counter({(class_name, code): count for class_name, code, count in data[name]})

        return cls(
            images_in=int(data["images_in"]),
            images_kept=int(data["images_kept"]),
            images_dropped=Counter(data["images_dropped"]),
            image_warnings=Counter(data["image_warnings"]),
            annotations_in=Counter(data["annotations_in"]),
            kept=Counter(data["kept"]),
            uncounted=Counter(data["uncounted"]),
            corner_boxes=Counter(data["corner_boxes"]),
            dropped=by_code("dropped"),
            warnings=by_code("warnings"),
            defects=[Defect(**defect) for defect in data["defects"]],
            offenders=int(data["offenders"]),
        )


def _nonzero(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the counts that are not 0, sorted by code."""
    return {code: counts[code] for code in sorted(counts) if counts[code]}


def _codes_by_class(counts: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    """Class -> code -> annotations."""
    by_class: dict[str, dict[str, int]] = {}
    for (name, code), count in counts.items():
        by_class.setdefault(name, {})[code] = count
    return by_class


def _sum_by_code(counts: Mapping[tuple[str, str], int]) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for (_, code), count in counts.items():
        totals[code] += count
    return _nonzero(totals)
