"""Zero-shot splits: what the parts hold, what they refuse, and what training makes of them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from segkit.errors import InputError
from segkit.masks import rle
from segkit.shards.header import Header
from segkit.shards.merge_sets import merge_sets
from segkit.shards.validate import validate
from segkit.shards.writer import write_layer, write_set
from segkit.shards.zero_shot_split import (
    ClassSplit,
    ZeroShotRecord,
    known_splits,
    load_split,
    split_zero_shot,
)
from segkit.taxonomy import Category, Taxonomy, load_taxonomy
from segkit.training.preflight import check_inputs
from tests.shards.conftest import picture, toy_sample

WIDE = Taxonomy(
    "wide", (Category(3, "cat", "thing"), Category(5, "dog", "thing"), Category(7, "sky", "stuff"))
)
DOG = ClassSplit("dogs", ("dog",))


def write_wide(folder, kind="panoptic", count=6):
    """Toy samples, of which every third has a dog in the place of its cat."""

    def sample(seed):
        toy = toy_sample(seed)
        cat, sky, crowd = toy.segments
        animal = replace(cat, class_id=5) if seed % 3 == 0 else cat
        segments = (animal, sky, replace(crowd, class_id=animal.class_id))
        return replace(toy, segments=segments, annotated=None, exhaustive=True)

    rows = ((sample(seed), picture(seed)) for seed in range(count))
    return write_set(folder, rows, Header(taxonomy=WIDE, kind=kind, name="wide", command="test"))


def pixels(counts, sample):
    return rle.decode(counts, sample.height, sample.width)


def test_dropped_images_and_the_record(tmp_path):
    data = write_wide(tmp_path / "wide")
    parts = split_zero_shot(data, tmp_path / "parts", DOG, "drop-image", {})
    train, rest = parts["seen"], parts["unseen"]
    assert [sample.id for sample in train.samples()] == ["001", "002", "004", "005"]
    assert [sample.id for sample in rest.samples()] == ["000", "003"]
    assert train.taxonomy.names == ("cat", "sky") and rest.taxonomy == WIDE
    record = ZeroShotRecord.from_set(train)
    assert (record.split, record.policy, record.taxonomy.names) == ("dogs", "drop-image", ("dog",))
    assert ZeroShotRecord.from_set(rest) is None and ZeroShotRecord.from_set(data) is None
    for part in parts.values():
        assert list(validate(part.path)) == []
    segments = {sample.id: sample.segments for sample in data.samples()}
    assert all(sample.segments == segments[sample.id] for sample in rest.samples())


@pytest.mark.parametrize("kind", ["panoptic", "instance"])
def test_ignored_pixels_are_void_and_nothing_else_is(tmp_path, kind):
    data = write_wide(tmp_path / "wide", kind)
    parts = split_zero_shot(data, tmp_path / "parts", DOG, "ignore-pixels", {})
    assert list(validate(parts["seen"].path)) == []
    assert len(parts["seen"]) == len(data) and len(parts["unseen"]) == 2
    for before, after in zip(data.samples(), parts["seen"].samples(), strict=True):
        assert all(segment.class_id != 5 for segment in after.segments)
        expected = pixels(before.void, before)
        for segment in before.segments:
            if segment.class_id == 5:
                box = np.zeros_like(expected)
                box[0:9, 0:32] = True  # the crowd's box, clipped
                mask = segment.mask
                expected = expected | (box if mask is None else pixels(mask, before))
        for segment in after.segments:
            if segment.mask is not None:
                expected &= ~pixels(segment.mask, after)
        assert np.array_equal(pixels(after.void, after), expected)
    ledger = parts["seen"].manifest.ledger
    assert ledger.annotations.dropped == {"unseen-class": 4} and ledger.annotations.kept == 14


def test_classes_that_are_left_out_are_in_no_part(tmp_path):
    data = write_wide(tmp_path / "wide")
    split = ClassSplit("no sky", ("dog",), left_out=("sky",))
    parts = split_zero_shot(data, tmp_path / "parts", split, "drop-image", {})
    assert parts["seen"].taxonomy.names == ("cat",)
    assert parts["unseen"].taxonomy.names == ("cat", "dog")
    for sample in parts["unseen"].samples():
        assert pixels(sample.void, sample).sum() > 400  # of 768


def test_a_seen_part_is_not_split_again(tmp_path):
    """The new record would forget the classes that the first split hides."""
    data, cat = write_wide(tmp_path / "wide"), ClassSplit("x", ("cat",))
    parts = split_zero_shot(data, tmp_path / "parts", DOG, "drop-image", {})
    with pytest.raises(InputError, match=r"is the seen part of .*; split the set that it was made"):
        split_zero_shot(parts["seen"], tmp_path / "again", cat, "drop-image", {})
    assert not (tmp_path / "again").exists()


def test_a_layer_keeps_the_record_and_a_merge_with_others_is_refused(tmp_path):
    data = write_wide(tmp_path / "wide")
    parts = split_zero_shot(data, tmp_path / "parts", DOG, "drop-image", {})
    train = parts["seen"]
    header = Header.from_set(train, "test")
    layer = write_layer(tmp_path / "layer", train, train.samples(), header)
    assert ZeroShotRecord.from_set(layer) == ZeroShotRecord.from_set(train)
    options = {"name": "both", "rename": True, "arguments": {}}
    merged = merge_sets([train, layer], tmp_path / "both", **options)
    assert ZeroShotRecord.from_set(merged) == ZeroShotRecord.from_set(train)
    with pytest.raises(InputError, match="not parts of one zero-shot split"):
        merge_sets([train, parts["unseen"]], tmp_path / "mixed", **options)


def test_what_cannot_be_split_is_refused(tmp_path):
    data = write_wide(tmp_path / "wide")
    for split, message in (
        (ClassSplit("x", ("zebra",)), "the set has no class 'zebra'"),
        (ClassSplit("x", ("cat", "dog", "sky")), "every class of the set is unseen"),
        (ClassSplit("x", ("sky",)), "no image is left for the seen part"),
    ):
        with pytest.raises(InputError, match=message):
            split_zero_shot(data, tmp_path / "parts", split, "drop-image", {})
    assert not (tmp_path / "parts").exists()


def test_training_takes_the_unseen_classes_from_its_sets_and_refuses_a_leak(tmp_path, tiny):
    from segkit.recipes.load import load_recipe

    data = write_wide(tmp_path / "wide")
    train = split_zero_shot(data, tmp_path / "parts", DOG, "drop-image", {})["seen"]
    inputs = check_inputs(load_recipe(tiny), [(str(train.path), 1.0)], [])
    assert inputs.recipe.inference.unseen == ("dog",)
    assert check_inputs(load_recipe(tiny), [(str(data.path), 1.0)], []).recipe == load_recipe(tiny)
    with pytest.raises(InputError, match="has 4 segments of 'dog', which is unseen"):
        check_inputs(load_recipe(tiny), [(str(train.path), 1.0), (str(data.path), 1.0)], [])
    changed = load_recipe(tiny, ['inference.unseen=["cat"]'])
    with pytest.raises(InputError, match=r"inference\.unseen"):
        check_inputs(changed, [(str(train.path), 1.0)], [])


def test_the_shipped_splits_have_the_published_sizes():
    sizes = {name: load_split(name) for name in known_splits()}
    assert {name: (len(s.unseen), len(s.left_out)) for name, s in sizes.items()} == {
        "coco-48-17": (17, 15),
        "coco-65-15": (15, 0),
        "coco-panoptic-119-14": (14, 0),
        "coco-stuff-156-15": (15, 0),
    }
    for name, taxonomy in (
        ("coco-48-17", "coco-80"),
        ("coco-65-15", "coco-80"),
        ("coco-panoptic-119-14", "coco-panoptic-133"),
    ):
        names = load_taxonomy(taxonomy).names
        chosen = {*sizes[name].unseen, *sizes[name].left_out}
        assert chosen <= {*names}
        seen = len(names) - len(chosen)
        assert f"-{seen}-" in name
        assert not {*sizes[name].unseen} & {*sizes[name].left_out}


def test_a_split_from_a_file(tmp_path):
    (tmp_path / "mine.txt").write_text("dog\n\n cat \n")
    assert load_split(str(tmp_path / "mine.txt")) == ClassSplit("mine", ("dog", "cat"))
    content = {"name": "j", "unseen": ["dog"], "left_out": ["sky"], "source": "s"}
    (tmp_path / "mine.json").write_text(json.dumps(content))
    assert load_split(str(tmp_path / "mine.json")).left_out == ("sky",)
    for text in ("[]", '{"name": "x", "unseen": []}', '{"name": 3}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match=r"bad\.json"):
            load_split(str(tmp_path / "bad.json"))
    for wrong, message in (
        ({"unseen": ["dog"], "left_out": ["dog"]}, "'dog' is unseen and left out"),
        ({"unseen": ["dog"], "leftout": ["sky"]}, "unknown key 'leftout'; its keys are name, uns"),
    ):
        (tmp_path / "bad.json").write_text(json.dumps({"name": "x"} | wrong))
        with pytest.raises(InputError, match=message):
            load_split(str(tmp_path / "bad.json"))
    with pytest.raises(InputError, match="unknown split 'coco-1-2'"):
        load_split("coco-1-2")
