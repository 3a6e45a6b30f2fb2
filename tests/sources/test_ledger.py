import io
import json
import re
import time
from pathlib import Path

import pytest

from segkit.errors import SegkitError
from segkit.sources.ledger import DROP_HINTS, MAX_DEFECTS, UNAVOIDABLE, WARNINGS, Defect, Tally


def filled() -> Tally:
    tally = Tally(images_in=3, images_kept=2)
    tally.annotations_in.update({"cat": 4, "dog": 1})
    tally.kept.update({"cat": 2})
    tally.drop(Defect("empty-mask", "no pixel", "a.json", "annotation 1", "cat", {"id": 1}))
    tally.drop_image(Defect("missing-image", "gone", "b.jpg", "image 7"), ["cat", "dog"])
    tally.warn("no-mask", "cat")
    return tally


def test_ledger_adds_up_per_class_and_in_total() -> None:
    ledger = filled().ledger()
    assert ledger.annotations.model_dump() == {
        "input": 5,
        "kept": 2,
        "dropped": {"empty-mask": 1, "missing-image": 2},
        "warnings": {"no-mask": 1},
    }
    assert ledger.images.model_dump() == {
        "input": 3,
        "kept": 2,
        "dropped": {"missing-image": 1},
        "warnings": {},
    }
    assert ledger.per_class["dog"].dropped == {"missing-image": 1}
    assert ledger.per_class["cat"].kept == 2


def test_a_ledger_of_many_classes_takes_time_in_proportion_to_them() -> None:
    """Visual Genome has 80,000 names of objects."""
    tally = Tally()
    for number in range(20_000):
        name = f"class {number}"
        tally.annotations_in[name], tally.kept[name] = 3, 1
        tally.dropped[name, "rare-class"], tally.dropped[name, "empty-mask"] = 1, 1
        tally.warnings[name, "no-mask"] = number
    start = time.process_time()
    ledger = tally.ledger()
    assert time.process_time() - start < 5  # 0.2 s; a minute and more with a scan for each
    assert ledger.per_class["class 7"].model_dump() == {
        "input": 3,
        "kept": 1,
        "dropped": {"empty-mask": 1, "rare-class": 1},
        "warnings": {"no-mask": 7},
    }
    assert ledger.per_class["class 0"].warnings == {}


@pytest.mark.parametrize("field", ["annotations_in", "kept"])
def test_an_annotation_that_is_not_accounted_for_fails(field: str) -> None:
    tally = filled()
    getattr(tally, field)["cat"] += 1
    with pytest.raises(SegkitError, match="does not balance"):
        tally.ledger()


def test_errors_that_cancel_in_the_total_fail_per_class() -> None:
    tally = filled()
    tally.kept["cat"] -= 1
    tally.kept["dog"] += 1
    with pytest.raises(SegkitError, match="does not balance for cat"):
        tally.ledger()


def test_a_lost_image_fails() -> None:
    tally = filled()
    tally.images_in += 1
    with pytest.raises(SegkitError, match="does not balance for images"):
        tally.ledger()


def test_tally_survives_json_and_adds() -> None:
    tally = filled()
    again = Tally.from_json(json.loads(json.dumps(tally.to_json())))
    assert again == tally
    again.add(filled())
    assert again.ledger().annotations.input == 10
    assert again.ledger().per_class["cat"].dropped == {"empty-mask": 2, "missing-image": 2}
    assert len(again.defects) == 4


def test_drops_by_design_are_counted_and_do_not_fail() -> None:
    tally = Tally()
    tally.annotations_in["wall"] = 1
    tally.drop(Defect("covered-by-instance", "hidden", "a.png", "image 1", "wall"))
    assert not tally.defects
    assert tally.ledger().annotations.dropped == {"covered-by-instance": 1}
    assert set(DROP_HINTS) > UNAVOIDABLE


def test_a_defect_is_one_line_with_file_record_and_hint() -> None:
    line = str(Defect("missing-image", "there is no such image", "x/y.jpg", "image 9").error(2))
    assert (
        "x/y.jpg: image 9: there is no such image [missing-image] (and 2 more defects); "
        "put the file there" in line
    )
    assert "\n" not in line


def test_a_hint_of_the_defect_itself_wins_and_is_kept() -> None:
    tally = Tally()
    tally.drop(
        Defect(
            "unknown-category", "class 9", "a.png", "image 1", "category 9", None, "give --ignore 9"
        )
    )
    (again,) = Tally.from_json(json.loads(json.dumps(tally.to_json()))).defects
    assert "class 9 [unknown-category]; give --ignore 9, or convert with --on-error skip" in str(
        again.error()
    )
    assert str(again.error(hint="check --images")).endswith("[unknown-category]; check --images")


ROOT = Path(__file__).parents[2]


def test_every_code_has_a_hint_and_is_documented() -> None:
    sources = "".join(
        path.read_text("utf-8") for path in (ROOT / "segkit" / "sources").glob("*.py")
    )
    dropped = set(re.findall(r'(?:Defect|ImageError|AnnotationError)\(\s*"([a-z-]+)"', sources))
    warned = set(re.findall(r'(?:warn\(|image_warnings\[)"([a-z-]+)"', sources))
    assert len(dropped) > 10
    assert dropped <= DROP_HINTS.keys()
    assert warned <= WARNINGS.keys()
    manual = (ROOT / "docs" / "conversion.md").read_text("utf-8")
    assert {code for code in (*DROP_HINTS, *WARNINGS) if f"`{code}`" not in manual} == set()


def test_of_many_offenders_the_first_are_kept_and_all_are_counted_and_written() -> None:
    log, total = io.StringIO(), Tally()
    for _ in range(3):
        tally = Tally(log=log)
        for number in range(MAX_DEFECTS):
            tally.drop_orphan(
                Defect("unknown-image", "gone", "a.json", f"annotations[{number}]"), ["cat"]
            )
        total.add(tally)
    assert (len(total.defects), total.offenders, total.dropped["cat", "unknown-image"]) == (
        MAX_DEFECTS,
        300,
        300,
    )
    assert len(log.getvalue().splitlines()) == 300
