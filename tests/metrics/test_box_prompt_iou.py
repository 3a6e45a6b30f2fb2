from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from segkit.errors import InputError
from segkit.masks import rle
from segkit.masks.boxes import filled_box, inscribed_ellipse
from segkit.masks.iou import mask_iou
from segkit.metrics.box_prompt_iou import BoxPromptIoU, evaluate_box_prompts
from segkit.sample import Sample, Segment
from segkit.taxonomy import Category, Taxonomy

from .scenes import decode, random_sample, segment, taxonomy
from .scenes import rle as coco_rle

ONE_CLASS = Taxonomy("one", (Category(1, "thing", "thing"),))


def _segment(mask: np.ndarray, source_id: str, **changes: object) -> Segment:
    counts = rle.encode(mask)
    box, area = rle.box(counts, *mask.shape), float(mask.sum())
    true = Segment(1, "thing", box, counts, area, mask_from="human", source_id=source_id)
    return replace(true, **changes)


def _triangle() -> np.ndarray:
    return np.pad(np.tri(20, dtype=bool), 10)


def test_known_shapes_give_known_figures() -> None:
    mask = _triangle()
    half = mask.copy()
    half[:, :20] = False
    truth = Sample(
        "7", "a.jpg", 40, 40, (_segment(mask, "1"), _segment(mask, "2"), _segment(mask, "3"))
    )
    predicted = (
        _segment(half, "2"),
        _segment(mask, "1"),
        replace(_segment(mask, "3"), mask=None, mask_from=None),
    )
    stranger = Sample("8", "b.jpg", 40, 40)
    figures = evaluate_box_prompts(
        [truth], [stranger, replace(truth, segments=predicted)], ONE_CLASS
    )
    assert (figures["boxes"], figures["masked"]) == (3, 2)
    assert figures["mean_iou"] == pytest.approx((1 + half.sum() / mask.sum() + 0) / 3)
    assert figures["filled_box_iou"] == pytest.approx(210 / 400)


def test_crowds_and_ignored_objects_do_not_count() -> None:
    mask = _triangle()
    counted, crowd, ignored = (
        _segment(mask, "1"),
        _segment(mask, "2", is_crowd=True),
        _segment(mask, "3", ignore=True),
    )
    truth = Sample("7", "a.jpg", 40, 40, (counted, crowd, ignored))
    figures = evaluate_box_prompts([truth], [replace(truth, segments=(counted,))], ONE_CLASS)
    assert figures["boxes"] == 1


def test_stuff_does_not_count_as_objects() -> None:
    mask = _triangle()
    truth = Sample("7", "a.jpg", 40, 40, (_segment(mask, "1"), _segment(~mask, "2", kind="stuff")))
    metric = BoxPromptIoU(ONE_CLASS)
    metric.update([truth], [replace(truth, segments=truth.segments[:1])])
    figures = metric.compute()
    assert (figures["boxes"], figures["mean_iou"]) == (1, 1.0)


def test_masks_of_a_turned_image_are_refused() -> None:
    mask = np.pad(np.ones((5, 9), bool), ((0, 5), (0, 11)))
    truth = Sample("7", "a.jpg", 20, 10, (_segment(mask, "1"),))
    turned = Sample("7", "a.jpg", 10, 20, (_segment(mask.T, "1"),))
    with pytest.raises(InputError, match="the prediction is 10 x 20, the image 20 x 10"):
        evaluate_box_prompts([truth], [turned], ONE_CLASS)


def test_missing_images_and_missing_truth_are_refused() -> None:
    truth = Sample("7", "a.jpg", 40, 40, (_segment(_triangle(), "1"),))
    with pytest.raises(InputError, match="no predictions for 1 image"):
        evaluate_box_prompts([truth], [], ONE_CLASS)
    with pytest.raises(InputError, match="no object has a true mask"):
        evaluate_box_prompts([replace(truth, segments=())], [truth], ONE_CLASS)


def test_published_baselines_on_the_standin(real_data: Path) -> None:
    """The data's README states: filled box 0.571, inscribed ellipse 0.636, over 864 objects."""
    coco = COCO(str(real_data / "objects365_standin/annotations/o365_instance_seg_val.json"))
    samples = []
    for image in coco.loadImgs(coco.getImgIds()):
        annotations = coco.loadAnns(coco.getAnnIds(image["id"]))
        segments = tuple(
            _segment(
                coco.annToMask(a), str(a["id"]), box=tuple(a["bbox"]), is_crowd=bool(a["iscrowd"])
            )
            for a in annotations
        )
        size = image["width"], image["height"]
        samples.append(Sample(str(image["id"]), image["file_name"], *size, segments))
    figures = evaluate_box_prompts(samples, samples, ONE_CLASS)
    assert (figures["boxes"], figures["masked"], figures["mean_iou"]) == (864, 864, 1.0)
    assert figures["filled_box_iou"] == pytest.approx(0.571, abs=5e-4)
    assert figures["ellipse_iou"] == pytest.approx(0.636, abs=5e-4)


def box_prompt_iou(pairs, names):
    metric = BoxPromptIoU(names)
    for truth, prediction in pairs:
        metric.update([truth], [prediction])
    return metric.compute()


def is_counted(true):
    return true.kind == "thing" and not (true.is_crowd or true.ignore)


