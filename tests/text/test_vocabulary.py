from pathlib import Path

import pytest

from segkit.errors import InputError
from segkit.taxonomy import Category, Taxonomy
from segkit.text.vocabulary import open_vocabulary, require_classes, taxonomy_from_names


def test_names_become_classes_of_their_shipped_kind() -> None:
    taxonomy = taxonomy_from_names(["Cat", "sky", "zorp", "sidewalk"])
    assert taxonomy.categories == (
        Category(1, "Cat", "thing"),
        Category(2, "sky", "stuff"),
        Category(3, "zorp", "thing"),
        Category(4, "sidewalk", "stuff"),
    )
    for names in ([], ["cat", "Cat "]):
        with pytest.raises(InputError, match=r"no class names|comes twice"):
            taxonomy_from_names(names)


@pytest.mark.parametrize(
    ("name", "text"),
    [("e.json", '{"name": "e", "categories": []}'), ("e.txt", ""), ("f.txt", "\n")],
)
def test_a_file_without_classes_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=rf"{name}: no class names; give at least one"):
        open_vocabulary(str(tmp_path / name))
    with pytest.raises(InputError, match="no class names; give at least one"):
        require_classes(Taxonomy("e", ()))
