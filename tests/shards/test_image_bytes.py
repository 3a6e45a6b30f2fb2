"""A flipped bit in an image is found wherever its bytes are copied, read or handed on."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from segkit.browse.media import image_file
from segkit.data.batch import Batch
from segkit.data.check_sets import NamedDataset
from segkit.data.mix import DataMix
from segkit.errors import InputError
from segkit.export.destination import write_images
from segkit.recipes.schema import DataConfig
from segkit.sample import ImageRef
from segkit.shards.header import Header
from segkit.shards.leakage import find_leaks
from segkit.shards.merge_sets import merge_sets
from segkit.shards.reader import ShardSet
from segkit.shards.relabel import relabel
from segkit.shards.split import assign_by_share, split
from segkit.shards.validate import validate
from segkit.shards.writer import write_layer, write_set
from segkit.sources.image_files import read_picture
from tests.shards.conftest import TAXONOMY, toy_sample

COUNT, DAMAGED = 4, 2


def bitmap(seed: int) -> bytes:
    """An image that decodes whatever its pixels are."""
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)
    return cv2.imencode(".bmp", pixels)[1].tobytes()


def flip(file: Path, start: int, stop: int) -> None:
    data, draw = bytearray(file.read_bytes()), random.Random(0)
    data[draw.randrange(start, stop)] ^= 1 << draw.randrange(8)
    file.write_bytes(data)


@pytest.fixture(params=["embed", "reference", "layer"])
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> ShardSet:
    """A set of four images, the third of which has one flipped bit in its pixels."""
    header = Header(taxonomy=TAXONOMY, kind="panoptic", name="toy", command="test")
    samples = [replace(toy_sample(n), file_name=f"{n}.bmp") for n in range(COUNT)]
    if request.param != "reference":
        records = ((sample, bitmap(n)) for n, sample in enumerate(samples))
        shards = write_set(tmp_path / "set", records, header)
        image = shards.sample(DAMAGED).image
        end = image.offset + image.length
        flip(shards.path / str(image.tar), end - 2000, end)
        if request.param == "layer":
            header = Header.from_set(shards, "test")
            return write_layer(tmp_path / "layer", shards, shards.samples(), header)
        return shards
    files = [tmp_path / "photos" / f"{n}.bmp" for n in range(COUNT)]
    files[0].parent.mkdir()
    for n, file in enumerate(files):
        file.write_bytes(bitmap(n))
    pictures = [read_picture(file, record="") for file in files]
    refs = [ImageRef(path=str(p.path), length=len(p.data), sha256=p.sha256) for p in pictures]
    records = ((replace(s, image=ref), None) for s, ref in zip(samples, refs, strict=True))
    shards = write_set(tmp_path / "set", records, replace(header, images_by="reference"))
    size = files[DAMAGED].stat().st_size
    flip(files[DAMAGED], size - 2000, size)
    return shards


def merged(data: ShardSet, out: Path, **options: bool) -> ShardSet:
    other = write_set(out / "other", [], Header.from_set(data, "test"))
    sets = [data, other]
    return merge_sets(sets, out / "both", name="both", rename=True, arguments={}, **options)


def parts(data: ShardSet, out: Path, **options: bool) -> dict[str, ShardSet]:
    shares = assign_by_share(data, {"a": 0.5, "b": 0.5}, seed=0)
    return split(data, out / "parts", shares, {}, **options)


def relabeled(data: ShardSet, out: Path, **options: bool) -> ShardSet:
    return relabel(data, out / "new", TAXONOMY, {3: 3, 7: 7}, {}, **options)


def batches(data: ShardSet, **options: bool) -> list[Batch]:
    config = DataConfig(image_size=32, batch_size=COUNT, **options)
    return list(DataMix([NamedDataset("toy", data, 1.0)], config, seed=0).batches(0, 2))


USES: dict[str, Callable[[ShardSet, Path], object]] = {
    "read bytes": lambda data, out: [data.image_bytes(sample) for sample in data.samples()],
    "read pixels": lambda data, out: [data.image(sample) for sample in data.samples()],
    "export": lambda data, out: write_images(data, out / "images"),
    "browse": lambda data, out: [image_file(data, s, out / "media") for s in data.samples()],
    "leakage": lambda data, out: list(find_leaks([data, data])),
    "merge": merged,
    "split": parts,
    "relabel": relabeled,
    "train": lambda data, out: batches(data),
}


@pytest.mark.parametrize("use", USES)
def test_a_flipped_bit_is_refused_in_one_line(damaged: ShardSet, tmp_path: Path, use: str) -> None:
    with pytest.raises(InputError) as error:
        USES[use](damaged, tmp_path / "out")
    image = damaged.sample(DAMAGED)
    text = str(error.value)
    assert text.startswith(f"{damaged.path}: {image.image.tar or image.image.path}: image 002: ")
    assert "not those that were converted" in text and "\n" not in text
    assert not list((tmp_path / "out").glob("[!o]*/v1/manifest.json"))
    assert not list((tmp_path / "out").glob("parts/*/v1"))


@pytest.mark.parametrize("use", [merged, parts, relabeled])
def test_without_verification_the_images_are_published_as_they_are(
    damaged: ShardSet, tmp_path: Path, use: Callable[..., ShardSet | dict[str, ShardSet]]
) -> None:
    published = use(damaged, tmp_path / "out", verify_images=False)
    sets = published.values() if isinstance(published, dict) else [published]
    read = {
        sample.id[-3:]: shards.image_bytes(sample, verify=False)  # merge adds a prefix
        for shards in map(ShardSet.open, (shards.path for shards in sets))
        for sample in shards.samples()
    }
    expected = {f"{n:03d}": bitmap(n) for n in range(COUNT)}
    flipped = damaged.image_bytes(damaged.sample(DAMAGED), verify=False)
    assert flipped != expected[f"{DAMAGED:03d}"]
    assert read == {**expected, f"{DAMAGED:03d}": flipped}


def test_training_without_verification_gets_every_image(damaged: ShardSet) -> None:
    assert len(batches(damaged, verify_images=False)) == 2


def test_validate_lists_the_image(damaged: ShardSet) -> None:
    codes = [item.code for item in validate(damaged.path)]
    assert codes.count("image-checksum") == 1 and set(codes) <= {"checksum", "image-checksum"}


def test_training_verifies_each_image_once(
    damaged: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[str] = []
    read = ShardSet.image_bytes

    def image_bytes(self: ShardSet, sample: object, *, verify: bool = True) -> bytes:
        verified.extend([sample.id] * verify)
        return read(self, sample, verify=False)

    monkeypatch.setattr(ShardSet, "image_bytes", image_bytes)
    config = DataConfig(image_size=32, batch_size=COUNT)
    list(DataMix([NamedDataset("toy", damaged, 1.0)], config, seed=0).batches(0, 5))
    assert sorted(verified) == ["000", "001", "002", "003"]


def test_rows_without_a_digest_are_read_as_they_are(damaged: ShardSet) -> None:
    sample = damaged.sample(DAMAGED)
    assert damaged.image(replace(sample, image=replace(sample.image, sha256=None))).any()
