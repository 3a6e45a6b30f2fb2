from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from segkit.errors import InputError
from segkit.masks import rle
from segkit.report.preview import index_of
from segkit.sample import ImageRef, Segment
from segkit.shards.diff import diff
from segkit.shards.header import Header
from segkit.shards.merge_sets import differing_words, merge_sets, merge_taxonomies
from segkit.shards.relabel import read_table, relabel, relabel_sample
from segkit.shards.split import assign_by_list, assign_by_share, split
from segkit.shards.validate import validate
from segkit.shards.writer import write_layer, write_set
from segkit.taxonomy import Category, Taxonomy
from tests.shards.conftest import TAXONOMY, picture, toy_records, toy_sample

OPTIONS = {"kind": "panoptic", "name": "toy", "split": "train", "command": "t", "arguments": {}}
NEW = Taxonomy(
    "new",
    (Category(1, "animal", "thing"), Category(2, "backdrop", "stuff"), Category(9, "car", "thing")),
)


def images_of(data):
    return [data.image_bytes(sample) for sample in data.samples()]


def second_set(folder, taxonomy=TAXONOMY, start=100, count=2):
    records = ((toy_sample(seed), picture(seed)) for seed in range(start, start + count))
    return write_set(folder, records, Header(taxonomy=taxonomy, **OPTIONS))


def test_a_merged_set_holds_all_samples_and_reads_the_images_of_both(make_set, tmp_path):
    first, second = make_set(count=3), second_set(tmp_path / "other")
    merged = merge_sets(
        [first, second], tmp_path / "deep" / "both", name="both", rename=False, arguments={}
    )
    assert images_of(merged) == images_of(first) + images_of(second)
    assert [sample.id for sample in merged.samples()] == ["000", "001", "002", "100", "101"]
    assert list(validate(merged.path)) == []
    assert [parent.digest for parent in merged.manifest.parents] == [
        first.manifest.digest,
        second.manifest.digest,
    ]
    assert merged.manifest.statistics.segments == 15


def test_merging_more_classes_lists_the_annotated_ones(make_set, tmp_path):
    wider = Taxonomy("wider", (*TAXONOMY.categories, Category(8, "dog", "thing")))
    merged = merge_sets(
        [make_set(count=2), second_set(tmp_path / "other", wider)],
        tmp_path / "both",
        name="b",
        rename=False,
        arguments={},
    )
    assert merged.taxonomy == replace(wider, name="wider")
    assert [sample.annotated for sample in merged.samples()] == [(3, 7), (3, 7), None, (3, 7)]


def test_ids_that_clash_are_refused_or_renamed(make_set, tmp_path):
    first, second = make_set(count=2), make_set("again", count=2)
    with pytest.raises(InputError, match="occurs in both"):
        merge_sets([first, second], tmp_path / "n" / "both", name="b", rename=False, arguments={})
    assert not (tmp_path / "n").exists(), "a failure leaves no folder"
    merged = merge_sets([first, second], tmp_path / "both", name="b", rename=True, arguments={})
    assert [sample.id for sample in merged.samples()] == ["1-000", "1-001", "2-000", "2-001"]


@pytest.mark.parametrize(
    "category",
    [Category(3, "dog", "thing"), Category(3, "cat", "stuff"), Category(5, "cat", "thing")],
)
def test_contradicting_classes_are_not_merged(category):
    with pytest.raises(InputError, match="elsewhere"):
        merge_taxonomies([TAXONOMY, Taxonomy("other", (category,))], "both")


def test_classes_of_one_name_are_merged_where_all_sets_have_them():
    twins = Taxonomy("t", tuple(Category(i, "cat", "thing") for i in (1, 2)))
    assert merge_taxonomies([twins, twins], "t").names == ("cat", "cat")
    single = Taxonomy("u", (Category(2, "cat", "thing"),))
    with pytest.raises(InputError, match="elsewhere it has id 1 and 2"):
        merge_taxonomies([twins, single], "t")


def test_differing_words_are_named():
    bird, machine = (
        Taxonomy("t", (Category(1, "crane", "thing", (word,)), Category(2, "sky", "stuff")))
        for word in ("crane bird", "construction crane")
    )
    assert differing_words([bird, machine, bird]) == ["crane"]
    assert differing_words([bird, bird]) == []


