"""The destination of an export: its image files, exclusive masks, a report."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError, SegkitError
from segkit.export.image_names import ImageNames, count_same_names, plan_names
from segkit.images.orientation import without_orientation
from segkit.masks import rle
from segkit.sample import MIN_DRAWN_SCORE, Sample, Segment
from segkit.shards.label_columns import read_images
from segkit.shards.reader import ShardSet
from segkit.sources.labels_file import write_labels
from segkit.taxonomy import Taxonomy


@dataclass
class ExportReport:
    """What an export wrote, and what its format could not represent."""

    images: int = 0
    annotations: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Segments left out, by reason."""
    altered: Counter[str] = field(default_factory=Counter)
    """Segments written differently, by what was done to them: to the mask, box or id."""
    images_altered: Counter[str] = field(default_factory=Counter)
    """Images written differently: `annotated-classes` (the format does not say which were
    annotated, or how fully), `renamed` (the file), `renumbered` (the id), `same-name` (as another
    image), `unlabeled` (pixels without a label are void there), `void` (void pixels are not marked
    there)."""
    segments: int = 0
    unlikely: int = 0
    """Segments of the set, where no lowest score was asked for, and those of them with a score
    below `MIN_DRAWN_SCORE`."""
    files: list[str] = field(default_factory=list)
    """Files and folders that were written, relative to the directory."""

    def leave_out(self, reason: str, count: int) -> None:
        """Count segments that the format cannot represent."""
        if count:
            self.dropped[reason] += count

    def add_names(self, names: ImageNames) -> None:
        """Count the images that have another file name than in the set."""
        if names.renamed:
            self.images_altered["renamed"] += len(names.renamed)

    def add_same_names(self, data: ShardSet) -> None:
        """Count images that the export names like others; it was asked for no image files."""
        if same := count_same_names(data):
            self.images_altered["same-name"] += same

    def count_unlabeled(self, unlabeled: NDArray[np.bool_]) -> None:
        """Count an image if some pixels without a label become void."""
        if unlabeled.any():
            self.images_altered["unlabeled"] += 1

    def count_void(self, sample: Sample) -> None:
        """Count an image with void pixels, which the format does not mark."""
        if sample.void is not None and rle.area(sample.void, sample.height, sample.width):
            self.images_altered["void"] += 1

    def to_json(self) -> dict[str, Any]:
        """Return the JSON values that `segkit export --json` prints."""
        return {
            "images": self.images,
            "annotations": self.annotations,
            "dropped": dict(sorted(self.dropped.items())),
            "altered": dict(sorted(self.altered.items())),
            "images_altered": dict(sorted(self.images_altered.items())),
            "files": self.files,
        }


def require_kind(data: ShardSet, kinds: tuple[str, ...], format_name: str, reason: str) -> None:
    """Raise InputError if the format does not fit the set's kind; `reason` says why not."""
    if data.manifest.kind in kinds:
        return
    message = f"cannot export a set of kind {data.manifest.kind} as {format_name}: {reason}"
    raise InputError(message, file=data.path, hint=f"give a set of kind {' or '.join(kinds)}")


def confident_segments(
    sample: Sample, min_score: float, report: ExportReport
) -> tuple[Segment, ...]:
    """The segments of a sample without those of a lower score, which are counted as left out."""
    scores = [1.0 if segment.score is None else segment.score for segment in sample.segments]
    if not min_score:
        report.segments += len(scores)
        report.unlikely += sum(score < MIN_DRAWN_SCORE for score in scores)
        return sample.segments
    pairs = zip(sample.segments, scores, strict=True)
    kept = tuple(segment for segment, score in pairs if score >= min_score)
    report.leave_out("low-score", len(sample.segments) - len(kept))
    return kept


