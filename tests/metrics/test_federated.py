from dataclasses import replace

import numpy as np
import pytest

from segkit.errors import InputError
from segkit.metrics import detections
from segkit.metrics.evaluate import Options, measure

from .files import shard_set
from .scenes import records
from .test_instance import some_pairs


def reference(pairs, names):
    """The rules of LVIS on top of COCO's matching: what was not looked for, or not labelled in full, does not count."""
    pairs = [
        (t, replace(p, segments=tuple(s for s in p.segments if t.annotated is None or s.class_id in t.annotated)))
        for t, p in pairs
    ]
    truths, found = [t for t, _ in pairs], [p for _, p in pairs]
    rows = detections.match(records(truths, found, names.index, "mask", 1), "mask", 300)
    for d, image in enumerate(rows.image):
        if not truths[image].exhaustive and names.names[rows.label[d]] in {
            names.by_id[s.class_id].name for s in truths[image].segments
        }:
            rows.ignored[d] |= ~rows.matched[d]
    return 100 * np.nanmean(detections.average_precision(rows, len(names.categories)))


@pytest.mark.parametrize("seed", range(6))
def test_equals_brute_force(tmp_path, seed):
    pairs, names = some_pairs(seed, 6, 30, 40)
    names = replace(names, categories=tuple(replace(c, kind="thing") for c in names.categories))
    rng = np.random.default_rng(seed)
    limited = []
    for truth, found in pairs:
        segments = tuple(replace(s, kind="thing", is_crowd=False) for s in truth.segments)
        annotated = {s.class_id for s in segments} | {int(rng.choice([c.id for c in names.categories]))}
        limited.append(
            (
                replace(
                    truth, segments=segments, annotated=tuple(sorted(annotated)), exhaustive=bool(rng.random() < 0.5)
                ),
                found,
            )
        )
    truth = shard_set(tmp_path / "truth", [t for t, _ in limited], names, "instance")
    metrics = measure(truth, [p for _, p in limited], "instance").metrics
    assert metrics["protocol"] == "lvis" and metrics["max_dets"] == [300]
    assert metrics["ap"] == pytest.approx(reference(limited, names), abs=1e-7)
    with pytest.raises(InputError, match="pycocotools has no rules for images"):
        measure(truth, [p for _, p in limited], "instance", Options("pycocotools"))
    plain = shard_set(
        tmp_path / "plain", [replace(t, annotated=None, exhaustive=True) for t, _ in limited], names, "instance"
    )
    assert measure(plain, [p for _, p in limited], "instance").metrics["protocol"] == "coco"
