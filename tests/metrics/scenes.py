"""Random label maps as samples, and dense reference versions of the metrics."""

from collections import defaultdict

import numpy as np
from pycocotools import mask as coco_mask

from segkit.metrics import objects
from segkit.metrics.regions import Regions
from segkit.sample import Sample, Segment
from segkit.taxonomy import Category, Taxonomy


def taxonomy(things: int = 3, stuff: int = 2) -> Taxonomy:
    kinds = ["thing"] * things + ["stuff"] * stuff
    # ids are neither contiguous nor in the order of the kinds
    return Taxonomy(
        "test", tuple(Category(7 * i + 2, f"class {i}", kind) for i, kind in enumerate(kinds))
    )


def rle(mask: np.ndarray) -> bytes:
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]


def segment(mask: np.ndarray, class_id: int, kind: str = "thing", **fields) -> Segment:
    rows, columns = np.nonzero(mask)
    box = (0.0, 0.0, 0.0, 0.0)
    if len(rows):
        x, y = float(columns.min()), float(rows.min())
        box = (x, y, float(columns.max()) - x + 1, float(rows.max()) - y + 1)
    return Segment(class_id, kind, box, rle(mask), float(mask.sum()), mask_from="human", **fields)


def sample(
    ids: np.ndarray,
    classes: dict[int, int],
    names: Taxonomy,
    image: str = "1",
    crowds=(),
    ignored=(),
) -> Sample:
    """A sample of an id map; 0 is void. `classes` maps segment id -> class id, in listing order."""
    height, width = ids.shape
    segments = tuple(
        segment(ids == i, c, names.by_id[c].kind, is_crowd=i in crowds, ignore=i in ignored)
        for i, c in classes.items()
    )
    return Sample(image, f"{image}.jpg", width, height, segments)


def random_map(
    rng: np.random.Generator, height: int, width: int, segments: int, void: float = 0.1
) -> np.ndarray:
    """A map of `segments` patches around random centers (some may be empty), 0 where void."""
    rows, columns = np.mgrid[:height, :width]
    centers = rng.random((segments + 1, 2)) * (height, width)
    distance = (rows[..., None] - centers[:, 0]) ** 2 + (columns[..., None] - centers[:, 1]) ** 2
    ids = distance.argmin(-1)
    ids[rng.random((height, width)) < void] = 0
    return ids


def random_sample(
    rng: np.random.Generator, names: Taxonomy, image: str, height=23, width=31, crowd=0.15
) -> Sample:
    ids = random_map(rng, height, width, int(rng.integers(1, 8)))
    present = [int(i) for i in np.unique(ids) if i]
    rng.shuffle(present)
    classes = {i: int(rng.choice([c.id for c in names.categories])) for i in present}
    crowds = [
        i for i in present if names.by_id[classes[i]].kind == "thing" and rng.random() < crowd
    ]
    return sample(ids, classes, names, image, crowds)


def disturbed(rng: np.random.Generator, truth: Sample, names: Taxonomy) -> Sample:
    """A prediction: the truth moved by a pixel, classes changed, segments dropped, scores added."""
    segments = []
    covered = np.zeros((truth.height, truth.width), bool)
    for true in truth.segments:
        mask = decode(true, truth)
        if rng.random() < 0.15:
            continue
        mask = np.roll(mask, rng.integers(-1, 2, 2), (0, 1)) & ~covered
        covered |= mask
        class_id = (
            true.class_id
            if rng.random() < 0.8
            else int(rng.choice([c.id for c in names.categories]))
        )
        if mask.any():
            segments.append(
                segment(mask, class_id, names.by_id[class_id].kind, score=float(rng.random()))
            )
    return Sample(truth.id, truth.file_name, truth.width, truth.height, tuple(segments))


def decode(segment: Segment, image: Sample) -> np.ndarray:
    size = [image.height, image.width]
    return coco_mask.decode({"size": size, "counts": segment.mask}).astype(bool)


def id_map(image: Sample) -> np.ndarray:
    ids = np.zeros((image.height, image.width), np.int64)
    for number, region in enumerate(image.segments, 1):
        ids[decode(region, image)] = number
    return ids


