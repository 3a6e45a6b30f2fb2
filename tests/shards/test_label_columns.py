"""Images and fields that are read by column are those of the samples."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from segkit.errors import InputError
from segkit.shards import shard
from segkit.shards.label_columns import read_images, read_segments
from segkit.shards.reader import ShardSet

from .conftest import TAXONOMY

FIELDS = ("class_id", "source_id", "mask_from", "is_crowd", "score", "area")


@pytest.fixture
def two_parts(make_set: Callable[..., ShardSet], monkeypatch: pytest.MonkeyPatch) -> ShardSet:
    """A set of several parts and row groups, some of whose fields are null."""
    monkeypatch.setattr(shard, "ROW_GROUP", 2)
    data = make_set(count=12)
    assert len(data.manifest.parts) > 1
    return data


def test_images_are_the_samples_without_segments(two_parts: ShardSet) -> None:
    expected = [replace(sample, segments=()) for sample in two_parts.samples()]
    assert list(read_images(two_parts)) == expected
    assert any(sample.annotated for sample in expected)


@pytest.mark.parametrize("field", FIELDS)
def test_fields_are_those_of_the_segments(two_parts: ShardSet, field: str) -> None:
    samples = list(two_parts.samples())
    expected = [[getattr(segment, field) for segment in sample.segments] for sample in samples]
    assert list(read_segments(two_parts, field)) == expected


def test_an_image_with_an_unknown_class_is_refused(two_parts: ShardSet) -> None:
    fewer = replace(TAXONOMY, categories=TAXONOMY.categories[:1])
    data = ShardSet(
        two_parts.path, two_parts.manifest.model_copy(update={"taxonomy": fewer.to_json()})
    )
    with pytest.raises(InputError, match=r"annotated class \d is not in the taxonomy"):
        list(read_images(data))