def dense(truths, predictions):
    """IoU of every object by painting both masks; None without a predicted mask."""
    ious = []
    for truth, prediction in zip(truths, predictions, strict=True):
        masks = {s.source_id: s for s in prediction.segments if s.mask is not None}
        for true in truth.segments:
            if is_counted(true):
                match = masks.get(true.source_id)
                iou = match and mask_iou(decode(true, truth), decode(match, truth))
                ious.append(iou)
    return ious


def mean_iou(ious):
    return sum(iou or 0 for iou in ious) / len(ious)


def numbered(sample):
    return replace(
        sample, segments=tuple(replace(s, source_id=str(i)) for i, s in enumerate(sample.segments))
    )


def moved(rng, sample):
    """A mask for most objects: the true one, moved; in another order."""
    segments = []
    for s in sample.segments:
        mask = np.roll(decode(s, sample), rng.integers(-3, 4, 2), (0, 1))
        segments.append(
            replace(s, mask=coco_rle(mask), area=float(mask.sum()))
            if rng.random() < 0.8
            else replace(s, mask=None)
        )
    return replace(sample, segments=tuple(segments[::-1]))


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_equals_the_dense_computation(seed):
    rng, names = np.random.default_rng(seed), taxonomy()
    truths = [numbered(random_sample(rng, names, str(i), 40 + i, 60)) for i in range(3)]
    predictions = [moved(rng, t) for t in truths]
    expected = dense(truths, predictions)
    masked = [iou for iou in expected if iou is not None]
    assume(masked)  # without any mask of an object, the predictions are refused
    figures = box_prompt_iou(zip(truths, predictions, strict=True), names)
    with_baselines = evaluate_box_prompts(truths, predictions, names)
    for result in (figures, with_baselines):
        assert (result["boxes"], result["masked"]) == (len(expected), len(masked))
        assert result["mean_iou"] == pytest.approx(mean_iou(expected), abs=1e-12)
    assert figures["mean_iou_masked"] == pytest.approx(mean_iou(masked), abs=1e-12)
    for name, value in figures["per_class"].items():
        in_class = [
            replace(
                t, segments=tuple(s for s in t.segments if names.by_id[s.class_id].name == name)
            )
            for t in truths
        ]
        assert value == pytest.approx(mean_iou(dense(in_class, predictions)), abs=1e-12)
    counts = [
        sum(lo <= s.area < hi for t in truths for s in t.segments if is_counted(s))
        for lo, hi in ((0, 1024), (1024, 9216))
    ]
    means = [figures["per_size"][size] or 0 for size in ("small", "medium")]
    assert np.dot(counts, means) / sum(counts) == pytest.approx(mean_iou(expected), abs=1e-12)


def test_baselines_equal_the_dense_computation():
    rng, names = np.random.default_rng(3), taxonomy()
    truths = [numbered(random_sample(rng, names, str(i), 40, 60 + i, crowd=0)) for i in range(4)]
    figures = evaluate_box_prompts(truths, [moved(rng, t) for t in truths], names)
    shapes = {"filled_box_iou": filled_box, "ellipse_iou": inscribed_ellipse}
    for key, draw in shapes.items():
        expected = [
            mask_iou(decode(s, t), draw(s.box, t.height, t.width))
            for t in truths
            for s in t.segments
            if is_counted(s)
        ]
        assert figures[key] == pytest.approx(np.mean(expected), abs=1e-12)


def test_a_mask_that_fills_its_box_is_counted_and_ids_are_required():
    names = taxonomy()
    rng = np.random.default_rng(1)
    scene = numbered(random_sample(rng, names, "im4", 30, 30, crowd=0))
    truth = replace(scene, segments=tuple(filter(is_counted, scene.segments)))
    box = np.zeros((30, 30), bool)
    box[5:15, 5:25] = True
    boxed = replace(truth.segments[0], mask=coco_rle(box), area=200.0, box=(5.0, 5.0, 20.0, 10.0))
    prediction = replace(truth, segments=(boxed,))
    assert box_prompt_iou([(truth, prediction)], names)["filled"] == 1
    bare = replace(truth, segments=(replace(truth.segments[0], source_id=None),))
    with pytest.raises(InputError, match="image im4: an object has no id"):
        box_prompt_iou([(bare, prediction)], names)
    small = replace(truth, segments=(replace(boxed, mask=coco_rle(np.ones((2, 2)))),))
    strange = replace(truth, segments=(replace(boxed, source_id=None),))
    with pytest.raises(
        InputError,
        match="predictions: no mask has the id of an object of the ground truth; give the",
    ):
        box_prompt_iou([(truth, strange)], names)
    assert box_prompt_iou([(truth, replace(truth, segments=()))], names)["mean_iou"] == 0
    with pytest.raises(InputError, match="a mask of 4 pixels for an image of 900"):
        box_prompt_iou([(truth, small)], names)


def test_classes_of_one_name_are_kept_apart():
    names = Taxonomy("zoo", (Category(3, "bat", "thing"), Category(5, "bat", "thing")))
    square = np.zeros((20, 20), bool)
    square[:8, :8] = True
    first, second = segment(square, 3, source_id="a"), segment(square[::-1], 5, source_id="b")
    truth = Sample("1", "1.jpg", 20, 20, (first, second))
    prediction = replace(truth, segments=(first,))
    figures = box_prompt_iou([(truth, prediction)], names)
    assert figures["per_class"] == {"bat [3]": 1, "bat [5]": 0}