def test_no_part_is_published_if_one_cannot_be(make_set, tmp_path):
    data, out = make_set(), tmp_path / "parts"
    out.mkdir()
    (out / "val").touch()
    parts = {sample.id: "train" if n else "val" for n, sample in enumerate(data.samples())}
    with pytest.raises(InputError, match="val: cannot be written to"):
        split(data, out, dict(sorted(parts.items(), key=lambda item: item[1])), {})
    assert not (out / "train").exists()


def test_no_part_is_published_if_a_name_is_too_long(make_set, tmp_path):
    data = make_set()
    parts = {sample.id: "x" * 256 if n else "ok" for n, sample in enumerate(data.samples())}
    with pytest.raises(InputError, match="a name of 256 bytes, where 255 are allowed"):
        split(data, tmp_path / "parts", parts, {})
    assert not (tmp_path / "parts").exists()


def test_a_split_by_share_is_a_partition_of_the_stated_sizes(make_set, tmp_path):
    data = make_set(count=10)
    parts = assign_by_share(data, {"train": 0.7, "val": 0.3}, seed=1)
    assert sorted(parts.values()) == ["train"] * 7 + ["val"] * 3
    assert parts != assign_by_share(data, {"train": 0.7, "val": 0.3}, seed=2)
    sets = split(data, tmp_path / "parts", parts, {})
    assert {part: len(shards) for part, shards in sets.items()} == {"train": 7, "val": 3}
    ids = [sample.id for shards in sets.values() for sample in shards.samples()]
    assert sorted(ids) == [f"{seed:03d}" for seed in range(10)]
    assert sets["val"].manifest.ledger.annotations.dropped == {"other-part": 21}
    for shards in sets.values():
        assert list(validate(shards.path)) == []
        assert images_of(shards) == [picture(int(sample.id)) for sample in shards.samples()]


def test_the_part_of_an_image_depends_only_on_its_id(tmp_path):
    records = list(toy_records(9))
    sets = [
        write_set(tmp_path / n, r, Header(taxonomy=TAXONOMY, **OPTIONS))
        for n, r in (("a", records), ("b", records[::-1]))
    ]
    assert assign_by_share(sets[0], {"x": 0.5, "y": 0.5}, 3) == assign_by_share(
        sets[1], {"x": 0.5, "y": 0.5}, 3
    )


@pytest.mark.parametrize("shares", [{"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": 0.99, "b": 0.01}])
def test_invalid_shares_are_refused(make_set, shares):
    with pytest.raises(InputError):
        assign_by_share(make_set(), shares, 0)


def test_a_split_by_lists(make_set, tmp_path):
    data = make_set()
    (tmp_path / "a").write_text("001\n\n003\n")
    (tmp_path / "b").write_text("000\n")
    assert assign_by_list(data, {"a": tmp_path / "a", "b": tmp_path / "b"}) == {
        "001": "a",
        "003": "a",
        "000": "b",
    }
    (tmp_path / "b").write_text("003\n")
    with pytest.raises(InputError, match="part a too"):
        assign_by_list(data, {"a": tmp_path / "a", "b": tmp_path / "b"})
    (tmp_path / "b").write_text("ghost\n")
    with pytest.raises(InputError, match="line 1: the set has no image ghost"):
        assign_by_list(data, {"b": tmp_path / "b"})


def test_lists_and_ids_may_have_another_unicode_form(tmp_path):
    data = SimpleNamespace(image_ids=lambda: iter(["a", "cafe\u0301"]))
    (tmp_path / "list").write_text("caf\u00e9\n", "utf-8")
    assert assign_by_list(data, {"a": tmp_path / "list"}) == {"cafe\u0301": "a"}
    assert index_of(data, "caf\u00e9") == 1


def test_relabeling_keeps_every_pixel_and_balances(make_set, tmp_path):
    data = make_set(count=3)
    relabeled = relabel(data, tmp_path / "new", NEW, {3: 1, 7: 2}, {})
    assert list(validate(relabeled.path)) == []
    assert images_of(relabeled) == images_of(data)
    for before, after in zip(data.samples(), relabeled.samples(), strict=True):
        assert [(s.mask, s.box, s.score) for s in before.segments] == [
            (s.mask, s.box, s.score) for s in after.segments
        ]
        assert [s.class_id for s in after.segments] == [1, 2, 1]
        assert after.annotated == (1, 2)  # cars are not annotated
    assert (
        relabeled.manifest.ledger.annotations.input
        == relabeled.manifest.ledger.annotations.kept
        == 9
    )


