"""Scripts import only what exists, also inside functions that no test calls."""

import ast
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
Modules = Mapping[str, Any]
"""From `structure.read_modules`."""


@pytest.fixture(scope="module")
def modules() -> Modules:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        structure = importlib.import_module("structure")
    modules: Modules = structure.read_modules(("segkit", "commands", "schemas", "scripts"))
    return modules


def defined_names(tree: ast.Module) -> set[str]:
    """Names at the top level of a module, conditions and loops included."""
    names: set[str] = set()
    nodes: list[ast.AST] = [tree]
    while nodes:
        match nodes.pop():
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names |= {alias.asname or alias.name.partition(".")[0] for alias in aliases}
            case node:
                nodes += ast.iter_child_nodes(node)
    return names


def missing_names(tree: ast.Module, modules: Modules) -> Iterator[str]:
    """What a script imports from segkit and from other scripts, or reads there, in vain."""
    imported: dict[str, str] = {}
    """Name in the script -> module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if name := module_name(alias.name, modules):
                    imported[alias.asname or alias.name] = name
                elif alias.name.startswith("segkit"):
                    yield alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            source = module_name(node.module, modules)
            if source is None and node.module.startswith("segkit"):
                yield node.module
            for alias in node.names if source else ():
                if name := module_name(f"{source}.{alias.name}", modules):
                    imported[alias.asname or alias.name] = name
                elif alias.name not in defined_names(modules[str(source)].tree):
                    yield f"{source}.{alias.name}"
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in imported:
                names = defined_names(modules[imported[name]].tree)
                module = f"{imported[name]}.{attribute}"
                if not names & {attribute, "__getattr__"} and module not in modules:
                    yield module


def module_name(name: str, modules: Modules) -> str | None:
    """The full name of a module of segkit or a script; None for modules of other packages."""
    return next((full for full in (name, f"scripts.{name}") if full in modules), None)


def test_every_imported_name_exists(modules: Modules) -> None:
    scripts = {name: module for name, module in modules.items() if name.startswith("scripts.")}
    assert len(scripts) > 40
    missing = {name: list(missing_names(module.tree, modules)) for name, module in scripts.items()}
    assert {name: names for name, names in missing.items() if names} == {}


def test_missing_names_are_found(modules: Modules) -> None:
    source = """
import segkit.nowhere
from segkit.sample import Sample, nothing
from experiments import REAL_DATA, THE_DATA

def measure():
    from segkit.inference import predict_boxes
    from segkit.inference.predict_boxes import _crop_around, crop_around
    return predict_boxes.crop_around, predict_boxes.no_crop
"""
    assert list(missing_names(ast.parse(source), modules)) == [
        "segkit.nowhere",
        "segkit.sample.nothing",
        "scripts.experiments.THE_DATA",
        "segkit.inference.predict_boxes._crop_around",
        "segkit.inference.predict_boxes.no_crop",
    ]
