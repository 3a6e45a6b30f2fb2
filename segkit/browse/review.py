"""Turn the tags that a user set in the App into a label layer."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from segkit.arguments import check_choice
from segkit.browse.connect import fiftyone
from segkit.browse.dataset import TRUTH, lineage_of
from segkit.errors import InputError
from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.shards.header import Header
from segkit.shards.manifest import Count, Ledger
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_view

Action = Literal["drop", "ignore", "keep-as-box"]
ACTIONS: tuple[Action, ...] = get_args(Action)


@dataclass(frozen=True)
class Tags:
    """The tags of a dataset: of images, and of single labels."""

    images: dict[str, set[str]] = field(default_factory=dict)
    """Image id -> tags."""
    labels: dict[str, dict[int, set[str]]] = field(default_factory=dict)
    """Image id -> position of the segment in its row -> tags."""

    def counts(self) -> Counter[str]:
        """How often each tag occurs."""
        every = [*self.images.values()]
        every += [tags for labels in self.labels.values() for tags in labels.values()]
        return Counter(tag for tags in every for tag in tags)


def read_tags(name: str, shards: ShardSet) -> Tags:
    """Read the tags of a dataset that `load` made of this version of the set.

    Raises:
        InputError: there is no such dataset, or it shows another version.
    """
    fo = fiftyone()
    if not fo.dataset_exists(name):
        hint = "browse the set first, or give --name"
        raise InputError(f"FiftyOne has no dataset {name!r}", file=shards.path, hint=hint)
    dataset = fo.load_dataset(name)
    lineage = lineage_of(dataset)
    if lineage is None or lineage["digest"] != shards.manifest.digest:
        shown = "no set of segkit" if lineage is None else lineage["path"]
        hint = "give the version that was browsed, such as SET@v1"
        raise InputError(f"the dataset {name!r} shows {shown}", file=shards.path, hint=hint)
    ids, image_tags = dataset.values(["image_id", "tags"])
    images = {image: set(tags) for image, tags in zip(ids, image_tags, strict=True) if tags}
    labels: dict[str, dict[int, set[str]]] = defaultdict(dict)
    things = f"{TRUTH}_things"
    if dataset.has_field(things):
        paths = [f"{things}.detections.{key}" for key in ("segment", "tags")]
        for image, positions, tags in zip(ids, *dataset.values(paths), strict=True):
            for position, names in zip(positions or (), tags or (), strict=True):
                if names:
                    labels[image][position] = set(names)
    return Tags(images, dict(labels))


def write_back(
    shards: ShardSet,
    destination: str | Path,
    tags: Tags,
    actions: Mapping[str, Action],
    arguments: dict[str, Any],
) -> ShardSet:
    """Publish the set with the actions of its tags applied, as a layer.

    drop: leave out the tagged image, or the tagged label. ignore: set `ignore` on the tagged label,
    or on all labels of the tagged image. keep-as-box: delete the mask, keep the box. Where labels
    cover the image (panoptic, semantic), the pixels of a dropped or ignored label become void.

    Args:
        shards: the set that was browsed.
        destination: directory of the new set's versions.
        tags: of the dataset.
        actions: tag -> action.
        arguments: the command's arguments.

    Raises:
        InputError: nothing has these tags, or keep-as-box for labels that cover the image.
    """
    for action in actions.values():
        check_choice(action, Action, "action")
    covers = shards.manifest.kind in ("panoptic", "semantic")
    if covers and "keep-as-box" in actions.values():
        hint = "give drop or ignore, whose pixels become void"
        message = f"labels of a {shards.manifest.kind} set cannot be kept as boxes"
        raise InputError(message, file=shards.path, hint=hint)
    present = tags.counts()
    for tag in actions:
        if not present[tag]:
            known = ", ".join(sorted(present)) or "there are none"
            raise InputError(
                f"no image and no label has the tag {tag!r}",
                file=shards.path,
                hint=f"tags are: {known}",
            )
    counted = _Counts()

    def rows() -> Iterator[tuple[Sample, ShardSet]]:
        for sample in shards.samples(check_masks=True):
            reviewed = _review(sample, tags, actions, covers, counted.add)
            if reviewed is not None:
                yield reviewed, shards

    header = Header.from_set(shards, "browse", arguments)
    return write_view(
        destination,
        rows(),
        (shards,),
        header,
        ledger=lambda: counted.ledger(shards),
    )


@dataclass
class _Counts:
    """What the review dropped and altered."""

    dropped_images: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    altered: Counter[str] = field(default_factory=Counter)

    def add(self, action: str, segments: int, *, image: bool = False) -> None:
        code = f"review-{action}"
        if image:
            self.dropped_images[code] += 1
        (self.dropped if action == "drop" or image else self.altered)[code] += segments

    def ledger(self, shards: ShardSet) -> Ledger:
        segments = shards.manifest.statistics.segments - self.dropped.total()
        images = len(shards) - self.dropped_images.total()
        return Ledger(
            annotations=Count.from_kept(segments, self.dropped, self.altered),
            images=Count.from_kept(images, self.dropped_images),
        )


def _review(
    sample: Sample,
    tags: Tags,
    actions: Mapping[str, Action],
    covers: bool,
    add: Callable[..., None],
) -> Sample | None:
    """The sample with the actions applied; None if it is dropped."""
    of_image = {actions[tag] for tag in tags.images.get(sample.id, set()) & actions.keys()}
    if "drop" in of_image:
        add("drop", len(sample.segments), image=True)
        return None
    segments: list[Segment] = []
    void = [] if sample.void is None else [sample.void]
    tagged = tags.labels.get(sample.id, {})
    for position, segment in enumerate(sample.segments):
        chosen = of_image | {actions[tag] for tag in tagged.get(position, set()) & actions.keys()}
        if "drop" in chosen or (covers and chosen):
            add("drop", 1)
            void += [] if segment.mask is None else [segment.mask]
            continue
        if "ignore" in chosen:
            add("ignore", 1)
            segment = replace(segment, ignore=True)
        if "keep-as-box" in chosen and segment.mask is not None:
            add("keep-as-box", 1)
            area = segment.box[2] * segment.box[3]
            segment = replace(segment, mask=None, mask_from=None, area=area, score=None)
        segments.append(segment)
    changed = replace(sample, segments=tuple(segments))
    if covers and len(segments) < len(sample.segments):
        return replace(changed, void=rle.union(void, sample.height, sample.width))
    return changed
