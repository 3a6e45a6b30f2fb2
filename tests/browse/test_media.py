from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.browse.labels import crop
from segkit.browse.media import class_map, class_map_file, image_file
from segkit.errors import InputError, SegkitError
from segkit.masks import rle
from segkit.sample import ImageRef, Segment
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from segkit.taxonomy import Category, Taxonomy

from .conftest import HEIGHT, TAXONOMY, WIDTH, masks, panoptic_sample, png


def one_image_set(folder: Path) -> ShardSet:
    header = {"kind": "panoptic", "name": "toy", "split": "val", "command": "test", "arguments": {}}
    return write_set(folder, [(panoptic_sample(), png(0))], Header(taxonomy=TAXONOMY, **header))


def test_images_are_copied_from_the_tar_byte_for_byte_and_once(tmp_path: Path) -> None:
    shards = one_image_set(tmp_path / "set")
    file = image_file(shards, shards.sample(0), tmp_path / "media")
    assert file.name == "a.png"
    assert file.read_bytes() == png(0)
    before = file.stat().st_mtime_ns
    assert image_file(shards, shards.sample(0), tmp_path / "media") == file
    assert file.stat().st_mtime_ns == before
    file.write_bytes(b"cut")
    assert image_file(shards, shards.sample(0), tmp_path / "media").read_bytes() == png(0)


def test_a_damaged_or_deleted_file_of_the_cache_is_written_again(tmp_path: Path) -> None:
    shards = one_image_set(tmp_path / "set")
    sample, media = shards.sample(0), tmp_path / "media"
    image, labels = image_file(shards, sample, media), class_map_file(shards, sample, media)
    expected = labels.read_bytes()
    flipped = bytearray(png(0))
    flipped[40] ^= 1
    image.write_bytes(flipped)
    labels.write_bytes(expected[:-20])
    assert image_file(shards, sample, media).read_bytes() == png(0)
    assert class_map_file(shards, sample, media).read_bytes() == expected
    image.unlink()
    labels.unlink()
    assert image_file(shards, sample, media).read_bytes() == png(0)
    assert class_map_file(shards, sample, media).read_bytes() == expected


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = one_image_set(tmp_path / "set")

    def fail(path: str, pixels: object) -> bool:
        Path(path).write_bytes(b"half")
        return False

    monkeypatch.setattr(cv2, "imwrite", fail)
    with pytest.raises(SegkitError, match="could not be written"):
        class_map_file(shards, shards.sample(0), tmp_path / "media")
    assert not [path for path in (tmp_path / "media").rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["..", "a/..", "", "x" * 300 + ".png", "a\0b.png"])
def test_no_name_of_an_image_leaves_the_cache(tmp_path: Path, name: str) -> None:
    shards, media = one_image_set(tmp_path / "set"), tmp_path / "media"
    file = image_file(shards, replace(shards.sample(0), file_name=name), media)
    assert media.resolve() in file.resolve().parents and file.read_bytes() == png(0)


@pytest.mark.parametrize("digest", ["../../../escaped", "/absolute", ""])
def test_a_digest_of_a_crafted_set_is_refused(tmp_path: Path, digest: str) -> None:
    shards, media = one_image_set(tmp_path / "set"), tmp_path / "media"
    sample = shards.sample(0)
    crafted = replace(sample, image=replace(sample.image, sha256=digest))
    with pytest.raises(InputError, match="not those that were converted"):
        image_file(shards, crafted, media)
    assert list(tmp_path.iterdir()) == [tmp_path / "set"]


def test_class_maps_hold_index_plus_one_and_zero_where_nothing_is_labeled() -> None:
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    for value, name in ((1, "rest"), (2, "ring"), (3, "block")):
        expected[masks()[name]] = value
    pixels = class_map(panoptic_sample(), TAXONOMY)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, expected)


def test_class_maps_of_many_classes_have_sixteen_bits(tmp_path: Path) -> None:
    taxonomy = Taxonomy("many", tuple(Category(i, f"class {i}", "stuff") for i in range(459)))
    sample = panoptic_sample()
    sample = replace(sample, segments=(replace(sample.segments[0], class_id=458),))
    pixels = class_map(sample, taxonomy)
    cv2.imwrite(str(tmp_path / "map.png"), pixels)
    assert np.array_equal(
        cv2.imread(str(tmp_path / "map.png"), cv2.IMREAD_UNCHANGED),
        np.where(masks()["rest"], 459, 0),
    )


@given(
    st.lists(st.booleans(), min_size=HEIGHT * WIDTH, max_size=HEIGHT * WIDTH),
    st.tuples(st.floats(-9, 20), st.floats(-9, 20), st.floats(0, 30), st.floats(0, 30)),
)
def test_a_crop_pasted_back_is_the_mask_and_holds_the_box(
    pixels: list[bool], box: tuple[float, ...]
) -> None:
    mask = np.array(pixels).reshape(HEIGHT, WIDTH)
    segment = Segment(7, "thing", box, rle.encode(mask), float(mask.sum()))
    (x, y, w, h), inside = crop(segment, HEIGHT, WIDTH)
    pasted = np.zeros((HEIGHT, WIDTH), bool)
    if inside is None:
        assert not mask.any()
        return
    assert inside.shape == (h, w)
    pasted[int(y) : int(y + h), int(x) : int(x + w)] = inside
    assert np.array_equal(pasted, mask)
    if box[2] > 0 and box[3] > 0:
        assert x <= max(box[0], 0) and y <= max(box[1], 0)
        assert x + w >= min(box[0] + box[2], WIDTH) and y + h >= min(box[1] + box[3], HEIGHT)


def test_a_box_without_a_mask_is_unchanged() -> None:
    box = (1.25, -2.0, 30.5, 4.0)
    assert crop(Segment(7, "thing", box, None, 122.0), HEIGHT, WIDTH) == (box, None)


@pytest.mark.parametrize("reference", [False, True])
def test_a_tiff_is_handed_over_as_png(tmp_path: Path, reference: bool) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    tiff = cv2.imencode(".tiff", pixels)[1].tobytes()
    sample = replace(panoptic_sample("a"), file_name="images/a.tif")
    header = Header(taxonomy=TAXONOMY, kind="panoptic", name="tiff", command="test")
    if reference:
        (tmp_path / "a.tif").write_bytes(tiff)
        sample = replace(sample, image=ImageRef(path=str(tmp_path / "a.tif")))
        header = replace(header, images_by="reference")
    shards = write_set(tmp_path / "set", [(sample, None if reference else tiff)], header)
    file = image_file(shards, shards.sample(0), tmp_path / "media")
    assert file.name == "a.tif.png"
    assert np.array_equal(cv2.imread(str(file)), pixels)
    assert image_file(shards, shards.sample(0), tmp_path / "media") == file