def test_a_dropped_class_becomes_void_and_is_counted(make_set, tmp_path):
    data = make_set(count=2)
    relabeled = relabel(data, tmp_path / "new", NEW, {3: None, 7: 2}, {})
    assert list(validate(relabeled.path)) == []
    count = relabeled.manifest.ledger.annotations
    assert (count.input, count.kept, count.dropped) == (6, 2, {"unmapped-class": 4})
    for before, after in zip(data.samples(), relabeled.samples(), strict=True):
        expected = rle.decode(before.segments[0].mask, 24, 32) | rle.decode(before.void, 24, 32)
        assert np.array_equal(rle.decode(after.void, 24, 32), expected)


def test_things_that_become_stuff_are_joined(tmp_path):
    stuff = Taxonomy("stuff", (Category(1, "all", "stuff"),))
    sample = replace(toy_sample(2), segments=toy_sample(2).segments[:2])
    relabeled = relabel_sample(sample, "panoptic", stuff, {3: 1, 7: 1})
    (region,) = relabeled.segments
    assert np.array_equal(rle.decode(region.mask, 24, 32), ~rle.decode(sample.void, 24, 32))
    assert (region.kind, region.box, region.mask_from) == (
        "stuff",
        (0.0, 0.0, 32.0, 24.0),
        "derived",
    )
    assert region.area == rle.area(region.mask, 24, 32)
    assert relabeled.annotated is None


def test_a_partly_annotated_class_is_not_exhaustive():
    sample = replace(
        toy_sample(1), annotated=(3,), exhaustive=True, segments=toy_sample(1).segments[:1]
    )
    relabeled = relabel_sample(sample, "panoptic", NEW, {3: 1, 7: 1})
    assert (relabeled.annotated, relabeled.exhaustive, relabeled.not_exhaustive) == (
        (1,),
        False,
        (1,),
    )
    assert relabel_sample(sample, "panoptic", NEW, {3: 1, 7: 2}).exhaustive


def test_incomplete_classes_remain_incomplete_in_another_taxonomy():
    sample = replace(toy_sample(1), annotated=None, exhaustive=False, not_exhaustive=(7,))

    def exhaustiveness(class_map, sample=sample):
        relabeled = relabel_sample(sample, "panoptic", NEW, class_map)
        return relabeled.exhaustive, relabeled.not_exhaustive

    assert exhaustiveness({3: 2, 7: 1}) == exhaustiveness({3: 1, 7: 1}) == (False, (1,))
    assert exhaustiveness({3: 1, 7: None}) == (True, ())
    assert exhaustiveness({3: 2, 7: 1}, replace(sample, not_exhaustive=())) == (False, ())


def test_a_class_map_has_names_or_ids(tmp_path):
    path = tmp_path / "map.csv"
    path.write_text("from,to\ncat,animal\n7,\n")
    assert read_table(path, TAXONOMY, NEW) == {3: 1, 7: None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from,to\ncat,animal\n", "has no line for sky"),
        ("from,to\ncat,animal\nsky,ghost\n", "line 3: no class 'ghost'"),
        ("from,to\ncat,animal\ncat,car\nsky,\n", "two targets"),
        ("old,new\ncat,animal\n", "lacks the column"),
    ],
)
def test_invalid_class_maps_are_refused(tmp_path, text, message):
    path = tmp_path / "map.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_table(path, TAXONOMY, NEW)


def test_equal_labels_do_not_differ(make_set, tmp_path):
    data = make_set()
    layer = write_layer(
        tmp_path / "layer", data, list(data.samples())[::-1], Header.from_set(data, "t")
    )
    difference = diff(data, layer)
    assert difference.identical and difference.common == 5
    assert all(counts.to_json()["iou"] == 1 for counts in difference.classes.values())


def test_what_means_the_same_does_not_differ(make_set, tmp_path):
    data = make_set()
    everything = tuple(data.taxonomy.by_id)

    def reordered(sample):
        segments = sample.segments[::-1]
        return replace(sample, segments=segments, annotated=everything, file_name="other.png")

    header = Header.from_set(data, "t")
    layer = write_layer(tmp_path / "layer", data, map(reordered, data.samples()), header)
    assert diff(data, layer).identical


def test_images_of_a_taxonomy_with_more_classes_differ(make_set, tmp_path):
    """They were searched for one more class."""
    data = make_set()
    more = replace(
        data.taxonomy, categories=(*data.taxonomy.categories, Category(50, "unicorn", "thing"))
    )
    header = replace(Header.from_set(data, "t"), taxonomy=more)
    layer = write_layer(tmp_path / "layer", data, data.samples(), header)
    without_list = [sample.id for sample in data.samples() if sample.annotated is None]
    assert diff(data, layer).changed_labels == without_list


