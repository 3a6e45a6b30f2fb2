"""Check the structure of the repository: imports between rooms, file names and lengths, names.

    python scripts/structure.py             # a line for each check; exit code 1 on a violation
    python scripts/structure.py --all       # list every violation
    python scripts/structure.py --words     # list every grammar word that serves as a name
    python scripts/structure.py --trace     # also train and predict, and count the files involved

A room is a folder of `segkit/`. Rooms form floors: code may import from its own room and from rooms
on lower floors. All checks but those of --trace parse the source and import nothing.
"""

import argparse
import ast
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
FLOORS = (
    (
        *(
            "schemas",
            "errors",
            "extras",
            "stopping",
            "malloc",
            "progress",
            "atomic",
            "storage",
            "file_states",
            "cache",
            "file_names",
            "hub",
            "parse",
            "arguments",
            "tensor_file",
        ),
        *("sample", "taxonomy", "torchrun", "distributed"),
    ),
    ("masks",),
    ("images",),
    ("text",),
    ("shards",),
    ("workers",),
    ("sources",),
    ("recipes",),
    ("data",),
    ("model",),
    ("criterion",),
    ("metrics",),
    ("runs",),
    ("inference",),
    ("training",),
    ("zeroshot",),
    ("export",),
    ("browse",),
    ("report",),
    ("benchmark",),
    ("demo",),
    ("segkit",),
    ("commands",),
    ("scripts", "tests"),
)
"""Rooms from the lowest floor to the highest; `segkit` is `segkit/__init__.py`."""
PACKAGES = {"commands": "segkit.commands", "schemas": "segkit.schemas"}
"""Folders of the repository's top level that are installed inside the package."""

MIN_LINES = 40
MAX_LINES = 400
MAX_COLUMNS = 100
MAX_FILES = {
    "one training step, from the batch": 25,
    "one training step, with loading": 34,  # the aim is 25 here too: lower it with the figure
    "one box to its mask": 20,
}
"""Files of segkit/ that a newcomer has to read to follow a path of `traced_files.py`."""
MAX_GRAMMAR_WORDS = 0.3
"""Per cent of all names."""
MAX_LISTED = 12
"""Violations that are listed for each check."""

LENGTH_REASONS: Mapping[str, str] = {
    "segkit/errors.py": "every room imports the errors; they belong to none",
    "commands/entry.py": "it runs before everything else is imported",
}
"""Files that may be shorter or longer than the limits, each with its reason."""
GRAMMAR_WORD = re.compile(
    "found|made|told|given|own|whole|asked|wanted|shown|seen|taken|held|alone|other|others|some"
    "|such|each|both|here|there|what|which|who|how|of|by|one|another"
)


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    name: str
    figure: str
    limit: str
    violations: list[str]


@dataclass(frozen=True)
class Module:
    """A parsed source file."""

    name: str
    """Dotted name, `segkit.commands.train` for `commands/train.py`."""
    file: Path
    tree: ast.Module

    @property
    def room(self) -> str:
        """First part of the name below `segkit`; `segkit` for the package's own `__init__`."""
        first, *below = self.name.split(".")
        return below[0] if first == "segkit" and below else first


def read_modules(folders: Iterable[str]) -> dict[str, Module]:
    """Parse the Python files of folders of the repository, by dotted name."""
    modules = {}
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            package = PACKAGES.get(folder, folder)
            names = [package, *parts[1:]]
            if names[-1] == "__init__":
                names.pop()
            name = ".".join(names)
            modules[name] = Module(name, file, ast.parse(file.read_text("utf-8")))
    return modules


def imported_modules(module: Module, modules: Mapping[str, Module]) -> Iterator[str]:
    """Dotted names of the modules that a module imports, anywhere in the file.

    `from segkit import __version__` reads a constant of the package and counts as no import.
    """
    package = module.name.split(".")
    if module.file.name != "__init__.py":
        package.pop()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                if f"{source}.{alias.name}" in modules:
                    yield f"{source}.{alias.name}"
                elif source in modules and alias.name != "__version__":
                    yield source


