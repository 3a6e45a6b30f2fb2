import json
import multiprocessing
import pickle
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from segkit.errors import InputError, SegkitError
from segkit.sample import ImageRef
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_layer, write_set
from tests.shards.conftest import TAXONOMY, picture, toy_records, toy_sample


def without_image(sample):
    return replace(sample, image=ImageRef())


def test_samples_are_read_in_order_and_by_index(make_set):
    shards = make_set(count=7)
    expected = [toy_sample(seed) for seed in range(7)]
    assert len(shards.manifest.parts) > 2
    assert [without_image(sample) for sample in shards.samples()] == expected
    assert [without_image(shards.sample(index)) for index in (6, 0, 3)] == [
        expected[index] for index in (6, 0, 3)
    ]
    with pytest.raises(IndexError):
        shards.sample(7)
    for seed, sample in enumerate(shards.samples()):
        assert shards.image_bytes(sample) == picture(seed)
        bgr = cv2.imdecode(np.frombuffer(picture(seed), np.uint8), cv2.IMREAD_COLOR)
        assert np.array_equal(shards.image(sample), bgr[..., ::-1])


def test_a_row_is_refused_at_each_read_and_its_neighbors_at_none(tmp_path):
    records = [(toy_sample(seed), None) for seed in range(3)]
    segments = tuple(replace(segment, class_id=99) for segment in records[1][0].segments)
    records[1] = replace(records[1][0], segments=segments), None
    header = Header(taxonomy=TAXONOMY, kind="panoptic", name="x", command="t", images_by="none")
    shards = write_set(tmp_path / "set", records, header)
    for _ in range(2):
        with pytest.raises(InputError, match="class 99 is not in the taxonomy"):
            shards.sample(1)
        assert [without_image(shards.sample(index)) for index in (0, 2)] == [
            toy_sample(0),
            toy_sample(2),
        ]


def test_the_digest_depends_only_on_the_content(make_set, tmp_path):
    first, again, larger = make_set("a"), make_set("b"), make_set("c", count=6)
    assert first.manifest.digest == again.manifest.digest != larger.manifest.digest
    assert make_set("a").path == tmp_path / "a" / "v2"
    assert ShardSet.open(f"{tmp_path}/a@v1").manifest == first.manifest


def test_a_version_that_is_a_link_to_another_name_is_one_line(make_set, tmp_path):
    make_set().path.rename(tmp_path / "snapshot7")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "v1").symlink_to(tmp_path / "snapshot7")
    for spec in ("set", "set@v1", "set/v1"):
        with pytest.raises(InputError, match="v1: is a link to snapshot7, which is not the name"):
            ShardSet.open(tmp_path / spec)


def test_a_writer_that_fails_leaves_no_version(tmp_path):
    def records():
        yield from toy_records(2)
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="fire"):
        write_set(
            tmp_path / "set",
            records(),
            Header(taxonomy=TAXONOMY, kind="panoptic", name="x", command="t"),
        )
    with pytest.raises(InputError):
        ShardSet.open(tmp_path / "set")


def test_a_layer_reads_its_parents_images_even_after_both_moved(make_set, tmp_path):
    parent = make_set("data/set")
    emptied = (replace(sample, segments=sample.segments[:1]) for sample in parent.samples())
    layer = write_layer(
        tmp_path / "data/deep/layer",
        parent,
        emptied,
        replace(Header.from_set(parent, "relabel"), name="l"),
    )
    deeper = write_layer(
        tmp_path / "data/layer2", layer, layer.samples(), Header.from_set(layer, "again")
    )
    shutil.move(tmp_path / "data", tmp_path / "moved")
    for name in ("deep/layer", "layer2"):
        moved = ShardSet.open(tmp_path / "moved" / name)
        assert [moved.image_bytes(sample) for sample in moved.samples()] == [
            picture(seed) for seed in range(5)
        ]
        assert all(len(sample.segments) == 1 for sample in moved.samples())
    assert not list((tmp_path / "moved/layer2/v1").glob("*.tar"))
    assert [parent.digest for parent in deeper.manifest.parents] == [layer.manifest.digest]
    assert (layer.path.parent.parent.parent / "set").name == "set"


def test_images_by_reference_and_labels_only(tmp_path):
    (tmp_path / "one.png").write_bytes(picture(1))
    options = {
        "taxonomy": TAXONOMY,
        "kind": "panoptic",
        "name": "x",
        "command": "t",
    }
    pointing = replace(toy_sample(1), image=ImageRef(path=str(tmp_path / "one.png")))
    by_path = write_set(
        tmp_path / "r", [(pointing, None)], Header(images_by="reference", **options)
    )
    assert by_path.image_bytes(by_path.sample(0)) == picture(1)
    bare = write_set(tmp_path / "n", [(toy_sample(1), None)], Header(images_by="none", **options))
    with pytest.raises(InputError, match="labels only"):
        bare.image_bytes(bare.sample(0))
    (tmp_path / "one.png").unlink()
    with pytest.raises(InputError, match=r"one\.png"):
        by_path.image(by_path.sample(0))


def test_a_set_may_be_empty(tmp_path):
    shards = write_set(
        tmp_path / "e", [], Header(taxonomy=TAXONOMY, kind="boxes", name="x", command="t")
    )
    assert len(shards) == 0
    assert list(shards.samples()) == []


def test_damage_is_one_clear_line(make_set):
    shards = make_set(count=2, shard_size=10**6)
    last = shards.sample(1)
    tar = shards.path / "images-00000.tar"
    tar.write_bytes(tar.read_bytes()[: last.image.offset + 5])
    with pytest.raises(SegkitError, match="too short"):
        shards.image_bytes(last)
    tar.unlink()
    with pytest.raises(InputError, match="tar not readable"):
        shards.image_bytes(last)
    labels = shards.path / "labels-00000.parquet"
    labels.write_bytes(labels.read_bytes()[:100])
    with pytest.raises(SegkitError, match="labels not readable"):
        list(shards.samples())
    (shards.path / "manifest.json").write_text("[]")
    with pytest.raises(InputError, match="manifest"):
        ShardSet.open(shards.path)


def _first_id(opened):
    return opened.sample(0).id


def test_sets_travel_to_other_processes(make_set):
    shards = make_set()
    shards.sample(2)
    assert pickle.loads(pickle.dumps(shards)).sample(3) == shards.sample(3)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_first_id, (shards,)) == "000"


def test_a_manifest_is_written_as_json_dumps_writes_it(make_set):
    file = make_set().path / "manifest.json"
    text = file.read_text("utf-8")
    assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n"
