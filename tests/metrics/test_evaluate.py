import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segkit.errors import InputError
from segkit.metrics.evaluate import evaluate
from segkit.metrics.predictions import open_predictions
from segkit.metrics.task_metrics import EvalOptions

from .files import figures, results_file, sets, shard_set
from .scenes import dense_confusion, panopticapi, random_map, sample, taxonomy
from .test_instance import KEYS, reference


def test_panoptic_figures_of_sets_equal_the_reference(tmp_path):
    truth, predictions = sets(tmp_path, images=70)  # more than one batch
    expected = panopticapi(
        list(zip(truth.samples(), predictions.samples(), strict=True)), truth.taxonomy
    )
    metrics = figures(truth, predictions, "panoptic")
    for group in ("all", "things", "stuff"):
        assert [metrics[group][key] / 100 for key in ("pq", "sq", "rq")] == pytest.approx(
            expected[group], rel=1e-12
        )
    assert (
        metrics["images"] == {"evaluated": 70, "without_prediction": 0}
        and "class_map" not in metrics
    )


def test_results_give_the_same_figures_as_the_set_and_as_pycocotools(tmp_path):
    truth, predictions = sets(tmp_path, kind="instance")
    pairs = list(zip(truth.samples(), predictions.samples(), strict=True))
    things = {c.id for c in truth.taxonomy.categories if c.kind == "thing"}
    thing_pairs = [
        tuple(
            replace(s, segments=tuple(x for x in s.segments if x.class_id in things)) for s in pair
        )
        for pair in pairs
    ]
    for iou_type in ("mask", "box"):
        results = [prediction for _, prediction in thing_pairs]
        file = results_file(tmp_path / f"{iou_type}.json", results, boxes=iou_type == "box")
        opened = open_predictions(str(file), truth)
        metrics = figures(truth, opened, "instance", iou_type=iou_type)
        assert [metrics[key] for key in KEYS] == reference(thing_pairs, truth.taxonomy, iou_type)
        assert metrics["per_class"].keys() == {"class 0", "class 1", "class 2"}
    by_box = reference(thing_pairs, truth.taxonomy, "box")
    for source in (predictions, open_predictions(str(tmp_path / "mask.json"), truth)):
        assert [figures(truth, source, "instance")["box"][key] for key in KEYS] == by_box
    assert "box" not in figures(truth, predictions, "instance", iou_type="box")


@pytest.mark.parametrize(("evaluator", "boundary"), [("hotcoco", True), ("pycocotools", False)])
def test_at_equal_scores_the_image_of_the_lower_id_counts_first_in_any_order_of_the_set(
    tmp_path, evaluator, boundary
):
    """COCO's files are in no order, and pycocotools goes through images by id: 9 before 10."""
    truth, predictions = sets(tmp_path, images=12, kind="instance")
    things = {c.id for c in truth.taxonomy.categories if c.kind == "thing"}
    pairs = []
    for number, pair in enumerate(zip(truth.samples(), predictions.samples(), strict=True), 5):
        t, p = (
            replace(
                s, id=str(number), segments=tuple(x for x in s.segments if x.class_id in things)
            )
            for s in pair
        )
        rounded = tuple(replace(x, score=round(2 * x.score) / 2) for x in p.segments)
        pairs.append((t, replace(p, segments=rounded)))
    shuffled = np.random.default_rng(1).permutation(12)
    ground = shard_set(
        tmp_path / "shuffled", [pairs[i][0] for i in shuffled], truth.taxonomy, "instance"
    )
    options = EvalOptions(evaluator, detections=True, boundary=boundary)
    result = evaluate(ground, [p for _, p in pairs], "instance", options)
    assert [result.metrics[key] for key in KEYS] == reference(pairs, truth.taxonomy)
    headline = result.headline()
    assert headline["ap"] == pytest.approx(result.metrics["ap"], abs=1e-9)
    if boundary:
        assert headline["boundary ap"] == pytest.approx(result.metrics["boundary"]["ap"], abs=1e-9)
    images = result.detections.rows.image
    for place, image in enumerate(result.image_ids):
        prediction = [p for _, p in pairs if p.id == image]
        single = evaluate(ground, prediction, "instance", options).detections.rows.image
        assert set(single) <= {place}, "an image's rows carry its place in the set"
        assert (images == place).sum() == len(single)


