from pathlib import Path
from typing import Any

import pytest

from segkit.errors import InputError
from segkit.sources.labels_file import read_labels


def read(path: Path, text: str, first: int | None = None) -> Any:
    (path / "l.txt").write_text(text, "utf-8")
    return read_labels(path / "l.txt", first)


@pytest.mark.parametrize(
    ("text", "first", "expected"),
    [
        ("a\nb c\n", None, [(0, "a"), (1, "b c")]),
        ("a\nb", 4, [(4, "a"), (5, "b")]),
        ("\ufeffa\n\n# note\nb", None, [(0, "a"), (1, "b")]),
        ("3 a\n 5\tb c \n9: d", None, [(3, "a"), (5, "b c"), (9, "d")]),
        ("7 eleven\nroad", None, [(0, "7 eleven"), (1, "road")]),
        ("1 2 3 a\n4 b", None, [(1, "2 3 a"), (4, "b")]),
    ],
)
def test_names_and_indexed_names(
    tmp_path: Path, text: str, first: int | None, expected: list[Any]
) -> None:
    labels = read(tmp_path, text, first)
    assert [(c.id, c.name) for c in labels.categories] == expected
    assert not labels.colors


def test_colors(tmp_path: Path) -> None:
    labels = read(tmp_path, "64 128 64\tgrass\n1,0,0: old road", 5)
    assert [(c.id, c.name) for c in labels.categories] == [(5, "grass"), (6, "old road")]
    assert labels.colors == {64 + 256 * 128 + 65536 * 64: 5, 1: 6}


@pytest.mark.parametrize(
    ("text", "first", "says"),
    [
        ("3 a\n5 b", 1, "omit --first-label"),
        ("1 2 3 a\n1 2 3 b", None, "the color of two classes"),
        ("1 2 300 a", None, "a color beyond 255"),
    ],
)
def test_invalid_lists_are_refused(tmp_path: Path, text: str, first: int | None, says: str) -> None:
    with pytest.raises(InputError, match=rf"l\.txt.*{says}"):
        read(tmp_path, text, first)


def test_unreadable_files_are_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    for name in ("none.txt", "latin.txt"):
        with pytest.raises(InputError, match=f"{name}: cannot be read") as error:
            read_labels(tmp_path / name)
        assert "\n" not in str(error.value)
