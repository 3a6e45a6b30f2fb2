import pytest

from segkit.errors import InputError
from segkit.taxonomy import Category, Taxonomy
from segkit.text.vocabulary import require_classes, taxonomy_from_names


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


def test_a_taxonomy_without_classes_is_refused() -> None:
    with pytest.raises(InputError, match="no class names; give at least one"):
        require_classes(Taxonomy("e", ()))
