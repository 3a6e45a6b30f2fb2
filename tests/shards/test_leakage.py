import cv2
import numpy as np
import pytest

from segkit.errors import InputError
from segkit.images.orientation import turned_png, without_orientation
from segkit.sample import Sample
from segkit.shards.header import Header
from segkit.shards.leakage import cell_differences, find_leaks, perceptual_hash
from segkit.shards.writer import write_set
from tests.images.test_orientation import photo
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
    noise = np.random.default_rng(0).integers(-40, 41, (3, 240, 320, 3))
    noisy = [np.clip(scene(seed) + noise[seed], 0, 255).astype(np.uint8) for seed in range(3)]
    images = [encoded(pixels) for pixels in (*map(scene, range(2)), *noisy)]
    hashes = [
        perceptual_hash(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_2))
        for data in images
    ]
    a, b = dataset(tmp_path / "a", images[:2]), dataset(tmp_path / "b", images[2:])
    leaks = list(find_leaks([a, b], near=256))
    assert [(leak.id_a, leak.id_b) for leak in leaks] == [("0", "0"), ("1", "1")]
    for leak in leaks:
        assert leak.distance == (hashes[int(leak.id_a)] != hashes[2 + int(leak.id_b)]).sum() > 0


def flat(*color):
    return np.full((240, 320, 3), color, np.uint8)


def test_flat_pictures_that_differ_are_no_leaks(tmp_path):
    """Their hashes hold almost nothing: no cell of a plain picture is brighter than the next."""
    white, black = flat(255, 255, 255), flat(0, 0, 0)
    disk = cv2.circle(white.copy(), (90, 120), 50, (40, 40, 220), -1)
    triangle = cv2.fillPoly(
        white.copy(), [np.array([(200, 60), (260, 180), (140, 180)])], (220, 40, 40)
    )
    pictures = [white, black, disk, triangle]
    a = dataset(tmp_path / "a", [encoded(pixels) for pixels in pictures])
    b = dataset(tmp_path / "b", [encoded(pixels, ".bmp") for pixels in pictures])
    pairs = [(leak.id_a, leak.id_b) for leak in find_leaks([a, b], near=64)]
    assert sorted(pairs) == [(str(n), str(n)) for n in range(4)]


def test_a_brighter_copy_is_a_leak(tmp_path):
    brighter = np.clip(scene(1) * 1.1, 0, 255).astype(np.uint8)
    a, b = (dataset(tmp_path / n, [encoded(p)]) for n, p in (("a", scene(1)), ("b", brighter)))
    assert len(list(find_leaks([a, b]))) == 1


def test_the_difference_of_thumbnails_is_that_of_the_most_different_tenth_of_the_cells():
    plain = np.zeros((2, 256), np.uint8)
    changed = plain.copy()
    changed[0, 10:35], changed[1, 5] = 200, 250
    assert cell_differences(plain, changed).tolist() == [200, 10]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 1), (2, 1), (3, 1)])
@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_images_of_one_pixel_in_height_or_width_are_compared(tmp_path, height, width, extension):
    dark, light = (np.full((height, width, 3), level, np.uint8) for level in (40, 220))
    a = dataset(tmp_path / "a", [encoded(dark, extension), encoded(light, extension)])
    b = dataset(tmp_path / "b", [encoded(light, extension), encoded(dark, ".bmp")])
    pairs = {(leak.id_a, leak.id_b) for leak in find_leaks([a, b])}
    assert pairs == {("0", "1"), ("1", "0")}


@pytest.mark.parametrize("number", range(1, 9))
def test_a_photo_is_found_as_it_is_stored_and_as_it_is_displayed(tmp_path, number):
    data = photo(number, "JPEG", scene(3))
    turned, stored = turned_png(data, number), without_orientation(data)
    a = dataset(tmp_path / "a", [data, encoded(scene(4))])
    b = dataset(tmp_path / "b", [turned, stored, encoded(scene(5)), photo(number, "PNG", scene(3))])
    pairs = [(leak.id_a, leak.id_b) for leak in find_leaks([a, b])]
    assert sorted(pairs) == [("0", "0"), ("0", "1"), ("0", "3")]


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
