import io

import pytest
from rich.console import Console

from segkit.commands import common


def test_a_title_is_never_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table narrower than its title: a path longer than the screen, with rich's markup in it."""
    path = "/data/a-folder-with-a-long-name/[red]/another-one/v1: 8 images, 0 violations"
    screen = io.StringIO()
    monkeypatch.setattr(common, "stdout", Console(file=screen, width=40))
    common.emit(
        {},
        schema="s/1",
        tables=[common.table((path, "line two"), ("", "count"), [("a", 1)])],
    )
    assert screen.getvalue().splitlines()[:2] == [path, "line two"]


def test_names_in_brackets_are_printed_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(common, "stdout", Console(file=screen, width=80))
    content = common.table("set [red]", ("class [/]", "%"), [("car[red]", 1.5), ("[/]", None)])
    common.emit({}, schema="s/1", tables=[content, "work/[bold]/v1"])
    for name in ("set [red]", "class [/]", "car[red]", "│ [/]", "work/[bold]/v1"):
        assert name in screen.getvalue()