def import_graph(modules: Mapping[str, Module]) -> dict[str, set[str]]:
    """The modules that each module imports, itself left out."""
    return {
        name: set(imported_modules(module, modules)) - {name} for name, module in modules.items()
    }


def room_graph(modules: Mapping[str, Module]) -> dict[str, set[str]]:
    """The rooms that each room imports, itself left out."""
    rooms: dict[str, set[str]] = defaultdict(set)
    for name, targets in import_graph(modules).items():
        room = modules[name].room
        rooms[room] |= {modules[target].room for target in targets} - {room}
    return rooms


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other: strongly connected components of more than one."""
    below = {node: reachable(node, graph) for node in graph}
    groups = {
        tuple(sorted(end for end in below[node] if node in below.get(end, ()))) for node in graph
    }
    return [list(group) for group in sorted(groups) if len(group) > 1]


def reachable(start: str, graph: Mapping[str, set[str]]) -> set[str]:
    """Nodes that edges lead to from a node, directly or through others."""
    nodes, stack = set(), [start]
    while stack:
        for target in graph.get(stack.pop(), ()):
            if target not in nodes:
                nodes.add(target)
                stack.append(target)
    return nodes


def check_circles(modules: Mapping[str, Module]) -> Check:
    """Import circles, between rooms and between modules."""
    groups = circles(room_graph(modules)) + circles(import_graph(modules))
    lines = [" <-> ".join(group) for group in groups]
    return Check("import circles", str(len(lines)), "0", lines)


def check_floors(modules: Mapping[str, Module]) -> Check:
    """Imports from a room on a higher floor."""
    floor = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    lines = []
    for name, targets in sorted(import_graph(modules).items()):
        room = modules[name].room
        if room not in floor:
            lines.append(f"{name}: room {room!r} has no floor in scripts/structure.py")
            continue
        for target in sorted(targets):
            if floor.get(modules[target].room, len(FLOORS)) > floor[room]:
                lines.append(f"{name} imports {target}")
    return Check("upward imports", str(len(lines)), "0", lines)


def check_file_names() -> Check:
    """File names that stand twice in segkit/; a command may share one with its library file."""
    places: dict[str, list[str]] = defaultdict(list)
    for file in sorted((ROOT / "segkit").rglob("*")):
        if file.suffix in {".py", ".toml"} and file.name != "__init__.py":
            places[file.name].append(str(file.relative_to(ROOT)))
    lines = [", ".join(files) for files in places.values() if len(files) > 1]
    return Check("file names that stand twice", str(len(lines)), "0", lines)


def check_lengths() -> Check:
    """Files under MIN_LINES or over MAX_LINES lines.

    A package's `__init__` and a test file, which mirrors one module, may be short.
    """
    lines = []
    for file in python_files("segkit", "commands", "scripts", "tests"):
        path = str(file.relative_to(ROOT))
        length = len(file.read_text("utf-8").splitlines())
        may_be_short = file.name == "__init__.py" or path.startswith("tests/")
        too_short = length < MIN_LINES and not may_be_short
        if (too_short or length > MAX_LINES) and path not in LENGTH_REASONS:
            lines.append(f"{path}: {length} lines")
    return Check(f"files under {MIN_LINES} or over {MAX_LINES} lines", str(len(lines)), "0", lines)


def check_columns() -> Check:
    """Lines over MAX_COLUMNS columns in Python and TOML files."""
    lines = []
    for file in [*source_files(".py", ".toml"), ROOT / "pyproject.toml"]:
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
            if len(line) > MAX_COLUMNS:
                lines.append(f"{file.relative_to(ROOT)}:{number}: {len(line)} columns")
    return Check(f"lines over {MAX_COLUMNS} columns", str(len(lines)), "0", lines)


def check_names(every_word: bool) -> Check:
    """Share of grammar words among the names that the code defines."""
    total, words, files = 0, 0, []
    for file in source_files(".py"):
        names = list(defined_names(ast.parse(file.read_text("utf-8"))))
        bad = Counter(name for name, _ in names if is_grammar_word(name))
        total, words = total + len(names), words + bad.total()
        if bad and every_word:
            places = ", ".join(f"{name}:{line}" for name, line in names if name in bad)
            files.append((bad.total(), f"{file.relative_to(ROOT)}: {places}"))
        elif bad:
            counts = ", ".join(f"{name} {count}" for name, count in bad.most_common(5))
            files.append((bad.total(), f"{file.relative_to(ROOT)}: {bad.total()} ({counts})"))
    share = 100 * words / max(total, 1)
    worst = [line for _, line in sorted(files, key=lambda item: (-item[0], item[1]))]
    figure = f"{share:.2f} % ({words} of {total})"
    violated = worst if every_word or share >= MAX_GRAMMAR_WORDS else []
    return Check("grammar words as names", figure, f"< {MAX_GRAMMAR_WORDS} %", violated)


def defined_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Names that a file defines, once per scope, each with the line of its first definition.

    Functions, classes, arguments, variables and attributes.
    """
    scopes: list[ast.AST] = [tree]
    while scopes:
        scope = scopes.pop()
        names: dict[str, int] = {}
        for node in _scope_nodes(scope, scopes):
            for name in _names_of(node):
                names.setdefault(name, getattr(node, "lineno", 0))
        yield from names.items()


