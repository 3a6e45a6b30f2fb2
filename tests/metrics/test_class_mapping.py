import numpy as np
import pytest

from segkit.errors import InputError
from segkit.metrics.class_mapping import ClassMap, class_map_notes
from segkit.taxonomy import Category, Taxonomy

from .files import figures, shard_set
from .scenes import sample, taxonomy


def test_predictions_in_another_vocabulary_are_mapped_by_name_and_losses_are_listed(tmp_path):
    names = taxonomy()
    ids = np.repeat([[1, 1, 2, 2, 3, 3]], 4, axis=0)
    truth = shard_set(tmp_path / "truth", [sample(ids, {1: 2, 2: 9, 3: 30}, names)], names)
    source = Taxonomy(
        "source",
        (
            Category(1, "Class-0", "thing"),
            Category(2, "thing one", "thing", ("thing one", "class 1")),
            Category(3, "class 4", "stuff"),
            Category(4, "unheard of", "stuff"),
        ),
    )
    predictions = shard_set(
        tmp_path / "predictions", [sample(ids, {1: 1, 2: 2, 3: 4}, source)], source
    )
    metrics = figures(truth, predictions, "panoptic")
    assert metrics["class_map"] == {
        "unmapped": ("unheard of",),
        "unreachable": ("class 2", "class 3"),
        "ambiguous": {},
        "merged": {},
    }
    assert class_map_notes(metrics["class_map"]) == [
        "1 predicted class has no name in the ground truth and is dropped: 'unheard of'.",
        "2 classes of the ground truth have no predicted class and cannot be matched: 'class 2', "
        "'class 3'.",
    ]
    assert (
        metrics["per_class"]["class 0"]["pq"] == 100
        and metrics["per_class"]["class 1"]["pq"] == 100
    )
    assert metrics["per_class"]["class 4"]["fn"] == 1
    stranger = Taxonomy("stranger", (Category(1, "nothing of it", "thing"),))
    with pytest.raises(InputError, match="no class of stranger is a class of test"):
        figures(truth, shard_set(tmp_path / "s", [], stranger), "panoptic")


def test_a_word_of_several_classes_is_mapped_to_the_first_and_listed(tmp_path):
    target = Taxonomy(
        "t",
        tuple(
            Category(i, n, "stuff", (n, "wall")) for i, n in enumerate(["wall-brick", "wall-tile"])
        ),
    )
    source = Taxonomy("s", (Category(5, "wall", "stuff"), Category(6, "Wall brick", "stuff")))
    ids = np.array([[1, 1, 2, 2]])
    truth = shard_set(tmp_path / "truth", [sample(ids, {1: 0, 2: 1}, target)], target, "semantic")
    predictions = shard_set(
        tmp_path / "predictions", [sample(ids, {1: 6, 2: 5}, source)], source, "semantic"
    )
    metrics = figures(truth, predictions, "semantic")
    assert metrics["class_map"]["ambiguous"] == {"wall": ("wall-brick", "wall-tile")}
    assert metrics["class_map"]["merged"] == {"wall-brick": ("wall", "Wall brick")}
    assert metrics["per_class"] == {"wall-brick": 50, "wall-tile": 0}


def test_stuff_that_becomes_one_class_becomes_one_segment_and_things_stay_apart(tmp_path):
    target = Taxonomy("t", (Category(1, "wall", "stuff"), Category(2, "dog", "thing")))
    parts = [
        ("brick", "stuff", "wall"),
        ("door", "thing", "wall"),
        ("hound", "thing", "dog"),
        ("pug", "thing", "dog"),
    ]
    source = Taxonomy(
        "s", tuple(Category(k, n, kind, (n, word)) for k, (n, kind, word) in enumerate(parts))
    )
    true = np.array([[1, 1, 1, 1, 2, 2, 3, 3]])
    predicted = np.array([[1, 1, 4, 4, 2, 2, 3, 3]])
    truth = shard_set(tmp_path / "truth", [sample(true, {1: 1, 2: 2, 3: 2}, target)], target)
    predictions = shard_set(
        tmp_path / "predictions", [sample(predicted, {1: 0, 4: 1, 2: 2, 3: 3}, source)], source
    )
    metrics = figures(truth, predictions, "panoptic")
    assert metrics["per_class"]["wall"] == {
        "pq": 100,
        "sq": 100,
        "rq": 100,
        "tp": 1,
        "fp": 0,
        "fn": 0,
    }
    assert metrics["per_class"]["dog"]["tp"] == 2
    assert metrics["class_map"]["merged"] == {"wall": ("brick", "door"), "dog": ("hound", "pug")}


@pytest.mark.parametrize(
    ("predicted", "true"),
    [
        (("C", "C++", "Java"), ("C", "C++")),
        (("A+", "A-"), ("A-", "A+")),
        (("?", "!", "cat"), ("!", "?")),
        (("की", "का", "cat"), ("का", "की")),  # they differ in a vowel sign only
        (("C#", "c", "cat"), ("C", "c#")),
    ],
)
def test_names_that_differ_in_a_sign_are_different_classes(predicted, true):
    source, target = (
        Taxonomy("t", tuple(Category(i, name, "thing") for i, name in enumerate(names, 1)))
        for names in (predicted, true)
    )
    ids = ClassMap.from_taxonomies(source, target).ids
    names = {source.by_id[a].name.lower(): target.by_id[b].name.lower() for a, b in ids.items()}
    assert names == {name.lower(): name.lower() for name in true}


def test_of_classes_of_one_name_that_of_the_same_id_is_taken():
    source = Taxonomy("s", tuple(Category(i, "cat", "thing") for i in (1, 3, 4)))
    target = Taxonomy("t", tuple(Category(i, "cat", "thing") for i in (1, 3)))
    class_map = ClassMap.from_taxonomies(source, target)
    assert class_map.ids == {1: 1, 3: 3, 4: 1}
    assert class_map.ambiguous == {"cat": ("cat", "cat")}
