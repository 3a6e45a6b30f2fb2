import numpy as np
import pytest

from segkit.images.contact_sheet import Column, contact_sheet

GREY = np.full((60, 80, 3), 128, np.uint8)


def test_the_sheet_shows_every_tile_complete_and_in_its_place() -> None:
    red, green, blue = (np.full((32, 32, 3), 0, np.uint8) for _ in range(3))
    red[..., 0] = green[..., 1] = blue[..., 2] = 255
    wide = np.repeat(blue, 2, axis=1)[:, :48]
    columns = [
        Column("one set", (red, green)),
        Column("one set", (green, None)),
        Column("other", (wide, red)),
    ]
    sheet = contact_sheet(["image", "prediction"], columns, tile=64).astype(int)
    pixels = [
        np.argwhere((sheet == color).all(axis=-1))
        for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    ]
    assert [len(places) for places in pixels] == [64 * 64 + 64 * 64, 2 * 64 * 64, 64 * 96]
    assert pixels[2][:, 1].min() > pixels[1][:, 1].max()
    assert (pixels[2].max(axis=0) - pixels[2].min(axis=0) + 1).tolist() == [64, 96]
    first = pixels[0][:, 1].min()
    captions = sheet[:, : first - 1].min(axis=(1, 2)) < 100
    assert captions.any()
    assert (sheet[: pixels[0][:, 0].min() - 8, first:].min(axis=-1) < 100).any()


def test_a_note_fills_the_empty_tiles_of_the_last_row() -> None:
    columns = [
        Column("maps", (GREY, None)),
        Column("maps", (GREY, None)),
        Column("boxes", (GREY, GREY)),
    ]
    plain = contact_sheet(["image", "pseudo-mask"], columns, tile=120)
    noted = contact_sheet(
        ["image", "pseudo-mask"], columns, tile=120, note=[("PQ", "61.2"), ("mIoU", "80.0")]
    )
    rows, places = np.nonzero((plain != noted).any(axis=-1))
    tiles = np.argwhere((plain == 128).all(axis=-1))
    assert len(rows) > 50
    assert rows.min() > tiles[:, 0].min() + 120
    assert places.max() < tiles[tiles[:, 0] > rows.min()][:, 1].min()


def test_a_sheet_with_a_missing_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="one tile a row"):
        contact_sheet(["image", "prediction"], [Column("set", (GREY,))])
