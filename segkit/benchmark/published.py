"""Figures that others have published, each with its source."""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from segkit.errors import InputError
from segkit.shards.reader import ShardSet
from segkit.sources.categories import plain_name
from segkit.taxonomy import Taxonomy, known_taxonomies, load_taxonomy

_TRANSFER = {
    ("pascal-context-59", "semantic"): "pascal-context-59",
    ("pascal-context-459", "semantic"): "pascal-context-459",
    ("coco-panoptic-133", "semantic"): "coco-semantic",
    ("coco-panoptic-133", "panoptic"): "coco-semantic",
    ("cityscapes-19", "panoptic"): "cityscapes-panoptic",
    ("ade20k-150", "panoptic"): "ade-panoptic-zero-shot",
}
"""Class list and kind of a set -> the rows of direct transfer."""


@dataclass(frozen=True, slots=True)
class Row:
    """One published figure."""

    model: str
    backbone: str
    trained_on: str
    value: float
    """In percent."""
    source: str
    """The paper."""


@dataclass(frozen=True, slots=True)
class Published:
    """A benchmark's rows, and the key of metrics.json that they are to be compared with."""

    name: str
    title: str
    metric: str
    classes: str
    """The known vocabulary that the rows were measured in."""
    rows: tuple[Row, ...]


@cache
def _content() -> dict[str, Any]:
    text = (resources.files("segkit.schemas") / "published_results.json").read_text("utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def benchmarks() -> tuple[str, ...]:
    """Names of all benchmarks with published rows."""
    return tuple(_content()["benchmarks"])


def published(name: str) -> Published:
    """The rows of a benchmark; InputError where there is no such one."""
    content = _content()
    if name not in content["benchmarks"]:
        raise InputError(f"unknown benchmark {name!r}", hint=f"one of {', '.join(benchmarks())}")
    found = content["benchmarks"][name]
    rows = tuple(
        Row(**row | {"source": content["sources"][row["source"]]}) for row in found["rows"]
    )
    return Published(name, found["title"], found["metric"], found["classes"], rows)


def other_classes(rows: Published, truth: ShardSet) -> tuple[str, ...]:
    """In words, that a set has other classes than the published rows; empty where it has the same,
    under any ids."""
    if (found := class_list(truth.taxonomy)) == rows.classes:
        return ()
    count = len(truth.taxonomy.categories)
    return (
        f"the published rows are of {rows.classes}, the set has {count} classes of {found!r}: not comparable",
    )


def class_list(taxonomy: Taxonomy) -> str:
    """The known vocabulary that has exactly these names, whatever their ids and order; else the
    taxonomy's own name."""
    own = {plain_name(name) for name in taxonomy.names}
    same = (
        name
        for name in known_taxonomies()
        if {plain_name(n) for n in load_taxonomy(name).names} == own
    )
    return next(same, taxonomy.name)


def transfer_benchmark(truth: ShardSet) -> str:
    """Name of the direct-transfer benchmark that a set is; InputError where no rows were published
    for it."""
    classes = class_list(truth.taxonomy)
    name = _TRANSFER.get((classes, truth.manifest.kind))
    if name is None:
        known = ", ".join(f"{kind} {taxonomy}" for taxonomy, kind in _TRANSFER)
        message = f"no published rows for {truth.manifest.kind} {classes}"
        raise InputError(message, file=truth.path, hint=f"use `segkit eval`, or a set of {known}")
    return name
