import pytest

from segkit.errors import InputError
from segkit.taxonomy import Category
from segkit.text.vocabulary import taxonomy_from_names


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
