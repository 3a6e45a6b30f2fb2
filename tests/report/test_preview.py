from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkit.errors import InputError
from segkit.images.draw import enlarged_overlay
from segkit.images.palette import class_color
from segkit.images.picture_grid import Tile, fit_tile, picture_grid
from segkit.masks.rle import decode
from segkit.report.preview import draw_samples, index_of, spread, write_preview
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_layer
from tests.metrics.files import sets


def _scored(folder: Path, kind: str = "instance") -> ShardSet:
    """A set whose segments have the scores 0.1, 0.2, ... in each image."""
    truth, _ = sets(folder, images=4, kind=kind)
    samples = [
        replace(
            sample,
            segments=tuple(
                replace(s, score=round(0.1 * (n + 1), 1)) for n, s in enumerate(sample.segments)
            ),
        )
        for sample in truth.samples()
    ]
    return write_layer(folder / "scored", truth, samples, Header.from_set(truth, "predict", {}))


def test_indices_are_spread_evenly() -> None:
    assert spread(100, 4) == [0, 25, 50, 75]
    assert spread(3, 9) == [0, 1, 2]
    assert spread(0, 9) == []


def test_an_image_is_drawn_in_the_colors_of_its_classes(tmp_path: Path) -> None:
    truth, _ = sets(tmp_path, images=1, kind="panoptic")
    sample = truth.sample(0)
    picture = draw_samples(truth, [0]).picture.astype(float)
    scale = picture.shape[0] // sample.height
    for segment in sample.segments:
        mask = decode(segment.mask or b"", sample.height, sample.width)
        inner = np.kron(mask, np.ones((scale, scale))) > 0
        color = np.array(class_color(truth.taxonomy.by_id[segment.class_id].name))
        mean = picture[inner].mean(axis=0)
        hue = (mean - mean.mean()) @ (color - color.mean())
        assert hue > 0 or np.ptp(color) < 60, "tinted toward the color of its class"


def test_the_drawing_counts_what_is_below_the_least_score(tmp_path: Path) -> None:
    scored = _scored(tmp_path)
    segments = [s for sample in scored.samples() for s in sample.segments]
    above = sum((s.score or 0) >= 0.3 for s in segments)
    drawing = draw_samples(scored, range(4), min_score=0.3)
    assert (drawing.segments, drawing.drawn) == (len(segments), above)
    assert str(drawing) == (
        f"{len(segments)} segments, {above} with a score of 0.3 or more (drawn)"
    )
    assert str(draw_samples(scored, range(4), min_score=0)) == f"{len(segments)} segments"


def test_regions_that_cover_the_image_are_drawn_whatever_their_score(tmp_path: Path) -> None:
    drawing = draw_samples(_scored(tmp_path, "panoptic"), range(4), min_score=0.9)
    assert drawing.drawn == drawing.segments


def test_predictions_are_drawn_on_the_right(tmp_path: Path) -> None:
    truth, predictions = sets(tmp_path, images=2, kind="panoptic")
    both = draw_samples(truth, [0], predictions=predictions).picture
    left = draw_samples(truth, [0]).picture
    right = draw_samples(predictions, [0]).picture
    assert np.array_equal(both[:, : left.shape[1]], left)
    assert np.array_equal(both[:, -right.shape[1] :], right)


def test_the_pictures_of_a_grid_are_kept_at_its_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, predictions = sets(tmp_path, images=3, kind="panoptic")
    tiles = dict[int, list[tuple[int, ...]]]()

    def grid(drawn: list[Tile], *, width: int) -> np.ndarray:
        tiles[width] = [tile.picture.shape for tile in drawn]
        return picture_grid(drawn, width=width)

    monkeypatch.setattr("segkit.report.preview.picture_grid", grid)
    draw_samples(truth, range(3))
    draw_samples(truth, range(2), predictions=predictions)
    draw_samples(truth, [0], captions=["worst"])
    assert tiles.keys() == {360, 640}
    for width, shapes in tiles.items():
        assert all(max(shape[0] / 0.8, shape[1]) == width for shape in shapes)
    large = np.zeros((2000, 2400, 3), np.uint8)
    assert fit_tile(large, 100).shape == (80, 96, 3)


def test_a_large_image_of_a_grid_is_painted_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, _ = sets(tmp_path, images=2, kind="panoptic")
    large, painted = np.zeros((1800, 2400, 3), np.uint8), []

    def paint(image: np.ndarray, *_: object, **options: object) -> np.ndarray:
        painted.append(enlarged_overlay(large, (), truth.taxonomy, max_size=options["max_size"]))
        return painted[-1]

    monkeypatch.setattr("segkit.report.preview.enlarged_overlay", paint)
    draw_samples(truth, [0, 1])
    draw_samples(truth, [0])
    assert [picture.shape[:2] for picture in painted] == [(540, 720), (540, 720), (1800, 2400)]


def test_an_unknown_id_is_refused(tmp_path: Path) -> None:
    truth, _ = sets(tmp_path, images=2, kind="panoptic")
    assert index_of(truth, truth.sample(1).id) == 1
    with pytest.raises(InputError, match="no image has the id 'nope'; ids are such as"):
        index_of(truth, "nope")


def test_the_preview_stands_beside_the_version_and_changes_nothing_in_it(tmp_path: Path) -> None:
    truth, _ = sets(tmp_path, images=3, kind="panoptic")
    before = sorted(truth.path.iterdir())
    written = write_preview(truth)
    assert written is not None
    file, drawing = written
    assert file == truth.path.parent / f"v{truth.version}.png"
    assert np.array_equal(np.asarray(Image.open(file)), drawing.picture)
    assert sorted(truth.path.iterdir()) == before
    assert ShardSet.open(truth.path.parent).path == truth.path
