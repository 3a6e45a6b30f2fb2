import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from segkit.errors import InputError
from segkit.masks import rle
from segkit.metrics.box_to_mask import filled_box, inscribed_ellipse, iou, score_masks_of_boxes
from segkit.sample import Sample, Segment


def _segment(mask: np.ndarray, source_id: str, **changes: object) -> Segment:
    counts = rle.encode(mask)
    made = Segment(
        1,
        "thing",
        rle.box(counts, *mask.shape),
        counts,
        float(mask.sum()),
        mask_from="human",
        source_id=source_id,
    )
    return replace(made, **changes)


def _triangle() -> np.ndarray:
    return np.pad(np.tri(20, dtype=bool), 10)


def test_known_shapes_give_known_figures() -> None:
    mask = _triangle()
    half = mask.copy()
    half[:, :20] = False
    truth = Sample(
        "7", "a.jpg", 40, 40, (_segment(mask, "1"), _segment(mask, "2"), _segment(mask, "3"))
    )
    answers = (
        _segment(half, "2"),
        _segment(mask, "1"),
        replace(_segment(mask, "3"), mask=None, mask_from=None),
    )
    other = Sample("8", "b.jpg", 40, 40)
    score = score_masks_of_boxes([truth], [other, replace(truth, segments=answers)])
    assert (score.boxes, score.masked) == (3, 2)
    assert score.mean_iou == pytest.approx((1 + half.sum() / mask.sum() + 0) / 3)
    assert score.filled_box_iou == pytest.approx(210 / 400)


def test_crowds_and_ignored_objects_do_not_count() -> None:
    mask = _triangle()
    kept, crowd, ignored = (
        _segment(mask, "1"),
        _segment(mask, "2", is_crowd=True),
        _segment(mask, "3", ignore=True),
    )
    truth = Sample("7", "a.jpg", 40, 40, (kept, crowd, ignored))
    assert score_masks_of_boxes([truth], [replace(truth, segments=(kept,))]).boxes == 1


def test_an_ellipse_has_its_area_and_stays_in_its_box() -> None:
    box = (10.0, 20.0, 61.0, 41.0)
    ellipse = inscribed_ellipse(box, 100, 100)
    assert ellipse.sum() == pytest.approx(math.pi * 30.5 * 20.5, rel=0.02)
    assert not (ellipse & ~filled_box(box, 100, 100)).any()


def test_a_box_beyond_the_image_is_clipped() -> None:
    assert filled_box((-5.0, -5.0, 8.0, 8.5), 10, 10).sum() == 3 * 4
    assert filled_box((20.0, 20.0, 5.0, 5.0), 10, 10).sum() == 0
    assert iou(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 0


def test_missing_images_and_missing_truth_are_refused() -> None:
    truth = Sample("7", "a.jpg", 40, 40, (_segment(_triangle(), "1"),))
    with pytest.raises(InputError, match="no answers for 1 images"):
        score_masks_of_boxes([truth], [])
    with pytest.raises(InputError, match="no object has a true mask"):
        score_masks_of_boxes([replace(truth, segments=())], [truth])


def test_published_baselines_on_the_standin(real_data: Path) -> None:
    """The figures of the data's own README: filled box 0.571, inscribed ellipse 0.636 over 864
    objects."""
    coco = COCO(str(real_data / "objects365_standin/annotations/o365_instance_seg_val.json"))
    samples = []
    for image in coco.loadImgs(coco.getImgIds()):
        annotations = coco.loadAnns(coco.getAnnIds(image["id"]))
        segments = (
            _segment(
                coco.annToMask(a), str(a["id"]), box=tuple(a["bbox"]), is_crowd=bool(a["iscrowd"])
            )
            for a in annotations
        )
        samples.append(
            Sample(
                str(image["id"]),
                image["file_name"],
                image["width"],
                image["height"],
                tuple(segments),
            )
        )
    score = score_masks_of_boxes(samples, samples)
    assert (score.boxes, score.masked, score.mean_iou) == (864, 864, 1.0)
    assert score.filled_box_iou == pytest.approx(0.571, abs=5e-4)
    assert score.ellipse_iou == pytest.approx(0.636, abs=5e-4)
