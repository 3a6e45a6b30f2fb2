"""`segkit inspect`: what a shard set or a run holds, and its lineage."""

from collections.abc import Iterator
from typing import Any

import typer
from rich.tree import Tree

from .common import JSON_OPTION, emit, stdout, table

_CLASSES = 40


def inspect(
    spec: str = typer.Argument(
        metavar="SET|RUN", help="A shard set or a run: DIR (its newest version) or DIR@v1."
    ),
    all_classes: bool = typer.Option(
        False, "--all", help=f"Show every class, not only the {_CLASSES} largest."
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Show the content and the lineage of a shard set or a run: kind, counts, a row per class.

    Example: segkit inspect work/coco-train@v1
    """
    from segkit.shards.lineage import describe

    result = describe(spec)
    if as_json:
        emit(result, schema="segkit.inspect/1", as_json=True, tables=[])
        return
    tables = _run_tables(result) if result["type"] == "run" else _set_tables(result, all_classes)
    emit(result, schema="segkit.inspect/1", as_json=False, tables=tables)
    stdout.print(_tree(result))


def _set_tables(result: dict[str, Any], all_classes: bool) -> list[Any]:
    keys = (
        "name",
        "split",
        "kind",
        "taxonomy",
        "images",
        "segments",
        "masked",
        "boxes_only",
        "images_by",
        "digest",
    )
    head = table(result["path"], ("", ""), [(key, result[key]) for key in keys])
    ledger = [
        (
            what,
            count["input"],
            count["kept"],
            ", ".join(f"{code} {n}" for code, n in count["dropped"].items()) or "-",
        )
        for what, count in ((what, result["ledger"][what]) for what in ("images", "annotations"))
        if count["input"]
    ]
    kept = [table("Ledger", ("", "input", "kept", "dropped"), ledger)] if ledger else []
    present = {name: row for name, row in result["classes"].items() if row["segments"]}
    order = sorted(present, key=lambda name: (-present[name]["segments"], name))
    shown = order if all_classes else order[:_CLASSES]
    rows = [
        (name, *(present[name][key] for key in ("segments", "images", "pixels"))) for name in shown
    ]
    title = f"Classes ({len(shown)} shown of {len(present)} present, {len(result['classes'])} in the taxonomy)"
    return [head, *kept, table(title, ("class", "segments", "images", "pixels"), rows)]


def _run_tables(result: dict[str, Any]) -> list[Any]:
    rows = [pair for key, value in result.items() if key != "parents" for pair in _flat(key, value)]
    return [table(result["path"], ("", ""), rows)]


def _flat(key: str, value: object) -> Iterator[tuple[str, object]]:
    """Scalars of a manifest, nested keys joined by dots; lists only where they are short."""
    if isinstance(value, dict):
        for inner, item in value.items():
            yield from _flat(f"{key}.{inner}", item)
    elif not isinstance(value, list):
        yield key, value
    elif len(value) <= 8 and not any(isinstance(item, dict | list) for item in value):
        yield key, ", ".join(map(str, value))


def _tree(result: dict[str, Any]) -> Tree:
    tree = Tree(f"Lineage: {_node(result)}")
    _branches(tree, result["parents"])
    return tree


def _branches(tree: Tree, parents: list[dict[str, Any]]) -> None:
    for parent in parents:
        found = "" if parent["found"] else " (not there any more, or changed)"
        _branches(tree.add(_node(parent) + found), parent["parents"])


def _node(version: dict[str, Any]) -> str:
    from rich.markup import escape

    arguments = " ".join(
        f"{key}={value}" for key, value in (version.get("arguments") or {}).items() if value
    )
    return escape(f"{version['path']} [{version.get('command', '?')} {arguments}]")