def test_semantic_figures_of_sets(tmp_path):
    truth, predictions = sets(tmp_path, images=9, kind="semantic")
    matrix = dense_confusion(
        list(zip(truth.samples(), predictions.samples(), strict=True)), truth.taxonomy
    )
    correct = np.diagonal(matrix)
    iou = correct / (matrix.sum(1) + matrix[:, :-1].sum(0) - correct)
    metrics = figures(truth, predictions, "semantic")
    assert metrics["miou"] == pytest.approx(100 * iou.mean())
    assert metrics["pixel_accuracy"] == pytest.approx(100 * correct.sum() / matrix.sum())


def test_the_order_of_predictions_does_not_matter_and_missing_ones_are_counted(tmp_path):
    truth, predictions = sets(tmp_path)
    samples = list(predictions.samples())
    shuffled = shard_set(tmp_path / "shuffled", samples[::-1], truth.taxonomy)
    assert figures(truth, shuffled, "panoptic") == figures(truth, predictions, "panoptic")
    fewer = figures(truth, shard_set(tmp_path / "fewer", samples[1:4], truth.taxonomy), "panoptic")
    empty = [samples[0], samples[4]]
    emptied = [replace(s, segments=()) if s in empty else s for s in samples]
    assert fewer["images"]["without_prediction"] == 2
    assert fewer["all"] == figures(truth, emptied, "panoptic")["all"]


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_memory_does_not_grow_with_the_number_of_images(tmp_path, task):
    """Two row groups of the shards against five: memory holds a batch, not the masks of the set."""
    names = taxonomy()
    ids = random_map(np.random.default_rng(0), 150, 200, 12)
    image = sample(ids, {int(i): 2 for i in np.unique(ids) if i}, names)

    def peak(images):
        copies = [replace(image, id=str(i), file_name=f"{i}.jpg") for i in range(images)]
        truth = shard_set(tmp_path / f"{images}", copies, names, task)
        del copies
        figures(truth, truth, task)
        tracemalloc.start()
        figures(truth, truth, task)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    masks = sum(len(s.mask) for s in image.segments)
    assert peak(640) - peak(256) < 0.5 * (640 - 256) * masks


PEAK = """
import sys
from pathlib import Path
from segkit.metrics.evaluate import evaluate
from segkit.shards.reader import ShardSet
sets = [ShardSet.open(name) for name in sys.argv[2:]]
evaluate(sets[0], sets[0], sys.argv[1])
status = Path("/proc/self/status")
status.with_name("clear_refs").write_text("5")  # the peak begins anew
evaluate(sets[1], sets[1], sys.argv[1])
print(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])
status.with_name("clear_refs").write_text("5")
evaluate(sets[2], sets[2], sys.argv[1])
print(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])
"""

RETURNED = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "0",
}
"""Allocators return freed memory at once; the 30 MB that they may keep would hide the growth."""
FEW, MANY = 256, 512


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from Linux"
)
@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_resident_memory_is_bounded_including_that_of_the_evaluators(tmp_path, task):
    """A hundred masks of 800 bytes an image in both sets: 1,600 bytes a pair if kept."""
    names = taxonomy(things=100, stuff=0)
    ids = np.kron(np.arange(1, 101).reshape(10, 10), np.ones((48, 64), int))
    ids[np.random.default_rng(0).random(ids.shape) < 0.1] = 0
    image = sample(ids, {k: 7 * k - 5 for k in range(1, 101)}, names)
    paths = []
    for images in (FEW, FEW, MANY):  # several row groups
        copies = (replace(image, id=str(i), file_name=f"{i}.jpg") for i in range(images))
        paths.append(str(shard_set(tmp_path / f"{len(paths)}", list(copies), names, task).path))
    command = [sys.executable, "-c", PEAK, task, *paths]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | RETURNED
    )
    few, many = (1024 * int(kib) for kib in done.stdout.split())
    segments = (MANY - FEW) * len(image.segments)
    assert sum(len(s.mask) for s in image.segments) > 800 * len(image.segments)
    assert many - few < 800 * segments


