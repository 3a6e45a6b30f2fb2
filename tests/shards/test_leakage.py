import cv2
import numpy as np
import pytest

from segkit.errors import InputError
from segkit.sample import Sample
from segkit.shards.header import Header
from segkit.shards.leakage import find_leaks, perceptual_hash
from segkit.shards.writer import write_set
from tests.shards.conftest import TAXONOMY


def scene(seed, height=240, width=320):
    """A smooth random picture, like a photograph at the scale of the hash."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(pixels, extension=".png", *options):
    return cv2.imencode(extension, pixels, options)[1].tobytes()


def dataset(folder, images):
    records = [(Sample(f"{n}", f"{n}.png", 320, 240), data) for n, data in enumerate(images)]
    return write_set(
        folder, records, Header(taxonomy=TAXONOMY, kind="instance", name="x", command="t")
    )


def test_only_the_same_bytes_and_the_same_picture_are_leaks(tmp_path):
    half = cv2.resize(scene(2), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    a = dataset(tmp_path / "a", [encoded(scene(seed)) for seed in range(6)])
    b = dataset(
        tmp_path / "b",
        [
            encoded(scene(9)),
            encoded(scene(3)),
            encoded(scene(1), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 30),
            encoded(half),
        ],
    )
    distances = {(leak.id_a, leak.id_b): leak.distance for leak in find_leaks([a, b])}
    assert distances.keys() == {("3", "1"), ("1", "2"), ("2", "3")}
    assert distances["3", "1"] is None
    assert all(0 <= distances[pair] <= 24 for pair in (("1", "2"), ("2", "3")))


def test_distances_are_hamming_distances_of_hashes(tmp_path):
    images = [encoded(scene(seed)) for seed in range(5)]
    hashes = [
        perceptual_hash(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_2))
        for data in images
    ]
    a, b = dataset(tmp_path / "a", images[:2]), dataset(tmp_path / "b", images[2:])
    for leak in find_leaks([a, b], near=256):
        assert leak.distance == (hashes[int(leak.id_a)] != hashes[2 + int(leak.id_b)]).sum()


def test_every_pair_of_three_sets_is_compared_and_no_set_with_itself(tmp_path):
    sets = [dataset(tmp_path / name, [encoded(scene(0)), encoded(scene(0))]) for name in "abc"]
    pairs = [(leak.a, leak.b) for leak in find_leaks(sets)]
    assert sorted(pairs) == [(0, 1)] * 4 + [(0, 2)] * 4 + [(1, 2)] * 4


def test_sets_without_images_cannot_be_compared(tmp_path):
    record = (Sample("1", "1.png", 4, 4), None)
    bare = write_set(
        tmp_path / "n",
        [record],
        Header(taxonomy=TAXONOMY, kind="boxes", name="x", command="t", images_by="none"),
    )
    with pytest.raises(InputError, match="labels only"):
        list(find_leaks([bare, bare]))
    broken = dataset(tmp_path / "b", [b"no image"])
    with pytest.raises(InputError, match="decoded"):
        list(find_leaks([broken, broken]))
