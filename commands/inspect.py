"""`segkit inspect`: the content of a set, a run or a feature bank, and its lineage."""

import json
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Any

import typer
from rich.table import Table
from rich.tree import Tree

from segkit.errors import InputError

from .common import emit, note, plain, table

_MAX_CLASSES = 40
_MAX_LIST = 8
_SET_KEYS = (
    *("name", "split", "kind", "taxonomy", "images", "segments", "masked", "boxes_only", "crowds"),
    *("images_by", "digest"),
)


def inspect(
    spec: str = typer.Argument(
        metavar="SET|RUN|BANK",
        help="A shard set, a run or a feature bank: DIR (its newest version) or DIR@v1.",
    ),
    all_classes: bool = typer.Option(
        False, "--all", help=f"Show every class, not only the {_MAX_CLASSES} largest."
    ),
    mask_policy: list[str] = typer.Option(
        [],
        "--mask-policy",
        metavar="[CLASSES=]POLICY",
        help="Show what a mask policy (mask, box or none) of the set, of classes or of a group, "
        "such as @voc20, would leave of its masks; repeatable.",
    ),
) -> None:
    """Show a shard set or a run: kind, counts, a table of classes, and lineage to the sources.

    Example: segkit inspect work/coco-train@v1

    Example: segkit inspect work/coco-train --mask-policy box --mask-policy @voc20=mask
    """
    from segkit.shards.lineage import describe

    result = describe(spec)
    if mask_policy:
        result["mask_policy"] = _count_policies(result, mask_policy)
    if result["type"] == "run":
        result["damage"] = _damage(Path(result["path"]))
    is_set = result["type"] == "shards"
    tables = _set_tables(result, all_classes) if is_set else [_run_table(result)]
    tree = Tree(plain(f"Lineage: {_version_line(result)}"))
    _add_parents(tree, result["parents"])
    emit(result, schema="segkit.inspect/1", tables=[*tables, tree])
    if result.get("damage"):
        note(f"the run is damaged, `segkit validate {quote(spec)}` lists how")


def _damage(version: Path) -> list[str]:
    """What differs between the files of a run and its manifest."""
    from segkit.runs.run_manifest import damage, read_run_manifest

    try:
        manifest = read_run_manifest(version)
    except InputError:  # such as a manifest of a newer segkit, of which the table shows what it can
        return []
    return [f"{item.where}: {item.detail}" for item in damage(version, manifest)]


def _set_tables(result: dict[str, Any], all_classes: bool) -> list[Table]:
    summary = table(result["path"], ("", ""), [(key, result[key]) for key in _SET_KEYS])
    ledger = [
        (name, count["input"], count["kept"], _dropped(count["dropped"]))
        for name, count in ((name, result["ledger"][name]) for name in ("images", "annotations"))
        if count["input"]
    ]
    ledger_table = [table("Ledger", ("", "input", "kept", "dropped"), ledger)] if ledger else []
    policies = [_policy_table(result["mask_policy"])] if "mask_policy" in result else []
    return [summary, *ledger_table, *policies, _class_table(result["classes"], all_classes)]


def _count_policies(result: dict[str, Any], items: list[str]) -> dict[str, dict[str, Any]]:
    """Classes, segments, masks and the names of classes by policy.

    Args:
        result: of `describe`.
        items: as of --mask-policy.
    """
    from segkit.data.mask_policy import count_policies, mask_policies, resolve_files
    from segkit.recipes.load import load_recipe
    from segkit.shards.reader import ShardSet

    if result["type"] != "shards":
        hint = "its arguments show the counts of its own policies"
        raise InputError("--mask-policy needs a shard set", file=result["path"], hint=hint)
    shards, name = ShardSet.open(result["path"]), result["name"]
    selectors = {}
    for item in items:
        selector, equals, policy = item.rpartition("=")
        selectors[f"{name}:{selector}" if equals else name] = policy
    override = ", ".join(
        f"{json.dumps(key, ensure_ascii=False)} = {json.dumps(value)}"
        for key, value in selectors.items()
    )
    recipe = load_recipe("dataseg-mini", [f"data.mask_policy={{{override}}}"])
    policies = mask_policies(name, shards.taxonomy, resolve_files(recipe.data))
    counts: dict[str, dict[str, Any]] = {**count_policies(shards, policies)}
    for policy in counts:
        ids = [class_id for class_id, chosen in policies.items() if chosen == policy]
        counts[policy]["names"] = [shards.taxonomy.unique_names[class_id] for class_id in ids]
    return counts


def _policy_table(counts: dict[str, dict[str, Any]]) -> Table:
    """What becomes of the masks under each policy."""
    rows = [
        (policy, row["classes"], row["segments"], row["masks"], ", ".join(row["names"][:_MAX_LIST]))
        for policy, row in counts.items()
    ]
    columns = ("policy", "classes", "segments", "masks", f"the first {_MAX_LIST}")
    return table("Mask policy: only masks of policy mask are used", columns, rows)


def _dropped(counts: dict[str, int]) -> str:
    return ", ".join(f"{code} {number}" for code, number in counts.items()) or "-"


def _class_table(classes: dict[str, dict[str, int]], all_classes: bool) -> Table:
    present = {name: counts for name, counts in classes.items() if counts["segments"]}
    names = sorted(present, key=lambda name: (-present[name]["segments"], name))
    if not all_classes:
        names = names[:_MAX_CLASSES]
    columns = ("segments", "images", "pixels")
    rows = [(name, *(present[name][key] for key in columns)) for name in names]
    sizes = f"{len(names)} shown of {len(present)} present, {len(classes)} in the taxonomy"
    return table(f"Classes ({sizes})", ("class", *columns), rows)


def _run_table(result: dict[str, Any]) -> Table:
    rows = [
        pair for key, value in result.items() if key != "parents" for pair in _flatten(key, value)
    ]
    return table(result["path"], ("", ""), rows)


def _flatten(key: str, value: object) -> Iterator[tuple[str, object]]:
    """The scalars and short lists of a manifest, with nested keys joined by dots."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _flatten(f"{key}.{name}", item)
    elif not isinstance(value, list):
        yield key, value
    elif len(value) <= _MAX_LIST and not any(isinstance(item, dict | list) for item in value):
        yield key, ", ".join(map(str, value))


def _add_parents(tree: Tree, parents: list[dict[str, Any]]) -> None:
    for parent in parents:
        state = "" if parent["found"] else " (no longer there, or changed)"
        _add_parents(tree.add(plain(_version_line(parent) + state)), parent["parents"])


def _version_line(version: dict[str, Any]) -> str:
    arguments = (version.get("arguments") or {}).items()
    text = " ".join(f"{key}={value}" for key, value in arguments if value)
    return f"{version['path']} [{version.get('command', '?')} {text}]"
