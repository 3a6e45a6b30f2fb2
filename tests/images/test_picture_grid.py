from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segkit.images.picture_grid import Tile, picture_grid

RED, BLUE = (200, 20, 20), (20, 20, 200)


def _plain(color: tuple[int, int, int], height: int = 30, width: int = 40) -> Tile:
    return Tile(np.full((height, width, 3), color, np.uint8), "a caption")


def _patches(picture: NDArray[Any], color: tuple[int, int, int]) -> NDArray[Any]:
    return (np.abs(picture.astype(int) - color) < 8).all(axis=-1)


def test_pictures_stand_in_rows_from_left_to_right() -> None:
    colors = [RED, BLUE, RED, BLUE, BLUE]
    picture = picture_grid([_plain(color) for color in colors], width=80)
    red, blue = _patches(picture, RED), _patches(picture, BLUE)
    assert red.sum() == 2 * 80 * 60 and blue.sum() == 3 * 80 * 60
    # three in the first row, two in the second
    first = [red[40, 40], blue[40, 130], red[40, 210]]
    assert all(first)
    assert picture.shape[1] == 4 * 4 + 3 * 80


def test_all_of_a_tall_and_of_a_wide_picture_is_there() -> None:
    picture = picture_grid([_plain(RED, 200, 20), _plain(BLUE, 20, 200)], width=80, columns=2)
    assert _patches(picture, RED).sum() == pytest.approx(64 * 6, abs=70)
    assert _patches(picture, BLUE).sum() == 80 * 8


def test_a_long_caption_stays_below_its_picture() -> None:
    name = "train/a-folder/" + "very-long-" * 20 + "1.jpg"
    long = Tile(np.full((30, 40, 3), 255, np.uint8), name)
    empty = Tile(long.picture, "")
    picture = picture_grid([long, empty], width=80, columns=2)
    ink = (picture < 128).all(axis=-1)
    assert ink[:, : 4 + 80].any() and not ink[:, 4 + 80 :].any()


def test_a_grid_needs_a_picture() -> None:
    with pytest.raises(ValueError, match="at least one"):
        picture_grid([])
