import pytest

from segkit.errors import InputError
from segkit.sources.categories import NativeCategory, build_taxonomy, recognize_vocabulary
from segkit.taxonomy import load_taxonomy


def natives(name: str) -> list[NativeCategory]:
    return [NativeCategory(c.id, c.source_name or c.name) for c in load_taxonomy(name).categories]


@pytest.mark.parametrize(
    "name", ["coco-80", "coco-panoptic-133", "objects365-v2", "ade20k-150", "camvid-11", "voc-20"]
)
def test_a_known_list_is_recognized_whatever_its_order(name: str) -> None:
    taxonomy = build_taxonomy(natives(name)[::-1], default=None, file="f", name="own")
    assert taxonomy.name == name
    assert taxonomy == load_taxonomy(name)


def test_own_ids_and_kinds_win_and_words_are_added() -> None:
    listed = [NativeCategory(40, "bicycle"), NativeCategory(2, " Person ", "stuff")]
    taxonomy = build_taxonomy(listed, default="thing", file="f", name="own")
    assert taxonomy.name == "own"
    assert [(c.id, c.name, c.source_name) for c in taxonomy.categories] == [
        (2, "Person", " Person "),
        (40, "bicycle", None),
    ]
    assert taxonomy.by_id[2].kind == "stuff"
    assert "bike" in taxonomy.by_id[40].text


def test_objects_are_things_whatever_a_vocabulary_says() -> None:
    listed = [NativeCategory(0, "car"), NativeCategory(1, "building-other-merged")]
    kinds = {
        default: [
            c.kind for c in build_taxonomy(listed, default=default, file="f", name="own").categories
        ]
        for default in ("thing", "stuff", None)
    }
    assert kinds == {
        "thing": ["thing", "thing"],
        "stuff": ["thing", "stuff"],
        None: ["thing", "stuff"],
    }
    everything = [NativeCategory(n.id, n.name) for n in natives("coco-panoptic-133")]
    assert build_taxonomy(everything, default=None, file="f", name="own").name != "own"
    as_objects = build_taxonomy(everything, default="thing", file="f", name="own")
    assert as_objects.name == "own" and {c.kind for c in as_objects.categories} == {"thing"}


def test_ids_decide_between_vocabularies_of_the_same_names() -> None:
    for name in ("coco-80", "coco-panoptic-133"):
        subset = [n for n in natives(name) if n.name in ("person", "car", "toaster")]
        assert recognize_vocabulary(subset) == load_taxonomy("coco-80")
    assert recognize_vocabulary(
        [*natives("coco-80"), NativeCategory(92, "banner")]
    ) == load_taxonomy("coco-panoptic-133")


def test_typos_are_kept_beside_the_display_name() -> None:
    taxonomy = build_taxonomy(natives("objects365-v2"), default="thing", file="f", name="own")
    assert [c.source_name for c in taxonomy.categories if c.source_name] == [
        "Cigar/Cigarette ",
        "Formula 1 ",
        "Table Tennis ",
    ]


def test_unknown_lists_take_the_default_kind_or_are_refused() -> None:
    natives = [NativeCategory(0, "widget"), NativeCategory(1, "widget")]
    assert [
        c.kind for c in build_taxonomy(natives, default="thing", file="f", name="own").categories
    ] == ["thing"] * 2
    with pytest.raises(InputError, match="category 0: does not say whether it is a thing"):
        build_taxonomy(natives, default=None, file="f.json", name="own")


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ([], "no categories"),
        ([NativeCategory(1, "  ")], "no name"),
        ([NativeCategory(1, "a")] * 2, "occurs twice"),
    ],
)
def test_unusable_lists_are_refused_with_the_file(bad: list[NativeCategory], says: str) -> None:
    with pytest.raises(InputError, match=f"f.json.*{says}"):
        build_taxonomy(bad, default="thing", file="f.json", name="own")
