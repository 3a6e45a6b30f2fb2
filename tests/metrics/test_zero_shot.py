from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco

from segkit.errors import InputError
from segkit.masks import rle
from segkit.metrics.evaluate import evaluate
from segkit.metrics.mask_recall import MaskRecall
from segkit.metrics.task_metrics import EvalOptions
from segkit.metrics.zero_shot import compute_zero_shot
from segkit.sample import Sample, Segment
from segkit.shards.header import Header
from segkit.shards.writer import write_set
from segkit.taxonomy import Category, Taxonomy

TAXONOMY = Taxonomy(
    "toy", (Category(1, "cat", "thing"), Category(2, "dog", "thing"), Category(9, "sky", "stuff"))
)


def test_seen_and_unseen_classes():
    per_class = {"a": 40.0, "b": 20.0, "c": 10.0, "d": None}
    means = compute_zero_shot(per_class, ["c", "d"], "instance")
    assert (means["seen"], means["unseen"], means["harmonic"]) == (30, 10, 15)
    assert (means["seen_classes"], means["unseen_classes"], means["figure"]) == (2, 1, "ap")
    rows = {name: {"pq": 0.0, "sq": 8.0, "rq": 0.0} for name in "ab"}
    panoptic = compute_zero_shot(rows, ["b"], "panoptic")
    assert panoptic["harmonic"] == 0
    assert panoptic["sq"] == {"seen": 8.0, "unseen": 8.0, "harmonic": 8.0}
    assert compute_zero_shot(per_class, ["d"], "semantic")["harmonic"] is None
    with pytest.raises(InputError, match="unseen classes that the data does not have: x"):
        compute_zero_shot(per_class, ["x"], "semantic")


def segment(mask, class_id=1, **fields):
    kind = TAXONOMY.by_id[class_id].kind
    counts = rle.encode(mask)
    box = rle.box(counts, *mask.shape)
    fields = {"mask_from": "human", "score": None} | fields
    return Segment(class_id, kind, box, counts, float(mask.sum()), **fields)


def random_masks(rng, count):
    masks = np.zeros((count, 20, 30), bool)
    for mask in masks:
        y, x = rng.integers(0, 12, 2)
        mask[y : y + rng.integers(2, 9), x : x + rng.integers(2, 15)] = True
    return masks


def test_mask_recall_against_pycocotools_and_its_exceptions():
    rng = np.random.default_rng(0)
    recall, hits = MaskRecall(TAXONOMY), {1: [], 2: []}
    for number in range(30):
        true, predicted = random_masks(rng, 6), random_masks(rng, 8)
        classes = rng.integers(1, 3, 6).tolist()
        image = Sample(str(number), "a", 30, 20, tuple(map(segment, true, classes)))
        answer = replace(image, segments=tuple(segment(mask, 2) for mask in predicted))
        recall.update([image], [answer])
        encoded = [
            [coco.encode(np.asfortranarray(mask, np.uint8)) for mask in side]
            for side in (predicted, true)
        ]
        best = coco.iou(*encoded, [0] * 6).max(0)
        for class_id, iou in zip(classes, best, strict=True):
            hits[class_id].append(iou > 0.5)
    assert recall.compute(["cat"]) == pytest.approx(100 * np.mean(hits[1]))
    mean = 50 * (np.mean(hits[1]) + np.mean(hits[2]))
    assert 0 < mean < 100 and recall.compute(["cat", "dog"]) == pytest.approx(mean)
    assert recall.compute(["sky"]) is None
    lonely = MaskRecall(TAXONOMY)
    mask = random_masks(rng, 1)[0]
    ignored = [segment(mask, is_crowd=True), segment(mask, ignore=True)]
    boxes = replace(segment(mask), mask=None, mask_from=None)
    lonely.update([Sample("0", "a", 30, 20, (*ignored, boxes))], [Sample("0", "a", 30, 20)])
    assert lonely.compute(["cat"]) is None
    lonely.update([Sample("1", "a", 30, 20, (segment(mask),))], [Sample("1", "a", 30, 20)])
    assert lonely.compute(["cat"]) == 0.0


def test_ap50_of_unseen_classes_is_that_of_their_own_evaluation(tmp_path):
    rng = np.random.default_rng(1)
    samples, answers = [], []
    for number in range(8):
        true = random_masks(rng, 4)
        image = Sample(str(number), f"{number}.png", 30, 20)
        classes = rng.integers(1, 3, 4).tolist()
        samples.append(replace(image, segments=tuple(map(segment, true, classes))))
        noisy = [np.roll(mask, int(rng.integers(0, 3)), 1) for mask in true]
        scores = rng.random(4).tolist()
        rows = zip(noisy, classes, scores, strict=True)
        segments = tuple(
            segment(mask, class_id, score=score, mask_from="prediction")
            for mask, class_id, score in rows
        )
        answers.append(replace(image, segments=segments))
    header = Header(taxonomy=TAXONOMY, kind="instance", name="t", command="t", images_by="none")
    truth = write_set(tmp_path / "truth", ((s, None) for s in samples), header)
    options = EvalOptions(unseen=["dog"])
    figures = evaluate(truth, answers, "instance", options).metrics
    parts = figures["zero_shot"]
    for group, class_id in (("seen", 1), ("unseen", 2)):

        def only(sample, class_id=class_id):
            kept = tuple(s for s in sample.segments if s.class_id == class_id)
            return replace(sample, segments=kept)

        subset = write_set(tmp_path / group, ((only(s), None) for s in samples), header)
        expected = evaluate(subset, map(only, answers), "instance").metrics
        assert parts["ap50"][group] == pytest.approx(expected["ap50"])
        assert parts[group] == pytest.approx(expected["ap"])
    a, b = parts["ap50"]["seen"], parts["ap50"]["unseen"]
    assert parts["ap50"]["harmonic"] == pytest.approx(2 * a * b / (a + b))
    assert parts["mask_recall"]["unseen"] > 0


def test_mask_recall_counts_masks_of_classes_that_the_truth_lacks(tmp_path):
    rng = np.random.default_rng(2)
    masks = [random_masks(rng, 1)[0] for _ in range(3)]
    image = Sample("0", "a.png", 30, 20, tuple(map(segment, masks[:1], [2])))
    header = Header(taxonomy=TAXONOMY, kind="instance", name="t", command="t", images_by="none")
    truth = write_set(tmp_path / "truth", [(image, None)], header)
    source = replace(TAXONOMY, categories=(*TAXONOMY.categories, Category(30, "wolf", "thing")))
    wolf = segment(masks[0], 2, score=0.5, mask_from="prediction")
    answer = replace(image, segments=(replace(wolf, class_id=30),))
    predictions = write_set(tmp_path / "answer", [(answer, None)], replace(header, taxonomy=source))
    figures = evaluate(truth, predictions, "instance", EvalOptions(unseen=["dog"])).metrics
    assert figures["class_map"]["unmapped"] == ("wolf",)
    assert figures["zero_shot"]["unseen"] == 0
    assert figures["zero_shot"]["mask_recall"]["unseen"] == 100
