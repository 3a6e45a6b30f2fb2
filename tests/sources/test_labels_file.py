from pathlib import Path
from typing import Any

import pytest

from segkit.errors import InputError
from segkit.sources.labels_file import label_line, read_labels


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
        ('"7 eleven"\nroad', None, [(0, "7 eleven"), (1, "road")]),
        ('1 "2 3 a"\n4 b', None, [(1, "2 3 a"), (4, "b")]),
        ("\ufeff0,road\r\n1,traffic light\r\n", None, [(0, "road"), (1, "traffic light")]),
        ("3d printer\nc++\na: b", None, [(0, "3d printer"), (1, "c++"), (2, "a: b")]),
        ("0\n1\n2", None, [(0, "0"), (1, "1"), (2, "2")]),
        ('"a\\nb"\n"#c"', None, [(0, "a\nb"), (1, "#c")]),
        ("a\u2028b\nc", None, [(0, "a\u2028b"), (1, "c")]),
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


def test_cvat_labelmap(tmp_path: Path) -> None:
    text = (
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad sign:64, 128,64:a,b:c\n7:1,0,0::"
    )
    labels = read(tmp_path, text)
    assert [(c.id, c.name) for c in labels.categories] == [
        (0, "background"),
        (1, "road sign"),
        (2, "7"),
    ]
    assert labels.colors == {0: 0, 64 + 256 * 128 + 65536 * 64: 1, 1: 2}


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("0 road\n-1 license plate", 2, "not an index.*from 0"),
        ("-1 license plate", 1, "not an index"),
        ("0.0 road\n1.0 sky", 1, "not an index"),
        ("0 road\n1.5 sky", 2, "not an index"),
        ("0) road\n1) sky", 1, "not an index"),
        (f"0 road\n{'9' * 5000} sky", 2, "not an index"),
        ("id,name\n0,road\n1,sky", 1, "'id,name' is a name without an index"),
        ("My classes\n\n0 road\n1 sky", 1, "a name without an index.*delete a header"),
        ("0 road\nsky\n2 tree", 2, "'sky' is a name without an index"),
        ("0 road\n1\n2 tree", 2, "a number without a name"),
        ("road\n7 eleven\nsky", 2, "'eleven' is an index and a name.*double quotes"),
        ("7 eleven\nroad", 2, "'road' is a name without an index"),
        ("1 2 3 a\n1 2 4 b\n4 b", 3, "is an index and a name, most lines are three numbers"),
        ("a:0,0,0::\nb:0,0::\nc:1,0,0::", 2, "is a name without an index"),
        ("label:color_rgb:parts:actions\na:0,0,0::", 1, "delete a header"),
        ("road,0\nsky,1", 1, "a number after the name"),
        ("name,r,g,b\nroad,64,128,64", 2, "a number after the name"),
        ("0,road,64,128,64\n1,sky,1,1,1", 1, "a number after the name"),
        ('0 "road\n1 sky', 1, "not a name in double quotes"),
        ('"road","sky"', 1, "not a name in double quotes"),
        ('"\\ud800"', 1, "not a name in double quotes"),
    ],
)
def test_lines_of_different_forms_are_refused(
    tmp_path: Path, text: str, line: int, says: str
) -> None:
    with pytest.raises(InputError, match=rf"l\.txt: line {line}: .*{says}"):
        read(tmp_path, text)


@pytest.mark.parametrize("text", ['["road", "sky"]', '{"0": "road"}', '\ufeff[\n"a"\n]'])
def test_json_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="is JSON, not a list of labels"):
        read(tmp_path, text)


NAMES = (
    *("cat", "a b", "a\nb", "a\rb", "a\u2028b", "#c", "7 eleven", "2 3 x", "-1 x", '"q"', 'a "b"'),
    *(
        " blank ",
        ": colon",
        "x,3",
        "x:1,2,3::",
        "\\",
        "lawn;grass",
        "\x1b[31m",
        "3",
        "\ufeffx",
        "é",
    ),
)


@pytest.mark.parametrize("name", NAMES)
def test_written_lines_are_read_back(tmp_path: Path, name: str) -> None:
    text = "".join(f"{label_line(index, text)}\n" for index, text in ((3, name), (7, "sky")))
    assert text.count("\n") == 2
    labels = read(tmp_path, text)
    assert [(c.id, c.name) for c in labels.categories] == [(3, name), (7, "sky")]
    assert not labels.colors


def test_ordinary_names_are_written_without_quotes() -> None:
    assert label_line(3, "traffic light") == "3 traffic light"
    assert label_line(4, "3d printer") == "4 3d printer"


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
    for name, says in (("none.txt", "cannot be read"), ("latin.txt", "line 1: is not UTF-8")):
        with pytest.raises(InputError, match=f"{name}: {says}") as error:
            read_labels(tmp_path / name)
        assert "\n" not in str(error.value)
