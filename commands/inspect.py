"""`segkit inspect`: the content of a shard set or a run, and its lineage."""

from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Any

import typer
from rich.table import Table
from rich.tree import Tree

from segkit.errors import InputError

from .common import JSON_OPTION, emit, note, plain, table

_MAX_CLASSES = 40
_MAX_LIST = 8
_SET_KEYS = (
    *("name", "split", "kind", "taxonomy", "images", "segments", "masked", "boxes_only", "crowds"),
    *("images_by", "digest"),
)


def inspect(
    spec: str = typer.Argument(
        metavar="SET|RUN", help="A shard set or a run: DIR (its newest version) or DIR@v1."
    ),
    all_classes: bool = typer.Option(
        False, "--all", help=f"Show every class, not only the {_MAX_CLASSES} largest."
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Show a shard set or a run: kind, counts, a table of classes, and lineage to the sources.

    Example: segkit inspect work/coco-train@v1
    """
    from segkit.shards.lineage import describe

    result = describe(spec)
    if result["type"] == "run":
        result["damage"] = _damage(Path(result["path"]))
    tables = [_run_table(result)] if result["type"] == "run" else _set_tables(result, all_classes)
    tree = Tree(plain(f"Lineage: {_version_line(result)}"))
    _add_parents(tree, result["parents"])
    emit(result, schema="segkit.inspect/1", as_json=as_json, tables=[*tables, tree])
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
    return [summary, *ledger_table, _class_table(result["classes"], all_classes)]


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
