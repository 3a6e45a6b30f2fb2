import json
from dataclasses import replace

import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from segkit.sample import ImageRef, Sample, Segment
from segkit.shards import arrow, shard
from tests.shards.conftest import toy_sample

text = st.text(st.characters(codec="utf-8"), max_size=8)
number = st.floats(allow_nan=False, allow_infinity=False)
counts = st.one_of(st.none(), st.text("0123abc", max_size=6).map(str.encode))
segments = st.builds(
    Segment,
    class_id=st.integers(-(2**62), 2**62),
    kind=st.sampled_from(("thing", "stuff")),
    box=st.tuples(number, number, number, number),
    mask=counts,
    area=number,
    is_crowd=st.booleans(),
    ignore=st.booleans(),
    mask_from=st.sampled_from((None, "human", "pseudo")),
    score=st.one_of(st.none(), st.floats(0, 1)),
    source_id=st.one_of(st.none(), text),
    source_polygon=st.one_of(st.none(), text),
)
samples = st.builds(
    Sample,
    id=text,
    file_name=text,
    width=st.integers(1, 10**6),
    height=st.integers(1, 10**6),
    segments=st.lists(segments, max_size=4).map(tuple),
    image=st.builds(
        ImageRef, tar=st.one_of(st.none(), text), offset=st.integers(0, 2**40), path=text
    ),
    annotated=st.one_of(st.none(), st.lists(st.integers(0, 400), max_size=3).map(tuple)),
    exhaustive=st.booleans(),
    not_exhaustive=st.lists(st.integers(0, 400), max_size=3).map(tuple),
    void=counts,
    source=st.one_of(st.none(), text),
)


@given(st.lists(samples, max_size=5))
def test_every_field_survives_the_table(rows):
    assert list(arrow.Rows(arrow.to_table(rows))) == rows


def test_every_field_survives_the_file_over_several_row_groups(tmp_path):
    rows = [toy_sample(seed) for seed in range(shard.ROW_GROUP + 5)]
    shard.write_labels(tmp_path / "x.parquet", rows)
    file = pq.ParquetFile(tmp_path / "x.parquet")
    assert file.num_row_groups == 2
    assert list(arrow.Rows(file.read())) == rows
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_older_sets_without_a_column_get_its_default():
    rows = [toy_sample(seed) for seed in range(4)]
    older = arrow.to_table([replace(row, not_exhaustive=(3,)) for row in rows]).drop_columns(
        sorted(arrow.LATER)
    )
    assert list(arrow.Rows(older)) == rows


def test_slices_of_a_table_keep_their_own_segments():
    rows = [toy_sample(seed) for seed in range(4)]
    assert list(arrow.Rows(arrow.to_table(rows).slice(1, 2))) == rows[1:3]


def test_rows_fit_the_published_schema():
    from importlib import resources

    schema = json.loads(
        (resources.files("segkit.schemas") / "sample.schema.json").read_text("utf-8")
    )
    validator = Draft202012Validator(schema)
    for seed in range(3):
        validator.validate(arrow.to_row(toy_sample(seed)))
    broken = arrow.to_row(toy_sample(0))
    broken["segments"][0]["kind"] = "ghost"
    assert not validator.is_valid(broken)
    assert set(schema["required"]) == set(arrow.SCHEMA.names) - arrow.LATER
    assert set(schema["properties"]) == set(arrow.SCHEMA.names)
    assert set(schema["$defs"]["segment"]["required"]) == {field.name for field in arrow.SEGMENT}
