"""Zero-shot splits: the classes that training must not see, and the sets without them."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segkit import parse, storage
from segkit.arguments import check_choice
from segkit.errors import InputError
from segkit.masks import rle
from segkit.masks.boxes import Mask, filled_box
from segkit.sample import Sample, Segment
from segkit.shards.header import Header
from segkit.shards.manifest import ZERO_SHOT, Count, Ledger
from segkit.shards.reader import ShardSet
from segkit.shards.relabel import relabel_sample
from segkit.shards.split import OTHER_PART, require_parts
from segkit.shards.writer import write_view
from segkit.taxonomy import Taxonomy

Policy = Literal["drop-image", "ignore-pixels"]
POLICIES: tuple[Policy, ...] = ("drop-image", "ignore-pixels")
"""What happens to an image with a segment of an unseen class: it is not in the seen set, or its
pixels of unseen classes are void there."""
SEEN_PART, UNSEEN_PART = "seen", "unseen"
"""Names of the parts."""
UNSEEN_CLASS = "unseen-class"
"""Ledger code of the segments whose class the part does not have."""


@dataclass(frozen=True)
class ClassSplit:
    """The class names of a split."""

    name: str
    unseen: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    """Classes that are neither seen nor unseen: no part has them, their pixels are void."""
    source: str = ""


@dataclass(frozen=True)
class ZeroShotRecord:
    """What the seen set records of its split, so that it travels with the runs trained on it."""

    split: str
    policy: Policy
    unseen: dict[str, Any]
    """The unseen classes, a taxonomy in JSON."""

    @classmethod
    def from_set(cls, data: ShardSet) -> "ZeroShotRecord | None":
        """The record of a set; None where it is not the seen part of a split."""
        content = data.manifest.source_header.get(ZERO_SHOT)
        if content is None:
            return None
        return parse.convert(content, cls, file=data.path, noun="the record of a zero-shot split")

    @property
    def taxonomy(self) -> Taxonomy:
        """The unseen classes."""
        return Taxonomy.from_json(self.unseen)


def known_splits() -> tuple[str, ...]:
    """Names of the splits that ship with the package."""
    files = (entry.name for entry in (resources.files("segkit.schemas") / "splits").iterdir())
    return tuple(sorted(name.removesuffix(".json") for name in files if name.endswith(".json")))


def load_split(name_or_file: str) -> ClassSplit:
    """A shipped split, a JSON file like those, or a text file of unseen classes, one a line.

    Raises:
        InputError: neither a known split nor a file, a file without an unseen class or with unknown
            keys, or a class that is both unseen and left out.
    """
    hint = f"give a file of class names, one a line, or one of: {', '.join(known_splits())}"
    if name_or_file in known_splits():
        folder = resources.files("segkit.schemas") / "splits"
        data = (folder / f"{name_or_file}.json").read_bytes()
        content = parse.parse_json(data, file=name_or_file)
    elif not parse.exists(name_or_file):
        raise InputError(f"unknown split {name_or_file!r}", hint=hint)
    elif Path(name_or_file).suffix == ".json":
        content = parse.read_json(Path(name_or_file), hint=hint)
    else:
        names = [name for _, name in parse.read_lines(Path(name_or_file), hint=hint)]
        content = {"name": Path(name_or_file).stem, "unseen": names}
    split = parse.convert(content, ClassSplit, file=name_or_file, noun="a zero-shot split")
    if not split.unseen:
        raise InputError("names no unseen class", file=name_or_file, hint=hint)
    fields = [field.name for field in dataclasses.fields(ClassSplit)]
    if unknown := sorted(set(content) - set(fields)):
        hint = f"its keys are {', '.join(fields)}"
        raise InputError(f"unknown key {unknown[0]!r}", file=name_or_file, hint=hint)
    if both := sorted({*split.unseen} & {*split.left_out}):
        message = f"{both[0]!r} is unseen and left out"
        raise InputError(message, file=name_or_file, hint="list each class once")
    return split


def split_zero_shot(
    data: ShardSet,
    destination: str | Path,
    split: ClassSplit,
    policy: Policy,
    arguments: dict[str, Any],
    *,
    verify_images: bool = True,
    force: bool = False,
    on_image: Callable[[], None] = lambda: None,
) -> dict[str, ShardSet]:
    """Publish `destination/seen` and `destination/unseen`; no image is copied.

    The seen set has the seen classes only: no name, label or (by its policy) image of an unseen
    class. The unseen set holds the images with a segment of an unseen class, in all classes of the
    split.

    Args:
        data: a set in the classes of the split; more classes count as seen.
        destination: directory of the parts' directories.
        split: the classes.
        policy: see `POLICIES`.
        arguments: the command's arguments.
        verify_images: read each image and compare its bytes with the SHA-256 in its row.
        force: publish versions that equal the newest ones too; without it, those are returned,
            with an UnchangedWarning.
        on_image: called for each image of the set, and again for each part.

    Raises:
        InputError: an unknown policy, the set is the seen part of a split or lacks a class of this
            one, a part would hold no image or cannot be written, or an image is missing or damaged;
            no part is published then.
    """
    check_choice(policy, Policy, "policy")
    if earlier := ZeroShotRecord.from_set(data):
        message = f"is the seen part of {earlier.split}, whose unseen classes it would forget"
        raise InputError(message, file=data.path, hint="split the set that it was made from")
    unseen = _select(data, split.unseen)
    everything = _without(data.taxonomy, _select(data, split.left_out))
    seen_classes = _without(everything, unseen)
    unseen_ids = {category.id for category in unseen.categories}
    if not seen_classes.categories:
        message = "every class of the set is unseen"
        raise InputError(message, file=data.path, hint="leave seen classes to train on")
    require_parts(destination, (SEEN_PART, UNSEEN_PART))
    writer = _PartWriter(data, unseen_ids, policy, arguments, force, on_image)
    images: Counter[str] = Counter()
    for sample in data.samples(check_masks=True):
        if verify_images:
            data.verify_image(sample)
        for part in (SEEN_PART, UNSEEN_PART):
            images[part] += writer.is_in_part(sample, part)
        on_image()
    for part in (SEEN_PART, UNSEEN_PART):
        if not images[part]:
            dropped = part == SEEN_PART and len(data) and policy != "ignore-pixels"
            hint = "give --policy ignore-pixels" if dropped else "give another set"
            message = f"no image is left for the {part} part"
            raise InputError(message, file=data.path, record=split.name, hint=hint)
    record = {"split": split.name, "policy": policy, "unseen": unseen.to_json()}
    home = storage.location(destination)
    return {
        SEEN_PART: writer.write(home / SEEN_PART, SEEN_PART, seen_classes, {ZERO_SHOT: record}),
        UNSEEN_PART: writer.write(home / UNSEEN_PART, UNSEEN_PART, everything, {}),
    }


@dataclass
class _PartWriter:
    """Writes the parts of a set."""

    data: ShardSet
    unseen_ids: set[int]
    policy: Policy
    arguments: dict[str, Any]
    force: bool
    on_image: Callable[[], None]

    def write(
        self, destination: Path, part: str, taxonomy: Taxonomy, record: dict[str, Any]
    ) -> ShardSet:
        """Publish a part in its classes, with a ledger of every image and segment."""
        images, kept, other_class, other_part, joined = 0, 0, 0, 0, 0

        def rows() -> Iterator[tuple[Sample, ShardSet]]:
            nonlocal images, kept, other_class, other_part, joined
            for sample in self.data.samples(check_masks=True):
                self.on_image()
                if not self.is_in_part(sample, part):
                    other_part += len(sample.segments)
                    continue
                restricted = restrict_classes(sample, self.data, taxonomy)
                mapped = sum(s.class_id in taxonomy.by_id for s in sample.segments)
                images += 1
                kept += mapped
                other_class += len(sample.segments) - mapped
                joined += mapped - len(restricted.segments)
                yield restricted, self.data

        def ledger() -> Ledger:
            dropped = {UNSEEN_CLASS: other_class, OTHER_PART: other_part}
            total = len(self.data)
            return Ledger(
                images=Count.from_kept(images, {OTHER_PART: total - images}),
                annotations=Count.from_kept(kept, dropped, {"joined": joined}),
            )

        header = Header.from_set(self.data, "split", self.arguments).with_taxonomy(taxonomy)
        header = replace(header, split=part, source_header=header.source_header | record)
        return write_view(
            destination, rows(), (self.data,), header, ledger=ledger, force=self.force
        )

    def is_in_part(self, sample: Sample, part: str) -> bool:
        """Whether a part has the image of a sample, by the policy."""
        has_unseen = any(segment.class_id in self.unseen_ids for segment in sample.segments)
        if part == UNSEEN_PART:
            return has_unseen
        return self.policy == "ignore-pixels" or not has_unseen


def restrict_classes(sample: Sample, data: ShardSet, taxonomy: Taxonomy) -> Sample:
    """A sample of a set with only the classes of a taxonomy.

    The pixels of all other segments are void, but for those that a remaining segment has, too.
    Where the mask of a segment is not known, its pixels are those of the box.
    """
    class_map = {
        class_id: class_id if class_id in taxonomy.by_id else None
        for class_id in data.taxonomy.by_id
    }
    restricted = relabel_sample(sample, data.manifest.kind, taxonomy, class_map)
    dropped = [s for s in sample.segments if s.class_id not in taxonomy.by_id]
    if not dropped:
        return restricted
    void = np.zeros((sample.height, sample.width), bool)
    for segment in dropped:
        void |= _region(segment, sample)
    for segment in restricted.segments:
        if segment.mask is not None:
            void &= ~_region(segment, sample)
    if sample.void is not None:
        void |= rle.decode(sample.void, *void.shape)
    return replace(restricted, void=rle.encode(void))


def _region(segment: Segment, sample: Sample) -> Mask:
    size = sample.height, sample.width
    if segment.mask is None:
        return filled_box(segment.box, *size)
    return rle.decode(segment.mask, *size)


def _select(data: ShardSet, names: Sequence[str]) -> Taxonomy:
    """The classes of these names; InputError if the set lacks one."""
    if missing := [name for name in names if name not in data.taxonomy.names]:
        message = f"the set has no class {', '.join(map(repr, missing[:5]))}"
        hint = "see segkit inspect; give a split of the set's classes"
        raise InputError(message, file=data.path, hint=hint)
    chosen = [category for category in data.taxonomy.categories if category.name in names]
    return Taxonomy(data.taxonomy.name, tuple(chosen))


def _without(taxonomy: Taxonomy, hidden: Taxonomy) -> Taxonomy:
    rest = [category for category in taxonomy.categories if category.id not in hidden.by_id]
    return Taxonomy(taxonomy.name, tuple(rest))
