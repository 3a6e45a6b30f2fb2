"""Tallies: what became of every image and annotation of a source, added up into the manifest's
ledger.

Inputs are counted where a source is read, what is kept is counted from the finished samples, what
is dropped where it is refused: three independent counts, so that `input == kept + sum(dropped)` can
fail and is a check.
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
    "covered-by-instance": "nothing to mend: instances pasted over it hide all of the region",
    "degenerate-box": "give the box a positive width and height",
    "degenerate-polygon": "give every polygon at least three points",
    "duplicate-id": "make the ids unique",
    "empty-mask": "remove the annotation or give it pixels",
    "known-missing-image": "nothing to mend: no archive of the data set has this image",
    "malformed-annotation": "mend the fields of the record",
    "malformed-image": "mend the fields of the record",
    "mask-size-mismatch": "give the mask the size of its image",
    "missing-image": "put the file there or take the image out of the annotation file",
    "missing-mask": "put the mask there or take the image out",
    "no-panoptic-segment": "nothing to mend: the object is hidden, or the panoptic file does not show it",
    "size-mismatch": "use the image that was annotated, or mend its size in the annotation file",
    "unknown-category": "add the category to the source's list or take the annotation out",
    "unknown-image": "add the image to the annotation file or take the annotation out",
    "unlisted-segment": "list the segment in the JSON or set its pixels to 0",
    "unreadable-image": "replace the file by an undamaged copy",
    "unreadable-mask": "replace the file by an undamaged copy",
    "unsafe-path": "name a file inside of the data folder",
}
"""Codes under which an image or annotation is dropped, each with the way to mend the source."""

UNAVOIDABLE = frozenset({"covered-by-instance", "known-missing-image", "no-panoptic-segment"})
"""Drops that nobody can mend: they are counted, written to the quarantine, and never fail a
conversion."""

MAX_DEFECTS = 100
"""Offenders that a tally names; of the others, which may be millions, it keeps the number."""

WARNINGS: dict[str, str] = {
    "area-mismatch": "the area in the JSON is not the number of pixels; the pixels are right",
    "box-beyond-image": "the box reaches beyond the image; kept as it is",
    "box-mismatch": "the box in the JSON is not that of the pixels; the pixels are right",
    "crowd-differs": "the panoptic file and the instances file disagree on `iscrowd`; the instances file's is kept",
    "exact-duplicate": "the same class, box and mask twice in an image; both kept",
    "exif-orientation": "the file asks viewers to turn it; its pixels are used as they are stored",
    "instance-class-differs": "an instance lies on pixels of another class in the semantic map; the instance is kept",
    "joined": "an instance that a panoptic segment shows as well; one segment holds both and counts once",
    "mask-without-image": "a mask to which there is no image",
    "no-instance": "a thing of the panoptic file that the instances file does not have; kept",
    "no-mask": "an annotation without a mask; kept as a box",
    "not-in-instances": "an image of the panoptic file that the instances file does not list; kept",
    "unlabelled-image": "an image without any annotation; kept as an image without segments",
    "wrong-extension": "the file's contents are of another format than its name says",
}
"""Codes of what is worth knowing and loses nothing."""


@dataclass(frozen=True, slots=True)
class Defect:
    """Something in the source that loses data: named so that a person finds it."""

    code: str
    message: str
    file: str
    record: str
    class_name: str | None = None
    """Class of the annotation; None for a whole image."""
    data: Any = None
    """The source's own record, JSON values."""
    hint: str | None = None
    """How to mend it, where the source knows better than `DROP_HINTS` does."""

    def error(self, more: int = 0, hint: str | None = None) -> InputError:
        """The defect as the one line that fails a conversion.

        Args:
            more: how many others were found beside it.
            hint: what mends all of them; by default what mends this one, or to leave them all out.
        """
        others = f" (and {more} more defect{'s' * (more > 1)})" if more else ""
        hint = hint or f"{self.hint or DROP_HINTS[self.code]}, or convert with --on-error skip"
        return InputError(
            f"{self.message} [{self.code}]{others}", file=self.file, record=self.record, hint=hint
        )

    def to_json(self) -> dict[str, Any]:
        """A line of `quarantine.jsonl`; it has a `hint` where the defect has one of its own."""
        return {key: value for key, value in asdict(self).items() if key != "hint" or value}


class ImageError(Exception):
    """Raised where an image cannot be used at all."""

    def __init__(
        self, code: str, message: str, *, file: object, record: str, data: Any = None
    ) -> None:
        super().__init__(message)
        self.defect = Defect(code, message, str(file), record, None, data)