def panopticapi(pairs: list[tuple[Sample, Sample]], names: Taxonomy) -> dict:
    """PQ as the reference computes it: dense maps, dictionaries and loops. Values 0-1."""
    totals = defaultdict(lambda: [0.0, 0, 0, 0])
    for truth, prediction in pairs:
        true_map, predicted_map = id_map(truth), id_map(prediction)
        true = dict(enumerate(truth.segments, 1))
        predicted = dict(enumerate(prediction.segments, 1))
        labels, counts = np.unique(true_map * 1000 + predicted_map, return_counts=True)
        common = {
            (int(label) // 1000, int(label) % 1000): int(n)
            for label, n in zip(labels, counts, strict=True)
        }
        area = {i: int((predicted_map == i).sum()) for i in predicted}
        true_matched, predicted_matched = set(), set()
        for (t, p), n in common.items():
            if (
                t not in true
                or p not in predicted
                or true[t].is_crowd
                or true[t].class_id != predicted[p].class_id
            ):
                continue
            union = area[p] + int((true_map == t).sum()) - n - common.get((0, p), 0)
            if n / union > 0.5:
                totals[true[t].class_id][0] += n / union
                totals[true[t].class_id][1] += 1
                true_matched.add(t)
                predicted_matched.add(p)
        crowd_of = {}
        for t, true_segment in true.items():
            if t in true_matched:
                continue
            if true_segment.is_crowd:
                crowd_of[true_segment.class_id] = t
            else:
                totals[true_segment.class_id][3] += 1
        for p, predicted_segment in predicted.items():
            if p in predicted_matched:
                continue
            forgiven = common.get((0, p), 0)
            class_id = predicted_segment.class_id
            if class_id in crowd_of:
                forgiven += common.get((crowd_of[class_id], p), 0)
            if forgiven / area[p] <= 0.5:
                totals[class_id][2] += 1
    return _averages(totals, names)


def _averages(totals, names: Taxonomy) -> dict:
    result = {"per_class": {}}
    for category in names.categories:
        iou, tp, fp, fn = totals[category.id]
        if tp + fp + fn:
            quality = (
                iou / (tp + 0.5 * fp + 0.5 * fn),
                iou / tp if tp else 0.0,
                tp / (tp + 0.5 * fp + 0.5 * fn),
            )
            result["per_class"][category.name] = (*quality, tp, fp, fn)
    for group, kinds in {
        "all": ("thing", "stuff"),
        "things": ("thing",),
        "stuff": ("stuff",),
    }.items():
        rows = [result["per_class"].get(c.name) for c in names.categories if c.kind in kinds]
        rows = [row for row in rows if row is not None]
        result[group] = (
            tuple(sum(row[i] for row in rows) / len(rows) for i in range(3)) if rows else None
        )
    return result


def dense_confusion(pairs: list[tuple[Sample, Sample]], names: Taxonomy) -> np.ndarray:
    """(K, K + 1) by painting both maps; the last column means no prediction."""
    k = len(names.categories)
    matrix = np.zeros((k + 1, k + 1), np.int64)
    for truth, prediction in pairs:
        maps = []
        for image in (truth, prediction):
            classes = np.array([k] + [names.index[s.class_id] for s in image.segments])
            maps.append(classes[id_map(image)])
        np.add.at(matrix, (maps[0].ravel(), maps[1].ravel()), 1)
    return matrix[:k]


def records(truths, predictions, index, iou_type, first=1):
    """COCO records of samples in memory, of both sides; images are numbered from `first`."""
    numbers = range(first, first + len(truths))
    true, predicted = (
        objects.Objects.from_samples(truths),
        objects.Objects.from_samples(predictions),
    )
    return (
        objects.true_records(true, index, iou_type, numbers),
        objects.predicted_records(predicted, true, index, iou_type, numbers),
    )


def regions(pairs, names):
    """Regions of both sides of pairs of samples."""
    return tuple(
        Regions.from_samples(side, names.index, "predictions") for side in zip(*pairs, strict=True)
    )


def updated(metric, batches):
    """The metric after an update with each batch of both sides."""
    for truth, prediction in batches:
        metric.update(truth, prediction)
    return metric
