import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.errors import InputError
from segkit.taxonomy import Category, Taxonomy, known_taxonomies, load_taxonomy

SHIPPED = [
    *("ade20k-150", "camvid-11", "cityscapes-19", "coco-80", "coco-panoptic-133"),
    *("mapillary-vistas-65", "objects365-v2", "pascal-context-459", "pascal-context-59", "voc-20"),
]


def spellings(name: str) -> dict[int, str]:
    """Id -> the source's spelling, which a loss-free export writes."""
    return {c.id: c.source_name or c.name for c in load_taxonomy(name).categories}


def read_lines(path: Path) -> list[str]:
    return [line for line in path.read_text("utf-8").split("\n") if line.strip()]


def test_the_shipped_taxonomies_are_the_documented_ones() -> None:
    assert list(known_taxonomies()) == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_names_are_unique_trimmed_and_words_are_clean(name: str) -> None:
    taxonomy = load_taxonomy(name)
    assert taxonomy.name == name
    assert len(set(taxonomy.names)) == len(taxonomy.names)
    assert all(c.name == c.name.strip() for c in taxonomy.categories)
    for word in (word for c in taxonomy.categories for word in c.words):
        assert word == word.strip().lower()
        assert not any(mark in word for mark in ("/", ";", "_", "-merged", "-other", "-stuff"))


@pytest.mark.parametrize("name", SHIPPED)
def test_no_word_names_two_classes(name: str) -> None:
    words = [word for c in load_taxonomy(name).categories for word in c.words]
    assert len(words) == len(set(words))


def test_mapillary_has_the_order_of_its_list_and_37_things(real_data: Path) -> None:
    taxonomy = load_taxonomy("mapillary-vistas-65")
    names = read_lines(real_data / "class_lists" / "mapillary-public65_names.txt")
    assert list(taxonomy.names) == names
    assert sum(category.kind == "thing" for category in taxonomy.categories) == 37


def test_coco_matches_its_annotation_files(real_data: Path) -> None:
    rows = json.loads((real_data / "coco/annotations/panoptic_val2017.json").read_text())[
        "categories"
    ]
    assert spellings("coco-panoptic-133") == {row["id"]: row["name"] for row in rows}
    kinds = {c.id: c.kind == "thing" for c in load_taxonomy("coco-panoptic-133").categories}
    assert kinds == {row["id"]: bool(row["isthing"]) for row in rows}
    instances = json.loads((real_data / "coco/annotations/instances_val2017.json").read_text())[
        "categories"
    ]
    assert spellings("coco-80") == {row["id"]: row["name"] for row in instances}


def test_objects365_keeps_typos_and_blanks_of_the_annotation_file(real_data: Path) -> None:
    rows = json.loads(
        (real_data / "objects365_standin/annotations/zhiyuan_objv2_val.json").read_text()
    )["categories"]
    assert spellings("objects365-v2") == {row["id"]: row["name"] for row in rows}
    by_name = {c.name: c for c in load_taxonomy("objects365-v2").categories}
    assert by_name["Formula 1"].source_name == "Formula 1 "
    assert by_name["Moniter/TV"].words == ("monitor", "tv")


def test_ade_has_the_ids_names_and_instance_classes_of_the_benchmark(real_data: Path) -> None:
    taxonomy = load_taxonomy("ade20k-150")
    with (real_data / "ade/objectInfo150.csv").open() as file:
        assert spellings("ade20k-150") == {
            int(row["Idx"]): row["Name"] for row in csv.DictReader(file)
        }
    assert sorted(taxonomy.names) == sorted(
        read_lines(real_data / "class_lists/ade20k-150_names.txt")
    )
    instances = json.loads(
        (real_data / "class_lists/ade20k_instance_100_categories.json").read_text()
    )
    assert {c.name for c in taxonomy.categories if c.kind == "thing"} == {
        row["name"] for row in instances
    }
    assert {c.id: c.name for c in taxonomy.categories}[45] == "chest of drawers"