def counted_samples(
    data: ShardSet,
    report: ExportReport,
    *,
    check_masks: bool = True,
    keeps_void: bool = False,
    min_score: float | None = None,
    on_image: Callable[[], None] = lambda: None,
) -> Iterator[Sample]:
    """Yield the samples of a set for a format that does not say which classes were annotated.

    Where the format has a lowest score, see `confident_segments`.

    Images that are annotated for only some classes, or not exhaustively, are counted; so are those
    with void pixels, unless the format marks these.
    """
    for sample in data.samples(check_masks=check_masks):
        if sample.annotated is not None or not sample.exhaustive:
            report.images_altered["annotated-classes"] += 1
        if not keeps_void:
            report.count_void(sample)
        if min_score is not None:
            sample = replace(sample, segments=confident_segments(sample, min_score, report))
        yield sample
        on_image()


def unlabeled_pixels(numbers: NDArray[np.int32], sample: Sample) -> NDArray[np.bool_]:
    """The pixels that have no label and are not void either, as VOC's background.

    Args:
        numbers: (H, W) map of `paint_masks`.
        sample: the sample; where it does not know its void pixels, all without a label are void.

    Returns:
        (H, W)
    """
    if sample.void is None:
        return np.zeros(numbers.shape, bool)
    void = rle.decode(sample.void, sample.height, sample.width)
    unlabeled: NDArray[np.bool_] = (numbers == 0) & ~void
    return unlabeled


def new_file_path(folder: Path, name: PurePosixPath) -> Path:
    """Return the path of a file in an export, and create its folder."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def single_objects(sample: Sample, report: ExportReport) -> Iterator[Segment]:
    """Yield the segments of a sample, for formats without crowds and without objects to ignore.

    These are left out and counted, the others counted as written.
    """
    for segment in sample.segments:
        if segment.is_crowd or segment.ignore:
            report.leave_out("crowd" if segment.is_crowd else "ignore", 1)
            continue
        report.annotations += 1
        yield segment


def paint_masks(
    masks: Sequence[tuple[int, bytes]], sample: Sample, format_name: str
) -> NDArray[np.int32]:
    """Paint numbered masks of a sample into one (H, W) map; 0 elsewhere.

    Raises:
        SegkitError: two masks share a pixel, which the format cannot represent.
    """
    numbers = rle.paint(masks, sample.height, sample.width)
    if int(rle.areas([mask for _, mask in masks]).sum()) != np.count_nonzero(numbers):
        message = f"image {sample.id}: masks share pixels, which {format_name} cannot represent"
        raise SegkitError(message)
    return numbers


def write_images(
    data: ShardSet,
    folder: Path,
    names: ImageNames | None = None,
    on_image: Callable[[], None] = lambda: None,
) -> None:
    """Write every image file with the bytes of the source, once where several samples share it.

    Only an EXIF orientation goes: other programs would turn the pixels, which the labels fit.

    Args:
        data: the set.
        folder: is created.
        names: of `plan_names`; by default, each image has its own, and shares it.
        on_image: called after each image.
    """
    if names is None:
        names = plan_names(data, lambda name: [name], rename=True, shared=True)
    for sample in data.read_ahead(read_images(data)):
        path = new_file_path(folder, names.path(sample))
        if not path.exists():
            path.write_bytes(without_orientation(data.image_bytes(sample)))
        on_image()


def write_taxonomy(path: Path, taxonomy: Taxonomy) -> None:
    """Write a taxonomy as JSON."""
    path.write_text(json.dumps(taxonomy.to_json(), indent=1) + "\n", "utf-8")


def write_class_list(
    folder: Path, taxonomy: Taxonomy, names: Mapping[int, str] | None = None
) -> None:
    """Write `labels.txt` and `taxonomy.json`, which say what class ids mean.

    `names` are those of `labels.txt`; None takes the source's.
    """
    if names is None:
        names = {entry.id: entry.source_name or entry.name for entry in taxonomy.categories}
    write_labels(folder / "labels.txt", names)
    write_taxonomy(folder / "taxonomy.json", taxonomy)


def split_name(data: ShardSet) -> str:
    """Return the split, or else the set's name, in a form that fits file names."""
    name = data.manifest.split or data.manifest.name
    letters = (letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
    return "".join(letters).lstrip(".") or "set"
