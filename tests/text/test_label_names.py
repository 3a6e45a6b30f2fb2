"""Class names of public models become the classes of shipped taxonomies, in any order."""

import pytest

from segkit.errors import InputError
from segkit.taxonomy import load_taxonomy
from segkit.text.label_names import taxonomy_from_labels


@pytest.mark.parametrize(
    "name",
    ["coco-panoptic-133", "ade20k-150", "coco-80", "cityscapes-19", "mapillary-vistas-65"],
)
def test_the_names_of_a_shipped_taxonomy_are_that_taxonomy(name: str) -> None:
    taxonomy = load_taxonomy(name)
    assert taxonomy_from_labels(taxonomy.names, "model") == (
        taxonomy,
        list(range(len(taxonomy.names))),
    )


def test_the_order_of_the_labels_is_returned() -> None:
    names = load_taxonomy("coco-80").names[::-1]
    taxonomy, places = taxonomy_from_labels(names, "model")
    assert taxonomy.name == "coco-80"
    assert tuple(names[place] for place in places) == taxonomy.names


def test_spelling_as_in_public_files_does_not_matter() -> None:
    labels = ["bed ", *(name for name in load_taxonomy("ade20k-150").names if name != "bed")]
    assert taxonomy_from_labels(labels, "model")[0].name == "ade20k-150"


def test_some_classes_of_a_taxonomy_keep_their_ids_and_words() -> None:
    labels = ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
    taxonomy, places = taxonomy_from_labels(labels, "cityscapes-instance")
    assert taxonomy.name == "cityscapes-instance"
    known = load_taxonomy("cityscapes-19")
    assert all(category in known.categories for category in taxonomy.categories)
    assert [labels[place] for place in places] == list(taxonomy.names)


def test_unknown_names_are_numbered_and_things_unless_known_as_stuff() -> None:
    taxonomy, places = taxonomy_from_labels(["Solder Joint", "sky"], "boards")
    assert [(c.id, c.name, c.kind) for c in taxonomy.categories] == [
        (1, "Solder Joint", "thing"),
        (2, "sky", "stuff"),
    ]
    assert places == [0, 1]


def test_a_repeated_name_is_refused() -> None:
    with pytest.raises(InputError, match="comes twice"):
        taxonomy_from_labels(["weld", "Weld"], "boards")
