"""Workers that count parts of a set give the figures of one process, to the last bit."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.inference import label_shards
from segkit.metrics import task_metrics
from segkit.metrics.evaluate import EvalResult, compare, evaluate
from segkit.metrics.predictions import as_predictions
from segkit.metrics.shard_columns import read_regions
from segkit.metrics.task_metrics import EvalOptions, TaskMetrics, count
from segkit.shards import shard
from segkit.shards.header import Header
from segkit.shards.label_columns import read_columns
from segkit.shards.manifest import Task
from segkit.workers.devices import Workers

from .files import sets

IMAGES = 53
ALL = EvalOptions(detections=True, boundary=True, tide=True, bootstrap=20)
CASES = [
    ("panoptic", "panoptic", EvalOptions(boundary=True, bootstrap=20)),
    ("panoptic", "semantic", EvalOptions(bootstrap=20)),
    ("instance", "instance", ALL),
    ("instance", "instance", EvalOptions()),
    ("instance", "instance", EvalOptions(evaluator="pycocotools", iou_type="box")),
]


class Pretended(Workers):
    """Workers in this process that finish last things first; results travel as bytes."""

    tasks = 0

    @property
    def in_process(self) -> bool:
        return False

    def run(
        self, make: Callable[[str], Any], tasks: Sequence[tuple[Any, ...]], folders: Sequence[Path]
    ) -> Iterator[Any]:
        work = pickle.loads(pickle.dumps(make))("cpu")
        Pretended.tasks = len(tasks)
        for arguments in reversed(tasks):
            yield pickle.loads(pickle.dumps(work(*arguments)))


def scores(result: EvalResult) -> list[float]:
    return result.image_scores()[0].tolist()


@pytest.mark.parametrize(("kind", "task", "options"), CASES)
def test_merged_counts_are_those_of_one_process(
    kind: str, task: Any, options: EvalOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_metrics, "rows_per_shard", lambda images: 10)  # rounded to 16
    truth, predictions = sets(tmp_path, kind=kind, images=IMAGES)
    one = evaluate(truth, predictions, task, options)
    several = evaluate(truth, predictions, task, options, workers=Pretended())
    assert Pretended.tasks == 4
    assert several.metrics == one.metrics
    assert several.image_ids == one.image_ids
    np.testing.assert_array_equal(scores(several), scores(one))


def test_two_processes_merge_their_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_metrics, "rows_per_shard", lambda images: 32)
    truth, predictions = sets(tmp_path, kind="instance", images=IMAGES)
    workers = Workers(count=2, device="cpu")
    one, two = (
        evaluate(truth, predictions, "instance", workers=w).metrics for w in (Workers(), workers)
    )
    assert one == two


def test_rows_of_a_set_are_read_across_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "MIN_ROWS", 7)
    truth, _ = sets(tmp_path, images=30)
    header = Header.from_set(truth, "test", {})
    label = partial(map, lambda sample: (sample, {}))
    layer, _ = label_shards.label_shards(tmp_path / "layer", truth, lambda device: label, header)
    assert len(layer.manifest.parts) == 5
    ids = list(truth.image_ids())
    for rows in (range(30), range(7, 23), range(29, 30), range(4, 4), range(0, 7)):
        read = [i for table in read_columns(layer, ["id"], rows) for i in table["id"].to_pylist()]
        assert read == ids[rows.start : rows.stop]
        batches = list(read_regions(layer, 4, "ground truth", rows))
        assert [i for batch in batches for i in batch.ids] == read


@pytest.mark.parametrize(
    ("task", "needed"),
    [
        ("panoptic", {"panoptic", "boundary"}),
        ("semantic", {"semantic"}),
        ("instance", {"instance", "masks", "detections", "boundary_detections"}),
    ],
)
def test_a_comparison_computes_headlines_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Task, needed: set[str]
) -> None:
    truth, predictions = sets(tmp_path, images=4, kind=task)
    options = EvalOptions(detections=True, boundary=task != "semantic")
    headlines = evaluate(truth, predictions, task, options).headline()
    counted = list[TaskMetrics]()

    def spy(*arguments: Any) -> TaskMetrics:
        counted.append(count(*arguments))
        return counted[-1]

    monkeypatch.setattr("segkit.metrics.evaluate.count", spy)
    first, second = (as_predictions(predictions, truth) for _ in "ab")
    compared = compare(truth, first, second, task, replace(options, bootstrap=5))
    values = {name: row["a"] for name, row in compared["figures"].items()}
    assert values == pytest.approx(headlines, nan_ok=True)
    for metrics in counted:
        present = {f.name for f in fields(metrics) if getattr(metrics, f.name) is not None}
        assert present - {"image_ids"} == needed