def test_cityscapes_label_ids_are_in_train_id_order(real_data: Path) -> None:
    taxonomy = load_taxonomy("cityscapes-19")
    assert list(taxonomy.names) == read_lines(real_data / "class_lists/cityscapes-19_names.txt")
    assert {taxonomy.by_id[i].name for i in (7, 8, 26, 33)} == {
        "road",
        "sidewalk",
        "car",
        "bicycle",
    }
    assert [c.name for c in taxonomy.categories if c.kind == "thing"][:2] == ["person", "rider"]
    assert sum(c.kind == "stuff" for c in taxonomy.categories) == 11


def test_camvid_names_match_the_pictures(real_data: Path) -> None:
    brightness: dict[int, list[float]] = {}
    height: dict[int, list[float]] = {}
    for file in sorted((real_data / "camvid/annotations/train").glob("*.png"))[::6]:
        labels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        image = cv2.imread(
            str(real_data / "camvid/images/train" / f"{file.stem}.jpg"), cv2.IMREAD_GRAYSCALE
        )
        for index in np.unique(labels):
            region = labels == index
            brightness.setdefault(int(index), []).append(float(image[region].mean()))
            height.setdefault(int(index), []).append(float(np.nonzero(region)[0].mean()))
    names = {c.id: c.name for c in load_taxonomy("camvid-11").categories}
    brightest = max(brightness, key=lambda index: float(np.mean(brightness[index])))
    highest, lowest = (
        pick(names, key=lambda index: float(np.mean(height[index]))) for pick in (min, max)
    )
    assert (names[brightest], names[highest], names[lowest]) == ("sky", "sky", "road")
    shipped = {c.source_name or c.name for c in load_taxonomy("camvid-11").categories}
    assert shipped == set(read_lines(real_data / "class_lists/camvid-11_names.txt"))


def test_voc_and_pascal_context_follow_their_lists(real_data: Path) -> None:
    lists = real_data / "class_lists"
    assert spellings("voc-20") == dict(list(enumerate(read_lines(lists / "voc2012_names.txt")))[1:])
    context = list(enumerate(read_lines(lists / "pascal-context-460_names.txt")))
    assert spellings("pascal-context-459") == dict(context[1:])
    frequent = [
        row.split("\t")[1] for row in read_lines(lists / "pascal-context-460_to_60.tsv")[1:]
    ]
    in_order = [name for name in frequent if name != "background"]
    assert list(load_taxonomy("pascal-context-59").names) == in_order
    assert list(load_taxonomy("pascal-context-59").by_id) == list(range(1, 60))


