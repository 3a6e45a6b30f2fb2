"""Replace the boxes of a set by masks of a teacher, as a label layer."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING

from segkit import storage
from segkit.file_names import path_text
from segkit.inference.box_masks import BoxMask, ImagePrompts
from segkit.inference.label_shards import Counts, Label, label_shards
from segkit.inference.open_teacher import TeacherSpec
from segkit.inference.overlaps import occupied_pixels, resolve_overlaps
from segkit.inference.streams import prefetch, unbatch
from segkit.inference.teacher import Teacher
from segkit.masks.rle import encode
from segkit.sample import Sample, Segment, is_object, needs_mask
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.storage import StrPath
from segkit.workers.devices import Workers

if TYPE_CHECKING:
    from segkit.recipes.schema import Strategy
    from segkit.runs.run import Run

_DECODED_AHEAD = 8
"""Images decoded ahead of the model."""


@dataclass(frozen=True)
class Transfer:
    """Counts of a set's segments: `boxes`, `already_masked` and `left_alone` are all of them."""

    boxes: int
    """Segments that the teacher was prompted with, `masked` or `kept_as_boxes`."""
    masked: int
    kept_as_boxes: int
    already_masked: int
    left_alone: int
    """Crowds and ignored segments without a mask."""


@dataclass(frozen=True)
class _PromptedSample:
    sample: Sample
    indices: list[int]
    """The segments that need a mask."""
    prompts: list[ImagePrompts]
    """Their boxes: one entry, or none where no segment needs a mask."""


def pseudolabel(
    teacher: "Teacher | Run | StrPath",
    data: ShardSet | StrPath,
    out: StrPath,
    *,
    strategy: "Strategy | None" = None,
    exclusive: bool = False,
    workers: Workers = Workers(),
    spec: TeacherSpec | None = None,
    name: str | None = None,
    force: bool = False,
    on_images: Callable[[int], None] = lambda images: None,
    on_boxes: Callable[[int], None] = lambda boxes: None,
    on_resume: Callable[[int], None] = lambda images: None,
) -> tuple[ShardSet, Transfer]:
    """Write a label layer over a set in which boxes have become masks.

    Boxes without a confident mask stay boxes. Segments that have a mask, crowds and ignored ones
    stay as they are.

    Args:
        teacher: where the masks come from, or its name, see `open_teacher`; or a trained run.
        data: any set, or its path.
        out: shard set to publish the new version in.
        strategy: of a run, see `RunTeacher`.
        exclusive: give each pixel to one mask, see `resolve_overlaps`; masks that the set has
            already keep theirs.
        workers: devices that share the work; CPUs for a teacher without a model.
        spec: from which each worker opens the teacher by itself; required if there are workers,
            unless `teacher` is a name.
        name: of the layer; None takes that of its directory.
        force: publish a version that equals the newest one too; without it, that one is returned,
            with an UnchangedWarning.
        on_images: called with the number of images that were just labeled.
        on_boxes: called just before with the number of boxes in them that prompted the teacher.
        on_resume: called first with the number of those that an interrupted run had labeled.

    Returns:
        The published version, and the counts.

    Raises:
        InputError: a set that holds labels only, or classes that the teacher cannot serve.
        ValueError: workers without `spec`, or a name beside it.
    """
    data = data if isinstance(data, ShardSet) else ShardSet.open(data)
    data.require_images()
    if isinstance(teacher, str | os.PathLike):
        if spec is not None:
            raise ValueError("the name of a teacher and a spec: give one of them")
        spec = TeacherSpec(path_text(teacher), strategy)
        teacher = spec.on(workers.caller_device).open()
    open_label: Callable[[str], Label] | None = None
    if not workers.in_process:
        if spec is None:
            raise ValueError("workers need the spec of the teacher")
        if not spec.has_model:
            workers = replace(workers, device="cpu")
        open_label = partial(_open_worker, spec, data, exclusive)
    if not isinstance(teacher, Teacher):
        from segkit.inference.run_teacher import RunTeacher

        teacher = RunTeacher(teacher, strategy)
    described = teacher.as_arguments() if workers.in_process else teacher.worker_arguments(workers)
    arguments = {**described, "data": str(data.path)}
    if exclusive:
        arguments["resolve_overlaps"] = True
    header = replace(
        Header.from_set(data, "pseudolabel", arguments),
        name=name or storage.location(out).resolve().name or data.manifest.name,
        kind="instance" if data.manifest.kind == "boxes" else data.manifest.kind,
        parents=teacher.parents(out),
    )
    teacher.prepare(data.taxonomy)
    label = partial(_label, data, exclusive, teacher)

    def on_labeled(images: int, counts: Counts) -> None:
        on_boxes(counts["boxes"])
        on_images(images)

    layer, counts = label_shards(
        out,
        data,
        open_label or (lambda device: label),
        header,
        workers=workers,
        force=force,
        on_labeled=on_labeled,
        on_resume=on_resume,
    )
    return layer, Transfer(**{field.name: counts[field.name] for field in fields(Transfer)})


