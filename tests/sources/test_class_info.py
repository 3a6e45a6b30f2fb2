from pathlib import Path

import pytest

from segkit.demo.layouts import write_native_sets
from segkit.demo.scenes import CLASSES
from segkit.errors import InputError
from segkit.sources.ade import open_ade
from segkit.sources.class_info import read_class_info
from segkit.taxonomy import load_taxonomy


def test_the_table_of_ade_gives_its_150_classes(real_data: Path) -> None:
    """The names agree, except for 15 rows in which semicolons replaced blanks (`screen;door`)."""
    table = read_class_info(real_data / "ade" / "objectInfo150.csv")
    shipped = load_taxonomy("ade20k-150")
    assert [c.id for c in table.categories] == [c.id for c in shipped.categories]
    assert (
        sum(
            row.name == category.name
            for row, category in zip(table.categories, shipped.categories, strict=True)
        )
        == 135
    )
    assert table.by_id[2].words[:2] == ("building", "edifice")


def test_a_set_in_the_layout_of_ade_may_have_its_own_classes(tmp_path: Path) -> None:
    sets = write_native_sets(tmp_path, train=1, val=1, seed=0)
    source = open_ade(sets.ade, "training", classes=sets.ade_classes)
    assert [(c.id, c.kind, c.words) for c in source.taxonomy.categories] == [
        (entry.id, entry.kind, tuple(entry.semantic.split(";"))) for entry in CLASSES
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Idx,Name\n1,wall\n", "lacks the column"),
        ("", "lacks the column"),
        ("Idx,Stuff,Name\n0,1,wall\n", "line 2: invalid class"),
        ("Idx,Stuff,Name\n1,1,wall\n2,2,sky\n", "line 3: invalid class"),
        ("Idx,Stuff,Name\n1,1,;\n", "invalid class"),
        ("Idx,Stuff,Name\n1,1,wall\n1,1,sky\n", "occurs twice"),
    ],
)
def test_an_invalid_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "classes.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_class_info(path)


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_class_info(tmp_path / "none.csv")
