"""Published figures of each benchmark, their sources, and the benchmark that fits a set."""

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
"""Class list and kind of a set -> its direct-transfer benchmark."""


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
class Benchmark:
    """A benchmark and the figures published for it."""

    name: str
    title: str
    metric: str
    """The key of metrics.json that the rows report."""
    classes: str
    """The known vocabulary that the rows were evaluated in."""
    rows: tuple[Row, ...]


@cache
def _content() -> dict[str, Any]:
    text = (resources.files("segkit.schemas") / "published_results.json").read_text("utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def benchmark_names() -> tuple[str, ...]:
    """Names of all benchmarks with published rows."""
    return tuple(_content()["benchmarks"])


def load_benchmark(name: str) -> Benchmark:
    """The benchmark of a name; InputError for an unknown one."""
    content = _content()
    if name not in content["benchmarks"]:
        hint = f"give one of {', '.join(benchmark_names())}"
        raise InputError(f"unknown benchmark {name!r}", hint=hint)
    benchmark = content["benchmarks"][name]
    rows = tuple(
        Row(**row | {"source": content["sources"][row["source"]]}) for row in benchmark["rows"]
    )
    return Benchmark(name, benchmark["title"], benchmark["metric"], benchmark["classes"], rows)


def class_differences(benchmark: Benchmark, truth: ShardSet) -> tuple[str, ...]:
    """State that a set has other classes than the published rows; empty where it has the same.

    The ids of the classes may differ.
    """
    classes, count = class_list(truth.taxonomy), len(truth.taxonomy.categories)
    if classes == benchmark.classes:
        return ()
    published = f"the published rows are of {benchmark.classes}"
    return (f"{published}, the set has {count} classes of {classes!r}: not comparable",)


def class_list(taxonomy: Taxonomy) -> str:
    """The known vocabulary that has exactly these names, or else the taxonomy's own name.

    The ids and the order of the names may differ.
    """
    names = {plain_name(name) for name in taxonomy.names}
    for known in known_taxonomies():
        if {plain_name(name) for name in load_taxonomy(known).names} == names:
            return known
    return taxonomy.name


def transfer_benchmark(truth: ShardSet) -> str:
    """Name of the direct-transfer benchmark that a set belongs to.

    Raises InputError where no rows were published for it.
    """
    classes = class_list(truth.taxonomy)
    name = _TRANSFER.get((classes, truth.manifest.kind))
    if name is None:
        known = ", ".join(f"{kind} {taxonomy}" for taxonomy, kind in _TRANSFER)
        message = f"no published rows for {truth.manifest.kind} {classes}"
        raise InputError(message, file=truth.path, hint=f"use `segkit eval`, or a set of {known}")
    return name
