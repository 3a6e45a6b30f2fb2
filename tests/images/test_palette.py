from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from segkit.images.palette import PALETTE, class_color
from segkit.sources.vocabulary_file import open_vocabulary

# Linear RGB without one kind of cone: Machado, Oliveira and Fernandes (2009), severity 1.0.
CONES = {
    "normal": np.eye(3),
    "no red": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no blue": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def _lab(colors: NDArray[np.float64], cones: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE Lab (D65) of sRGB colors as an eye with these cones sees them."""
    share = colors / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = np.clip(linear @ cones.T, 0, 1) @ to_xyz.T / to_xyz.sum(axis=1)
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lightness = 116 * root[:, 1] - 16
    return np.stack(
        [lightness, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])], axis=1
    )


@pytest.mark.parametrize("cones", CONES)
def test_any_two_colors_are_plainly_different_to_every_eye(cones: str) -> None:
    lab = _lab(np.array(list(PALETTE), np.float64), np.array(CONES[cones]))
    nearest = min(float(np.linalg.norm(a - b)) for a, b in combinations(lab, 2))
    assert nearest > 14


@pytest.mark.parametrize("vocabulary", ["camvid-11", "cityscapes-19", "voc-20"])
def test_classes_of_a_small_vocabulary_have_different_colors(vocabulary: str) -> None:
    colors = [class_color(name) for name in open_vocabulary(vocabulary).names]
    assert len(set(colors)) == len(colors)


def test_a_class_has_one_color_in_every_data_set() -> None:
    sky = class_color("sky")
    spellings = ("Sky", "sky-other-merged", "sky_", " SKY ")
    assert {class_color(name) for name in spellings} == {sky}
    assert class_color("Dining Table") == class_color("diningtable") == class_color("dining-table")
    assert class_color("bicycle") == class_color("bike")


def test_unknown_names_share_the_palette_evenly() -> None:
    counts = dict.fromkeys(PALETTE, 0)
    for number in range(2400):
        counts[class_color(f"part number {number}")] += 1
    assert min(counts.values()) > 60  # 100 expected; 4 standard deviations
    assert class_color("划痕") in PALETTE and class_color("\ud800") in PALETTE


def test_no_name_has_two_colors() -> None:
    names = [name for names in PALETTE.values() for name in names]
    assert len(set(names)) == len(names)
