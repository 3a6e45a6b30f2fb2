"""Check the data sets of a training run; imports no PyTorch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segkit.data.mask_policy import concerns, mask_policies
from segkit.errors import InputError
from segkit.recipes.schema import DataConfig, MaskPolicy, Recipe
from segkit.sample import Segment
from segkit.shards.manifest import TASKS, Task
from segkit.shards.reader import ShardSet


@dataclass(frozen=True)
class NamedDataset:
    """A shard set under the name that logs and mask policies use."""

    name: str
    shards: ShardSet
    weight: float
    """Sampling weight: how often steps draw the data set, relative to the others."""


def check_sets(sets: Sequence[NamedDataset], config: DataConfig) -> None:
    """Check names, weights and mask policies of data sets.

    Raises:
        InputError: no data set, an empty one, one of labels only, one twice, a name used twice, a
            weight that is not positive, or a policy for a set or class that does not exist.
    """
    names = [data.name for data in sets]
    if not names:
        raise InputError("no data set", hint="give at least one with --data")
    paths = [data.shards.path for data in sets]
    for data in sets:
        name, shards, weight = data.name, data.shards, data.weight
        if paths.count(shards.path) > 1:
            hint = "give it once, followed by its weight: SET=WEIGHT"
            raise InputError("the same set is given more than once", file=shards.path, hint=hint)
        if names.count(name) > 1:
            message, hint = f"two data sets are named {name!r}", "give each its own name"
            raise InputError(message, file=shards.path, hint=hint)
        if not 0 < weight < float("inf"):
            message, hint = f"its sampling weight is {weight}", "give a positive number after ="
            raise InputError(message, file=shards.path, hint=hint)
        if not len(shards):
            raise InputError("it has no images", file=shards.path, hint="leave the data set out")
        shards.require_images()
    for key in config.mask_policy:
        if not any(concerns(key, name) for name in names):
            hint = f"name one of: {', '.join(names)}"
            raise InputError("no such data set", record=f"data.mask_policy.{key}", hint=hint)


def require_targets(sets: Sequence[NamedDataset], config: DataConfig) -> None:
    """Raise InputError for a data set that nothing can be learned from.

    That is one without a segment that can become a target: not a crowd, not ignored, of a class
    whose mask policy is not none, and a thing in a set of instances. Images without objects may
    accompany other sets, since there everything is background.
    """
    usable = {}
    for data in sets:
        policies = mask_policies(data.name, data.shards.taxonomy, config)
        task = TASKS[data.shards.manifest.kind]
        usable[data.name] = any(
            is_target(segment, task, policies)
            for sample in data.shards.samples()
            for segment in sample.segments
        )
    for data in sets:
        segments = data.shards.manifest.statistics.segments
        negatives = not segments and TASKS[data.shards.manifest.kind] == "instance"
        if usable[data.name] or (negatives and any(usable.values())):
            continue
        message, hint = "it has no segments to learn from", "leave the data set out"
        if segments:
            message = f"none of its {segments} segments can be learned from"
            hint = (
                "they are crowds, ignored, stuff in a set of instances, or of mask policy none; "
                "for COCO crowds that are objects, `segkit convert coco --crowds-as-objects`"
            )
        raise InputError(message, file=data.shards.path, hint=hint)


def require_things(sets: Sequence[NamedDataset], recipe: Recipe, *, resume: bool) -> None:
    """Raise InputError where foreground queries, or keys that concern boxes, find nothing.

    With `resume`, some of them are accepted: the interrupted run may be of a version that did.
    """
    things = {
        data.name: any(category.kind == "thing" for category in data.shards.taxonomy.categories)
        for data in sets
    }
    for data in sets:
        if not things[data.name] and TASKS[data.shards.manifest.kind] == "instance":
            hint = "leave the data set out"
            raise InputError("none of its classes is a thing", file=data.shards.path, hint=hint)
    if not any(things.values()):
        message = "no class of the data sets is a thing, which foreground queries are for"
        raise InputError(message, record="model.foreground", hint="set it to 0")
    of_boxes = (
        ("loss.denoising", recipe.loss.denoising > 0, "set it to 0"),
        ("model.refine_boxes", recipe.model.refine_boxes and not resume, "set it to false"),
        ("inference.boxes", recipe.inference.boxes == "head" and not resume, "set it to mask"),
    )
    if all(TASKS[data.shards.manifest.kind] == "semantic" for data in sets):
        message = "no data set has boxes of things: those of semantic sets are unions"
        for key, is_set, hint in of_boxes:
            if is_set:
                raise InputError(message, record=key, hint=hint)


def require_boxes(sets: Sequence[NamedDataset], config: DataConfig) -> None:
    """Raise InputError unless some thing, outside of semantic sets, trains with only its box."""
    if not has_boxes_only(sets, config):
        message, hint = "no data set has boxes without masks", 'set it to "off"'
        raise InputError(message, record="loss.box_assist", hint=hint)


def has_boxes_only(sets: Sequence[NamedDataset], config: DataConfig) -> bool:
    """Whether some thing, outside of semantic sets, trains with only its box."""
    for data in sets:
        policies = mask_policies(data.name, data.shards.taxonomy, config)
        task = TASKS[data.shards.manifest.kind]
        if task != "semantic" and any(
            segment.kind == "thing"
            and (segment.mask is None or policies[segment.class_id] == "box")
            for sample in data.shards.samples()
            for segment in sample.segments
            if is_target(segment, task, policies)
        ):
            return True
    return False


def require_scores(sets: Sequence[NamedDataset]) -> None:
    """Raise InputError where no set has a pseudo-mask with a score."""
    for data in sorted(sets, key=lambda data: data.shards.manifest.command != "pseudolabel"):
        for sample in data.shards.samples():
            if any(s.mask_from == "pseudo" and s.score is not None for s in sample.segments):
                return
    message = "no data set has pseudo-masks with scores"
    raise InputError(message, record="loss.trust_scores", hint="leave it out")


def is_target(segment: Segment, task: Task, policies: Mapping[int, MaskPolicy]) -> bool:
    """Whether a segment can become a target of training."""
    if segment.is_crowd or segment.ignore or policies.get(segment.class_id) == "none":
        return False
    return task != "instance" or segment.kind == "thing"