def test_the_task_must_fit_the_labels(tmp_path):
    truth, predictions = sets(tmp_path, images=1)
    boxes = [
        replace(s, segments=tuple(replace(x, mask=None, mask_from=None) for x in s.segments))
        for s in truth.samples()
    ]
    boxed = shard_set(tmp_path / "boxes", boxes, truth.taxonomy, "boxes")
    with pytest.raises(InputError, match=r"boxes but no masks; `segkit pseudolabel` makes masks"):
        figures(boxed, predictions, "instance")
    assert figures(boxed, predictions, "instance", iou_type="box")["ap"] is not None
    semantic = shard_set(tmp_path / "semantic", list(truth.samples()), truth.taxonomy, "semantic")
    with pytest.raises(InputError, match="a semantic set is not panoptic ground truth"):
        figures(semantic, predictions, "panoptic")
    instance = shard_set(tmp_path / "instance", list(truth.samples()), truth.taxonomy, "instance")
    with pytest.raises(
        InputError,
        match="an instance set is not panoptic ground truth; use `segkit eval --task instance`",
    ):
        figures(instance, predictions, "panoptic")
    with pytest.raises(InputError, match="does not separate instances"):
        figures(semantic, predictions, "instance")


def test_predictions_without_masks_are_left_out_unless_none_has_a_mask(tmp_path):
    truth, predictions = sets(tmp_path, kind="instance")
    half = [
        replace(
            s,
            segments=tuple(
                replace(x, mask=None, mask_from=None) if i % 2 else x
                for i, x in enumerate(s.segments)
            ),
        )
        for s in predictions.samples()
    ]
    kept = [replace(s, segments=s.segments[::2]) for s in half]
    partly = figures(truth, half, "instance")
    fewer = figures(truth, kept, "instance")
    assert partly["without_mask"] > 0 and fewer["without_mask"] == 0
    assert partly["ap"] == fewer["ap"]
    none = [
        replace(s, segments=tuple(replace(x, mask=None, mask_from=None) for x in s.segments))
        for s in half
    ]
    with pytest.raises(
        InputError, match=r"boxes without masks; .*`segkit eval --task instance --by box`"
    ):
        figures(truth, none, "instance")


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_predictions_of_another_size_are_refused(tmp_path, task):
    truth, predictions = sets(tmp_path, kind=task)
    turned = [replace(s, width=s.height, height=s.width) for s in predictions.samples()]
    with pytest.raises(
        InputError, match=r"image 100: the prediction is 40 x 50, the image 50 x 40"
    ):
        figures(truth, turned, task)
    with pytest.raises(
        InputError, match=r"image 100: the prediction is 40 x 50, the image 50 x 40"
    ):
        figures(truth, shard_set(tmp_path / "turned", turned, truth.taxonomy, task), task)


def test_columns_and_samples_give_the_same_figures(tmp_path, monkeypatch):
    """Sets in the same order are read by columns, samples in memory one by one.

    The 300 images are several row groups.
    """
    truth, predictions = sets(tmp_path, images=300, kind="panoptic")
    few = [replace(s, segments=()) if i % 7 < 6 else s for i, s in enumerate(predictions.samples())]
    sparse = shard_set(tmp_path / "sparse", few, truth.taxonomy)
    empty = shard_set(tmp_path / "empty", [replace(s, segments=()) for s in few], truth.taxonomy)
    for batch in (4, 7, 200):  # 7 leaves a rest at every row group
        monkeypatch.setattr("segkit.metrics.batches.BATCH", batch)
        for task in ("panoptic", "semantic"):
            for shards in (predictions, sparse, empty):
                by_columns = figures(truth, shards, task)
                assert by_columns == figures(truth, list(shards.samples()), task)


def test_columns_refuse_what_samples_refuse(tmp_path):
    truth, predictions = sets(tmp_path, kind="panoptic")
    samples = list(predictions.samples())
    bare = replace(
        samples[2], segments=(replace(samples[2].segments[0], mask=None, mask_from=None),)
    )
    odd = replace(samples[2], segments=(replace(samples[2].segments[0], class_id=999),))
    for bad, line in (
        (bare, "image 102: a segment has a box but no mask"),
        (odd, "image 102: category 999 is not in the"),
    ):
        broken = [*samples[:2], bad, *samples[3:]]
        shards = shard_set(tmp_path / line[:9].replace(":", ""), broken, truth.taxonomy)
        for source in (broken, shards):
            with pytest.raises(InputError, match=line):
                figures(truth, source, "panoptic")
