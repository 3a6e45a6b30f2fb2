import re
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from segkit.masks import rle
from segkit.metrics.output import figure_name, uncounted_truth
from segkit.sample import Sample, Segment
from segkit.shards.manifest import Task
from segkit.shards.reader import ShardSet


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("ap", "AP"),
        ("ap50", "AP50"),
        ("ap_small", "AP small"),
        ("ar100", "AR100"),
        ("pq things", "PQ things"),
        ("boundary ap75", "boundary AP75"),
        ("miou", "mIoU"),
        ("fwiou", "fwIoU"),
        ("pixel_accuracy", "pixel accuracy"),
    ],
)
def test_figures_are_named_as_in_papers(key: str, name: str) -> None:
    assert figure_name(key) == name


MASK = rle.encode(np.ones((4, 6), bool))


def segment(**fields: Any) -> Segment:
    values = {"class_id": 1, "kind": "thing", "box": (0, 0, 6, 4), "mask": MASK, "area": 24.0}
    return Segment(**{**values, **fields})


@pytest.mark.parametrize(
    ("segments", "task", "message"),
    [
        ([{"is_crowd": True}], "instance", r"\(1 crowd\).*for COCO .*--crowds-as-objects"),
        ([{"is_crowd": True}, {"ignore": True}], "panoptic", r"\(1 crowd, 1 to be ignored\)"),
        ([{"kind": "stuff"}] * 2, "instance", r"\(2 stuff\), so that no figure is defined$"),
        ([{"mask": None}], "instance", r"\(1 box without a mask\)"),
        ([{"ignore": True}], "semantic", r"\(1 to be ignored\)"),
        ([], "semantic", "the ground truth has no segments"),
        ([{"is_crowd": True}], "semantic", None),
        ([{"is_crowd": True}, {}], "instance", None),
    ],
)
def test_ground_truth_that_does_not_count_is_explained(
    segments: list[dict[str, Any]], task: Task, message: str | None
) -> None:
    sample = Sample("a", "a.png", 6, 4, segments=tuple(segment(**fields) for fields in segments))
    truth = cast(ShardSet, SimpleNamespace(samples=lambda: iter([sample])))
    reason = uncounted_truth(truth, task)
    assert reason is None if message is None else re.search(message, reason or "")
    if segments == [{"mask": None}]:
        assert uncounted_truth(truth, task, by_box=True) is None