def test_the_script_reproduces_the_shipped_files(real_data: Path, tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    script = [sys.executable, root / "scripts/build_taxonomies.py", "--out", tmp_path]
    subprocess.run(
        script,
        check=True,
        env={**os.environ, "SEGKIT_REAL_DATA": str(real_data)},
        stdout=subprocess.DEVNULL,
    )
    for name in SHIPPED:
        assert (tmp_path / f"{name}.json").read_text() == (
            root / f"schemas/taxonomies/{name}.json"
        ).read_text()


names = st.text(min_size=1).filter(str.strip)
categories = st.lists(
    st.builds(
        Category,
        st.integers(0, 10_000),
        names,
        st.sampled_from(("thing", "stuff")),
        st.lists(names).map(tuple),
        st.none() | st.text(),
    ),
    unique_by=lambda c: c.id,
)


@given(categories, st.text())
def test_json_round_trip_is_loss_free_and_in_id_order(classes: list[Category], name: str) -> None:
    taxonomy = Taxonomy.from_json(json.loads(json.dumps(Taxonomy(name, tuple(classes)).to_json())))
    assert taxonomy == Taxonomy(name, tuple(reversed(classes)))
    assert [c.id for c in taxonomy.categories] == sorted(c.id for c in classes)
    assert [taxonomy.categories[taxonomy.index[c.id]] for c in classes] == classes


def test_a_users_file_loads_and_invalid_ones_are_named(tmp_path: Path) -> None:
    file = tmp_path / "own.json"
    file.write_text(
        '{"name": "own", "categories": [{"id": 3, "name": "scratch", "kind": "thing"}]}'
    )
    assert load_taxonomy(str(file)).names == ("scratch",)
    file.write_text("{")
    with pytest.raises(InputError, match=r"own\.json: not JSON"):
        load_taxonomy(str(file))
    file.write_text('{"name": "own", "categories": [{"name": "scratch", "kind": "thing"}]}')
    with pytest.raises(InputError, match=r"not a taxonomy.*id"):
        load_taxonomy(str(file))
    with pytest.raises(InputError, match=r"unknown vocabulary 'nowhere'.*ade20k-150"):
        load_taxonomy("nowhere")
    with pytest.raises(InputError, match="category id 1 occurs twice"):
        Taxonomy("own", (Category(1, "a", "thing"), Category(1, "b", "thing")))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kind", "Thing", "Invalid enum value 'Thing'"),
        ("kind", None, "kind"),
        ("id", True, "Expected `int`"),
        ("id", "1", "Expected `int`"),
        ("id", 2**31, "does not fit in 32 bits"),
        ("name", 1, "Expected `str`"),
        ("name", " ", "blank"),
        ("text", "cat", "Expected `array`"),
        ("text", ["cat", ""], "blank"),
        ("texts", ["cat"], "unknown key 'texts'"),
    ],
)
def test_categories_of_other_types_are_refused(
    tmp_path: Path, field: str, value: object, message: str
) -> None:
    file = tmp_path / "own.json"
    categories = [{"id": 1, "name": "a", "kind": "thing"}, {"id": 3, "name": "b", "kind": "stuff"}]
    categories[1][field] = value
    file.write_text(json.dumps({"name": "own", "categories": categories}))
    with pytest.raises(InputError, match=rf"own\.json: .*categories\[1\].*{message}"):
        load_taxonomy(str(file))


def test_a_hundred_thousand_classes_with_a_repeated_id_are_refused_at_once() -> None:
    classes = [Category(i, str(i), "thing") for i in range(100_000)]
    with pytest.raises(InputError, match="category id 99999 occurs twice"):
        Taxonomy("own", (*classes, classes[-1]))


def test_the_union_of_taxonomies_has_each_class_once() -> None:
    streets = Taxonomy("streets", (Category(7, "car", "thing"), Category(9, "sky", "stuff")))
    photos = Taxonomy("photos", (Category(1, "cat", "thing"), Category(2, "sky", "stuff")))
    union = Taxonomy.union("both", [streets, photos])
    assert [(c.id, c.name, c.kind) for c in union.categories] == [
        (1, "car", "thing"),
        (2, "sky", "stuff"),
        (3, "cat", "thing"),
    ]
    assert Taxonomy.union("one", [photos]) is photos


def test_the_union_ignores_what_the_text_encoder_ignores() -> None:
    first = Taxonomy("a", (Category(1, "person", "thing"), Category(2, "dining table", "thing")))
    second = Taxonomy("b", (Category(1, "Person", "thing"), Category(2, "Dining_Table", "thing")))
    assert Taxonomy.union("c", [first, second]).names == ("person", "dining table")


def test_unique_names_are_unique_also_beside_a_name_with_an_id() -> None:
    names = {1: "cat", 3: "cat", 5: "cat [3]", 7: "X"}
    categories = tuple(Category(i, name, "thing") for i, name in names.items())
    unique = Taxonomy("t", categories).unique_names
    assert unique == {1: "cat [1]", 3: "cat [3] [3]", 5: "cat [3] [5]", 7: "X"}
