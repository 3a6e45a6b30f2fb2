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


@pytest.mark.parametrize(
    ("count", "nouns", "expected"),
    [
        (0, ("image",), "0 images"),
        (1, ("image",), "1 image"),
        (2, ("class", "classes"), "2 classes"),
    ],
)
def test_counts_agree_with_their_nouns(count: int, nouns: tuple[str, ...], expected: str) -> None:
    assert common.plural(count, *nouns) == expected


def test_names_in_brackets_are_printed_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(common, "stdout", Console(file=screen, width=80))
    content = common.table("set [red]", ("class [/]", "%"), [("car[red]", 1.5), ("[/]", None)])
    common.emit({}, schema="s/1", tables=[content, "work/[bold]/v1"])
    for name in ("set [red]", "class [/]", "car[red]", "│ [/]", "work/[bold]/v1"):
        assert name in screen.getvalue()
