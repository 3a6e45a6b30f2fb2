from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segkit.inference.mask_statistics import describe_masks
from segkit.masks import rle
from segkit.sample import Sample, Segment
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from tests.training.toy import TAXONOMY


def _segment(kind: str, score: float | None) -> Segment:
    """A mask of 20 x 20 pixels that is a box or a disc, or a box of 4 x 4 pixels."""
    side = 4 if kind == "tiny" else 20
    mask = np.zeros((40, 50), bool)
    mask[10 : 10 + side, 5 : 5 + side] = True
    if kind == "disc":
        y, x = np.mgrid[:40, :50]
        mask &= (y - 19.5) ** 2 + (x - 14.5) ** 2 < 100
    box = (5.0, 10.0, float(side), float(side))
    encoded = rle.encode(mask)
    return Segment(2, "thing", box, encoded, float(mask.sum()), mask_from="pseudo", score=score)


def _set(folder: Path, segments: list[Segment]) -> ShardSet:
    sample = Sample("1", "1.png", 50, 40, tuple(segments))
    header = Header(taxonomy=TAXONOMY, kind="instance", name="x", command="test", images_by="none")
    return write_set(folder, [(sample, None)], header)


def test_scores_and_shapes_of_pseudo_masks_are_counted(tmp_path: Path) -> None:
    kinds = ["box", "disc", "disc", "disc", "tiny"]
    scores = [0.2, 0.4, 0.6, 0.8, 1.0]
    human = replace(_segment("box", None), mask_from="human")
    segments = [_segment(kind, score) for kind, score in zip(kinds, scores, strict=True)]
    figures = describe_masks(_set(tmp_path / "set", [*segments, human]))
    assert figures.masks == 5
    assert figures.scores[0.5] == pytest.approx(0.6) and figures.scores[0.0] == pytest.approx(0.2)
    assert figures.box_shaped == 0.25 and not figures.looks_untrained


def test_a_model_that_returns_boxes_looks_untrained(tmp_path: Path) -> None:
    boxes = [_segment("box", 0.9), _segment("box", 0.8), _segment("disc", 0.7)]
    assert describe_masks(_set(tmp_path / "set", boxes)).looks_untrained


def test_a_set_without_pseudo_masks_has_no_figures(tmp_path: Path) -> None:
    human = replace(_segment("box", None), mask_from="human")
    figures = describe_masks(_set(tmp_path / "set", [human]))
    assert (figures.masks, figures.scores, figures.box_shaped) == (0, {}, None)


def test_masks_that_the_set_had_before_are_left_out(tmp_path: Path) -> None:
    first, second = _segment("box", 0.2), _segment("disc", 0.8)
    data = _set(tmp_path / "data", [first, replace(second, mask=None, mask_from=None, score=None)])
    layer = _set(tmp_path / "layer", [first, second])
    figures = describe_masks(layer, data)
    assert (figures.masks, figures.box_shaped) == (1, 0.0)
    assert set(figures.scores.values()) == {0.8}
    assert describe_masks(layer).masks == 2
