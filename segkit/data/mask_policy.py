"""Mask policies: which classes of a data set train with masks, with boxes, or not at all.

`data.mask_policy` maps selectors to policies. A selector is the name of a set, or a name, a colon
and classes of it: a class, several separated by commas, `@` and the name of a group, or `@` and a
file with a class a line. Classes by name come before groups, groups before the set. A policy
decides by class, never by whether a segment has a mask. Imports no PyTorch.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from segkit import parse
from segkit.errors import InputError, plural
from segkit.recipes.schema import DataConfig, MaskPolicy
from segkit.shards.reader import ShardSet
from segkit.taxonomy import Category, Taxonomy, load_taxonomy, normalize

GROUPS = ("@voc20", "@nonvoc60", "@coco80", "@randomN:SEED")
"""Named groups: the classes of Pascal VOC, the classes of COCO without those, all of COCO, and N
things drawn by a seed."""
_RANDOM = re.compile(r"@random(\d{1,6}):(\d{1,18})")
_KEY = "data.mask_policy"
PolicyCounts = dict[str, dict[str, int]]
"""Policy -> `classes`, `segments` and, of these, `masks`; only under `mask` are masks used."""


def mask_policies(name: str, taxonomy: Taxonomy, config: DataConfig) -> dict[int, MaskPolicy]:
    """The policy of every class id of one data set.

    Args:
        name: of the data set, as selectors name it.
        taxonomy: its classes.
        config: `mask_policy` without files, see `resolve_files`.

    Raises:
        InputError: a class that the set does not have, an unknown group or one without classes of
            the set, two policies for a class, or groups that leave all masks as they are.
    """
    default = config.mask_policy.get(name, "mask")
    by_group: dict[int, tuple[MaskPolicy, str]] = {}
    by_class: dict[int, tuple[MaskPolicy, str]] = {}
    for selector, policy in _selectors(name, config):
        key = f"{_KEY}.{name}:{selector}"
        named = _named_classes(selector, taxonomy)
        ids = named if named is not None else _select(selector, taxonomy, key)
        policies = by_group if named is None and selector.startswith("@") else by_class
        for class_id in ids:
            first, first_key = policies.setdefault(class_id, (policy, key))
            if first != policy:
                message = (
                    f"{taxonomy.by_id[class_id].name!r} is {policy}, but {first} by {first_key}"
                )
                raise InputError(message, record=key, hint="give each class one policy")
    chosen = {
        category.id: (by_class.get(category.id) or by_group.get(category.id) or (default, ""))[0]
        for category in taxonomy.categories
    }
    if by_group and set(chosen.values()) == {"mask"}:
        hint = f'set also {name} = "box", the policy of its other classes'
        raise InputError("changes nothing: all classes have masks", record=_KEY, hint=hint)
    return chosen


def resolve_files(config: DataConfig) -> DataConfig:
    """Replace each selector `SET:@FILE` by one per class, so that a run depends on no file.

    Raises:
        InputError: neither a known group nor a readable file, one without names, or one whose class
            has two policies.
    """
    resolved: dict[str, MaskPolicy] = {}
    for key, policy in config.mask_policy.items():
        name, _, file = key.partition(":@")
        keys = [key]
        if file and _is_file(f"@{file}"):
            keys = [f"{name}:{line}" for line in _read_names(Path(file), f"{_KEY}.{key}")]
        for resolved_key in keys:
            if resolved.setdefault(resolved_key, policy) != policy:
                message = f"{resolved_key!r} has two policies"
                raise InputError(message, record=f"{_KEY}.{key}", hint="give each class one")
    if resolved == config.mask_policy:
        return config
    return config.model_copy(update={"mask_policy": resolved})


def count_policies(shards: ShardSet, policies: Mapping[int, MaskPolicy]) -> PolicyCounts:
    """Count classes, segments and masks by policy; the masks of box and none are not used."""
    names, masks = shards.taxonomy.unique_names, shards.masks_by_class
    statistics = shards.manifest.statistics.classes
    counts: PolicyCounts = {}
    for class_id, policy in policies.items():
        count = counts.setdefault(policy, {"classes": 0, "segments": 0, "masks": 0})
        present = statistics.get(names[class_id])
        count["classes"] += 1
        count["segments"] += present.segments if present else 0
        count["masks"] += masks.get(class_id, 0)
    return counts


def describe_counts(name: str, counts: PolicyCounts) -> str:
    """One line on what the policies of a set drop."""
    parts = [
        f"{counts[policy]['masks']} of {_classes(counts[policy])} {effect}"
        for policy, effect in (("box", "are boxes"), ("none", "are void"))
        if policy in counts
    ]
    used = counts.get("mask", {"masks": 0, "classes": 0})
    return f"{name}: {used['masks']} masks of {_classes(used)} are used, {', '.join(parts)}"


def _classes(count: Mapping[str, int]) -> str:
    return plural(count["classes"], "class", "classes")


def _selectors(name: str, config: DataConfig) -> Iterator[tuple[str, MaskPolicy]]:
    """What follows the name of a set and a colon, with its policy."""
    for key, policy in config.mask_policy.items():
        if key != name and concerns(key, name):
            yield key.removeprefix(f"{name}:"), policy


def concerns(key: str, name: str) -> bool:
    """Whether a key of `data.mask_policy` selects classes of a set, whose name may have colons."""
    return key == name or key.startswith(f"{name}:")


def _named_classes(selector: str, taxonomy: Taxonomy) -> set[int] | None:
    """The ids of the classes of one name; None without any."""
    return {c.id for c in taxonomy.categories if c.name == selector} or None


def _select(selector: str, taxonomy: Taxonomy, key: str) -> set[int]:
    """The class ids of a list or a group."""
    if not selector.startswith("@"):
        ids: set[int] = set()
        for part in selector.split(","):
            named = _named_classes(part.strip(), taxonomy)
            if named is None:
                hint = f"see `segkit inspect` for the classes, or give a group: {', '.join(GROUPS)}"
                raise InputError(f"no such class: {part.strip()!r}", record=key, hint=hint)
            ids |= named
        return ids
    if match := _RANDOM.fullmatch(selector):
        return _draw(int(match[1]), int(match[2]), taxonomy, key)
    if selector not in GROUPS:
        raise InputError("no such group", record=key, hint=f"give one of: {', '.join(GROUPS)}")
    ids = {category.id for category in taxonomy.categories if _belongs(category, selector)}
    if not ids:
        hint = "leave it out, or name classes of the set"
        raise InputError(f"the set has no class of {selector}", record=key, hint=hint)
    return ids


def _belongs(category: Category, group: str) -> bool:
    """Whether a class has a name or a word in common with a class of a group."""
    words = _words(category)
    is_voc = not words.isdisjoint(_words_of_voc())
    if group == "@voc20":
        return is_voc
    return not (is_voc and group == "@nonvoc60") and any(
        not words.isdisjoint(_words(c)) for c in load_taxonomy("coco-80").categories
    )


@cache
def _words_of_voc() -> frozenset[str]:
    """The words of VOC's classes, with those of COCO's classes that share a word with one.

    COCO's tv has the word `tv`, VOC's has not; both are `television`.
    """
    voc = frozenset[str]().union(*map(_words, load_taxonomy("voc-20").categories))
    shared = [words for words in map(_words, load_taxonomy("coco-80").categories) if words & voc]
    return voc.union(*shared)


def _words(category: Category) -> frozenset[str]:
    return frozenset(map(normalize, (category.name, *category.words)))


def _draw(count: int, seed: int, taxonomy: Taxonomy, key: str) -> set[int]:
    """Draw things, or of all classes where the set has no things; the same for any order of ids."""
    things = [category for category in taxonomy.categories if category.kind == "thing"]
    candidates = things or list(taxonomy.categories)
    if not 0 < count <= len(candidates):
        hint = f"draw 1 to {len(candidates)}"
        message = f"cannot draw {count} of {len(candidates)} classes"
        raise InputError(message, record=key, hint=hint)

    def order(category: Category) -> tuple[str, int]:
        return hashlib.sha256(f"{seed}:{category.name}".encode()).hexdigest(), category.id

    return {category.id for category in sorted(candidates, key=order)[:count]}


def _is_file(selector: str) -> bool:
    return (
        selector.startswith("@") and selector not in GROUPS and _RANDOM.fullmatch(selector) is None
    )


def _read_names(file: Path, key: str) -> Iterable[str]:
    """The lines of a file that are not blank."""
    if not parse.exists(str(file)):
        hint = f"give a file with a class a line, or one of: {', '.join(GROUPS)}"
        raise InputError(f"neither a group nor a file: @{file}", record=key, hint=hint)
    names = [line for _, line in parse.read_lines(file)]
    if not names:
        raise InputError("names no class", file=file, hint="give a class a line")
    return dict.fromkeys(names)
