"""What a merged set keeps of the source headers."""

import pytest

from segkit.export.semantic_png import void_index
from segkit.shards.header import Header
from segkit.shards.merge_sets import merge_sets, merge_source_headers
from segkit.shards.validate import validate
from segkit.shards.writer import write_set

from .conftest import TAXONOMY, picture, toy_sample

OPTIONS = {"kind": "panoptic", "name": "toy", "split": "train", "command": "test"}


def test_a_merged_set_keeps_what_the_source_headers_agree_in(make_set, tmp_path):
    cat, sky = {"id": 3, "name": "cat", "supercategory": "animal"}, {"id": 7, "name": "sky"}
    licenses = [{"id": number, "name": f"license {number}"} for number in range(3)]
    headers = (
        {
            "info": {"year": 2017},
            "ignore": [11],
            "categories": [cat, sky],
            "licenses": licenses[:2],
            "path": "a",
        },
        {
            "info": {"year": 2017},
            "ignore": [11],
            "categories": [{**sky, "supercategory": "x"}, cat],
            "licenses": licenses[1:],
            "path": "b",
        },
        {"info": {"year": 2017}, "ignore": [11], "licenses": licenses[2:]},
    )
    sets = [
        write_set(
            tmp_path / f"{number}",
            [(toy_sample(number), picture(number))],
            Header(taxonomy=TAXONOMY, source_header=header, **OPTIONS),
        )
        for number, header in enumerate(headers)
    ]
    options = {"name": "all", "rename": False, "arguments": {}}
    merged = merge_sets(sets, tmp_path / "all", **options)
    assert merged.manifest.source_header == {
        "info": {"year": 2017},
        "ignore": [11],
        "categories": [cat],  # sky has two records
        "licenses": licenses,
    }
    assert void_index(merged) == 11 and list(validate(merged.path)) == []
    again = merge_sets(sets[:1] * 2, tmp_path / "again", **{**options, "rename": True})
    assert again.manifest.source_header == headers[0]
    plain = merge_sets(
        [sets[0], make_set(count=1, name="x")], tmp_path / "plain", **{**options, "rename": True}
    )
    assert plain.manifest.source_header == {
        "categories": headers[0]["categories"],
        "licenses": headers[0]["licenses"],
    }


@pytest.mark.parametrize("rows", [None, 3, ["a"], [{"name": "no id"}]])
def test_malformed_licenses_are_not_joined(rows):
    headers = [{"licenses": [{"id": 1}]}, {"licenses": rows}]
    assert merge_source_headers(headers) == {}
    assert merge_source_headers([headers[1]] * 2) == headers[1]