def _scope_nodes(scope: ast.AST, scopes: list[ast.AST]) -> Iterator[ast.AST]:
    """Nodes of a scope; appends the functions and classes inside it to `scopes`."""
    stack = list(ast.iter_child_nodes(scope))
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            scopes.append(node)
        else:
            stack.extend(ast.iter_child_nodes(node))


def _names_of(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            yield name
        case ast.ClassDef(name=name) | ast.arg(arg=name):
            yield name
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
            yield name
        case ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)):
            yield name
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name


def is_grammar_word(name: str) -> bool:
    """Whether a name consists of grammar words only, leading underscores aside."""
    parts = [part for part in name.lower().split("_") if part]
    return bool(parts) and all(GRAMMAR_WORD.fullmatch(part) for part in parts)


def check_traces() -> list[Check]:
    """Files of segkit/ that a newcomer has to read to follow a step, or a box to its mask."""
    from traced_files import trace

    checks = []
    for name, files in trace().items():
        limit = MAX_FILES.get(name)
        violations = files if limit is not None and len(files) > limit else []
        checks.append(Check(f"files of {name}", str(len(files)), str(limit or "-"), violations))
    return checks


def python_files(*folders: str) -> list[Path]:
    """Python files of folders of the repository, sorted."""
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


def source_files(*suffixes: str) -> list[Path]:
    """Source files of the whole repository, sorted."""
    folders = ("segkit", "commands", "schemas", "scripts", "tests")
    files = (file for folder in folders for file in sorted((ROOT / folder).rglob("*")))
    return [file for file in files if file.suffix in suffixes]


def print_table(checks: Iterable[Check], every_violation: bool) -> None:
    """Print a line for each check, then the violations."""
    console = Console(width=120, highlight=False)
    table = Table("check", "figure", "limit", "")
    for check in checks:
        verdict = "[red]violated[/red]" if check.violations else "[green]ok[/green]"
        table.add_row(check.name, check.figure, check.limit, verdict)
    console.print(table)
    for check in checks:
        lines = check.violations if every_violation else check.violations[:MAX_LISTED]
        if lines:
            console.print(f"\n[bold]{check.name}[/bold]")
        for line in lines:
            console.print(f"  {escape(line)}", soft_wrap=True)
        if len(lines) < len(check.violations):
            console.print(f"  ... and {len(check.violations) - len(lines)} more (--all lists them)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="list every violation")
    parser.add_argument("--words", action="store_true", help="list every grammar word, with lines")
    parser.add_argument("--trace", action="store_true", help="also count files that run")
    arguments = parser.parse_args()
    modules = read_modules(("segkit", "commands", "schemas", "scripts"))
    checks = [
        check_circles(modules),
        check_floors(modules),
        check_file_names(),
        check_lengths(),
        check_columns(),
        check_names(arguments.words),
        *(check_traces() if arguments.trace else ()),
    ]
    print_table(checks, arguments.all or arguments.words)
    sys.exit(any(check.violations for check in checks))


if __name__ == "__main__":
    main()