def test_an_image_of_another_size_is_a_difference(make_set, tmp_path):
    data = make_set(count=2)
    first, second = data.samples()
    records = [(replace(first, width=8, height=8, segments=(), void=None), None), (second, None)]
    header = Header(taxonomy=TAXONOMY, images_by="none", **OPTIONS)
    difference = diff(data, write_set(tmp_path / "b", records, header))
    assert difference.changed_labels == [first.id] and difference.common == 2


def test_differences_are_counted_by_image_class_and_pixel(make_set, tmp_path):
    data = make_set(count=4)

    def with_square(sample):
        cat, sky, box = sample.segments
        square = np.zeros((24, 32), bool)
        square[:8, :8] = True
        return replace(sample, segments=(replace(cat, mask=rle.encode(square)), sky, box))

    samples = [with_square(s) if s.id == "001" else s for s in data.samples() if s.id != "003"]
    altered = write_layer(tmp_path / "b", data, samples, Header.from_set(data, "t"))
    difference = diff(data, altered)
    assert (
        difference.only_a,
        difference.only_b,
        difference.changed_labels,
        difference.changed_images,
    ) == (
        ["003"],
        [],
        ["001"],
        [],
    )
    cat = difference.classes["cat"]
    truth = [rle.decode(s.segments[0].mask, 24, 32) for s in data.samples() if s.id != "003"]
    mine = [rle.decode(s.segments[0].mask, 24, 32) for s in altered.samples()]
    assert cat.segments == [6, 6]
    assert cat.pixels == [sum(m.sum() for m in truth), sum(m.sum() for m in mine)]
    assert cat.common_pixels == sum((a & b).sum() for a, b in zip(truth, mine, strict=True))
    assert difference.classes["sky"].to_json()["iou"] == 1


def test_changed_image_bytes_are_a_difference(make_set, tmp_path):
    records = [(toy_sample(0), picture(99))]
    altered = write_set(tmp_path / "other", records, Header(taxonomy=TAXONOMY, **OPTIONS))
    difference = diff(make_set(count=1), altered)
    assert (
        difference.changed_images == ["000"]
        and not difference.changed_labels
        and not difference.identical
    )


def test_sets_with_different_images_by_are_not_merged(make_set, tmp_path):
    sample = replace(toy_sample(50), image=ImageRef(path="/somewhere.png"))
    referenced = write_set(
        tmp_path / "p",
        [(sample, None)],
        Header(taxonomy=TAXONOMY, images_by="reference", **OPTIONS),
    )
    with pytest.raises(InputError, match="embed and reference"):
        merge_sets(
            [make_set(), referenced], tmp_path / "both", name="b", rename=False, arguments={}
        )


def test_boxes_and_crowds_survive_a_semantic_join():
    crowd = Segment(
        3,
        "thing",
        (0.0, 0.0, 2.0, 2.0),
        rle.encode(np.eye(24, 32)),
        24.0,
        is_crowd=True,
        mask_from="human",
    )
    bare = Segment(3, "thing", (0.0, 0.0, 2.0, 2.0), None, 4.0)
    sample = replace(toy_sample(0), segments=(crowd, bare, bare))
    assert len(relabel_sample(sample, "semantic", NEW, {3: 1, 7: 2}).segments) == 3


@pytest.mark.parametrize("command", ["merge", "split"])
def test_a_name_that_no_file_can_have_is_one_line(command, make_set, tmp_path):
    sample = replace(toy_sample(50), image=ImageRef(path="a\0b.png"))
    header = Header(taxonomy=TAXONOMY, images_by="reference", **OPTIONS)
    odd = write_set(tmp_path / "p", [(sample, None)], header)
    samples = (replace(toy_sample(n), image=ImageRef(path="/a.png")) for n in range(2))
    sound = write_set(tmp_path / "q", ((sample, None) for sample in samples), header)
    with pytest.raises(InputError, match=r"050.*names a file that cannot exist.*segkit validate"):
        if command == "merge":
            sets, options = [odd, sound], {"name": "b", "rename": False, "arguments": {}}
            merge_sets(sets, tmp_path / "out", verify_images=False, **options)
        else:
            split(odd, tmp_path / "out", {"050": "a"}, {}, verify_images=False)
    assert not list(tmp_path.glob("out/**/v1"))