def _open_worker(spec: TeacherSpec, data: ShardSet, exclusive: bool, device: str) -> Label:
    teacher = spec.on(device).open()
    teacher.prepare(data.taxonomy)
    return partial(_label, data, exclusive, teacher)


def _label(
    data: ShardSet, exclusive: bool, teacher: Teacher, samples: Iterable[Sample]
) -> Iterator[tuple[Sample, Counts]]:
    """Replace boxes of some samples by masks; count the segments."""
    for prompted, masks in _predict_samples(data, teacher.predict, samples):
        sample, indices = prompted.sample, prompted.indices
        segments = list(sample.segments)
        kept = [mask if mask and teacher.keeps(mask) else None for mask in masks]
        if exclusive:
            kept = resolve_overlaps(kept, occupied_pixels(sample))
        for index, mask in zip(indices, kept, strict=True):
            if mask is not None and mask.inside.any():
                segments[index] = _with_mask(segments[index], mask)
        without_mask = sum(segment.mask is None for segment in sample.segments)
        masked = sum(segments[index].mask is not None for index in indices)
        counts = {
            "boxes": len(indices),
            "masked": masked,
            "kept_as_boxes": len(indices) - masked,
            "already_masked": len(segments) - without_mask,
            "left_alone": without_mask - len(indices),
        }
        yield replace(sample, segments=tuple(segments)), counts


def _predict_samples(
    data: ShardSet,
    predict: Callable[[Iterable[ImagePrompts]], Iterator[Sequence[BoxMask | None]]],
    samples: Iterable[Sample],
) -> Iterator[tuple[_PromptedSample, Sequence[BoxMask | None]]]:
    """Yield each sample with the predictions for its prompted segments."""

    def prompt(sample: Sample) -> _PromptedSample:
        indices = _prompted(sample)
        if not indices:
            return _PromptedSample(sample, [], [])
        segments = [sample.segments[index] for index in indices]
        boxes = [segment.box for segment in segments]
        labels = [data.taxonomy.index[segment.class_id] for segment in segments]
        neighbors = [
            s.box for i, s in enumerate(sample.segments) if i not in indices and is_object(s)
        ]
        prompts = ImagePrompts(data.image(sample), boxes, labels, neighbors)
        return _PromptedSample(sample, indices, [prompts])

    samples = data.read_ahead(samples, lambda sample: bool(_prompted(sample)))
    prompted = prefetch(prompt, samples, ahead=_DECODED_AHEAD)
    for item, masks in unbatch(prompted, lambda item: item.prompts, predict):
        yield item, masks[0] if masks else []


def _prompted(sample: Sample) -> list[int]:
    """The segments that need a mask."""
    return [index for index, segment in enumerate(sample.segments) if needs_mask(segment)]


def _with_mask(segment: Segment, mask: BoxMask) -> Segment:
    """The segment with a pseudo-mask; its class, box and source stay."""
    return replace(
        segment,
        mask=encode(mask.mask),
        area=float(mask.inside.sum()),
        mask_from="pseudo",
        score=min(1.0, mask.score),
    )