class AnnotationError(Exception):
    """Raised where one annotation of an image cannot be kept."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


_PLAIN = ("images_dropped", "image_warnings", "seen", "kept")
_PAIRED = ("dropped", "warnings")


@dataclass
class Tally:
    """Counts of a shard or of a whole run; classes by name."""

    images_in: int = 0
    images_kept: int = 0
    images_dropped: Counter[str] = field(default_factory=Counter)
    image_warnings: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(class, code) -> annotations."""
    warnings: Counter[tuple[str, str]] = field(default_factory=Counter)
    defects: list[Defect] = field(default_factory=list)
    """The first `MAX_DEFECTS` that fail a conversion."""
    offenders: int = 0
    """How many fail a conversion."""
    log: IO[str] | None = field(default=None, compare=False, repr=False)
    """Takes every loss as a line of JSON."""

    def drop_image(self, defect: Defect, classes: Iterable[str]) -> None:
        """An image is lost, and with it the annotations of these classes."""
        self.images_dropped[defect.code] += 1
        self.dropped.update((name, defect.code) for name in classes)
        self._note(defect)

    def orphan(self, defect: Defect, classes: Iterable[str]) -> None:
        """A record that belongs to no image comes in and is lost, with the annotations of these
        classes."""
        names = list(classes)
        self.seen.update(names)
        self.dropped.update((name, defect.code) for name in names)
        self._note(defect)

    def drop(self, defect: Defect) -> None:
        """One annotation is lost."""
        self.dropped[str(defect.class_name), defect.code] += 1
        self._note(defect)

    def warn(self, code: str, class_name: str) -> None:
        """One annotation is kept although something about it is odd."""
        self.warnings[class_name, code] += 1

    def join(self, class_name: str) -> None:
        """Two annotations that came in describe one object: they count once."""
        self.seen[class_name] -= 1
        self.warn("joined", class_name)

    def add(self, other: "Tally") -> None:
        """Add another tally's counts and defects to this one."""
        self.images_in += other.images_in
        self.images_kept += other.images_kept
        for name in (*_PLAIN, *_PAIRED):
            getattr(self, name).update(getattr(other, name))
        self.defects.extend(other.defects[: MAX_DEFECTS - len(self.defects)])
        self.offenders += other.offenders

    def _note(self, defect: Defect) -> None:
        if self.log is not None:
            self.log.write(json.dumps(defect.to_json()) + "\n")
        if defect.code in UNAVOIDABLE:
            return
        self.offenders += 1
        if len(self.defects) < MAX_DEFECTS:
            self.defects.append(defect)

    def ledger(self) -> Ledger:
        """The ledger, checked.

        Raises:
            SegkitError: it does not balance.
        """
        classes = sorted({*self.seen, *self.kept, *(name for name, _ in self.dropped)})
        per_class = {name: self._class(name) for name in classes}
        images = Count(
            input=self.images_in,
            kept=self.images_kept,
            dropped=_sorted(self.images_dropped),
            warnings=_sorted(self.image_warnings),
        )
        annotations = Count(
            input=self.seen.total(),
            kept=self.kept.total(),
            dropped=_by_code(self.dropped),
            warnings=_by_code(self.warnings),
        )
        ledger = Ledger(annotations=annotations, images=images, per_class=per_class)
        ledger.check()
        return ledger

    def _class(self, name: str) -> Count:
        return Count(
            input=self.seen[name],
            kept=self.kept[name],
            dropped=_sorted(
                {code: n for (owner, code), n in self.dropped.items() if owner == name}
            ),
            warnings=_sorted(
                {code: n for (owner, code), n in self.warnings.items() if owner == name}
            ),
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values; `from_json` is the inverse."""
        return {
            "images_in": self.images_in,
            "images_kept": self.images_kept,
            **{name: dict(getattr(self, name)) for name in _PLAIN},
            **{name: [[*pair, n] for pair, n in getattr(self, name).items()] for name in _PAIRED},
            "defects": [defect.to_json() for defect in self.defects],
            "offenders": self.offenders,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Tally":
        """Inverse of `to_json`."""
        pairs = {
            name: Counter({(owner, code): n for owner, code, n in data[name]})
            for name in ("dropped", "warnings")
        }
        return cls(
            images_in=int(data["images_in"]),
            images_kept=int(data["images_kept"]),
            images_dropped=Counter(data["images_dropped"]),
            image_warnings=Counter(data["image_warnings"]),
            seen=Counter(data["seen"]),
            kept=Counter(data["kept"]),
            dropped=pairs["dropped"],
            warnings=pairs["warnings"],
            defects=[Defect(**defect) for defect in data["defects"]],
            offenders=int(data["offenders"]),
        )


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return {code: counts[code] for code in sorted(counts) if counts[code]}


def _by_code(pairs: Mapping[tuple[str, str], int]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for (_, code), number in pairs.items():
        total[code] += number
    return _sorted(total)
