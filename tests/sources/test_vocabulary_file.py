from pathlib import Path

import pytest

from segkit.errors import InputError
from segkit.shards.reader import ShardSet
from segkit.sources.labels_file import write_labels
from segkit.sources.vocabulary_file import open_vocabulary
from segkit.taxonomy import Category


def opened(root: Path, text: str) -> tuple[Category, ...]:
    file = root / "classes.txt"
    file.write_bytes(text.encode())
    return open_vocabulary(str(file)).categories


def test_names_are_numbered_from_one(tmp_path: Path) -> None:
    text = '\ufeffcat\r\n\r\n# a comment\r\n  sky \r\n"7 eleven"\r\n'
    assert opened(tmp_path, text) == (
        Category(1, "cat", "thing"),
        Category(2, "sky", "stuff"),
        Category(3, "7 eleven", "thing"),
    )
    assert opened(tmp_path, "128 64 32 road\n0 0 255 car\n") == (
        Category(1, "road", "stuff"),
        Category(2, "car", "thing"),
    )


def test_the_labels_of_an_export_are_the_classes_of_its_set(tmp_path: Path) -> None:
    names = {0: "sky", 7: "7 eleven", 1000: "cat, small"}
    write_labels(tmp_path / "labels.txt", names)
    taxonomy = open_vocabulary(str(tmp_path / "labels.txt"))
    assert {category.id: category.name for category in taxonomy.categories} == names
    assert [category.kind for category in taxonomy.categories] == ["stuff", "thing", "thing"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\n1 dog\n2 cow\n", "line 1: 'cat' is a name without an index"),
        ("1 cat\n1 dog\n", "category id 1 occurs twice"),
        ("cat\ndog\nCat\n", "the class name 'cat' comes twice"),
        ("", "no class names; give at least one"),
        ("\n", "no class names; give at least one"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        opened(tmp_path, text)
    assert str(tmp_path / "classes.txt") in str(error.value)
    assert message in str(error.value)


def test_what_names_no_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text('{"name": "e", "categories": []}')
    with pytest.raises(InputError, match=r"e.json: no class names; give at least one"):
        open_vocabulary(str(tmp_path / "e.json"))
    with pytest.raises(InputError, match="unknown vocabulary 'coco-stuf'"):
        open_vocabulary("coco-stuf")


def test_a_set_is_the_vocabulary_of_its_classes(toy_set: ShardSet) -> None:
    folder = toy_set.path.parent
    assert open_vocabulary(str(folder)) == open_vocabulary(f"{folder}@v1") == toy_set.taxonomy
