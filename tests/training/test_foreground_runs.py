"""Runs with foreground queries: training, resuming, evaluation and prediction."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytest import MonkeyPatch
from torch import Tensor

from segkit.data.augment import PAD_VALUE
from segkit.inference.outputs import predict_set
from segkit.inference.predictor import Predictor
from segkit.metrics.evaluate import evaluate
from segkit.model.dataseg import DataSeg, Outputs
from segkit.runs.open_run import load_run
from segkit.runs.run_manifest import read_run_manifest
from segkit.shards.manifest import Task
from segkit.shards.reader import ShardSet
from segkit.shards.validate import validate
from segkit.stopping import StoppedError
from segkit.training.logging import StepRecord
from segkit.training.train import train
from segkit.training.trainer import Callbacks

OVERRIDES = [
    "model.foreground=6",
    "model.refine_boxes=true",
    "loss.classes=sigmoid",
    "loss.denoising=1.0",
    "inference.score=0.0",
    "inference.overlap=0.0",
]


def stop_after(step: int) -> Callbacks:
    """Send this process a SIGTERM in a step."""

    def on_step(record: StepRecord) -> None:
        if record.step == step:
            signal.raise_signal(signal.SIGTERM)

    return Callbacks(on_step=on_step)


def run(tiny: Path, toy: ShardSet, boxes: ShardSet, out: Path, **options: Any) -> Path:
    data = [(str(toy.path), 1.0), (str(boxes.path), 1.0)]
    return train(tiny, data, out, device="cpu", steps=6, overrides=OVERRIDES, **options)


@pytest.fixture(scope="module")
def trained(
    tiny: Path, toy_set: ShardSet, box_set: ShardSet, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("foreground") / "run"
    return run(tiny, toy_set, box_set, out, eval_data=[str(toy_set.path)])


def losses(version: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (version / "metrics.jsonl").read_text().splitlines()]
    return [{"dataset": r["dataset"], **r["losses"]} for r in rows if "losses" in r]


def test_each_data_set_trains_the_terms_of_its_annotation(trained: Path) -> None:
    rows = losses(trained)
    assert {row["dataset"] for row in rows} == {"toy", "boxes"}
    boxes = {"box_l1", "box_giou", "denoising_class", "denoising_box_l1", "denoising_box_giou"}
    for row in rows:
        assert boxes <= row.keys()
        assert ("denoising_dice" in row) == ("dice" in row) == (row["dataset"] == "toy")


def test_a_stopped_run_resumes_exactly(
    trained: Path, tiny: Path, toy_set: ShardSet, box_set: ShardSet, tmp_path: Path
) -> None:
    with pytest.raises(StoppedError):
        run(tiny, toy_set, box_set, tmp_path / "run", callbacks=stop_after(3))
    resumed = run(tiny, toy_set, box_set, tmp_path / "run", resume=True)
    assert losses(resumed) == losses(trained)
    assert read_run_manifest(resumed).digest == read_run_manifest(trained).digest


def test_the_model_knows_the_padding_of_crops(
    tiny: Path, toy_set: ShardSet, box_set: ShardSet, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    seen: list[tuple[Tensor, Tensor | None]] = []
    forward = DataSeg.forward

    def watch(model: DataSeg, images: Tensor, *arguments: Any, **options: Any) -> Outputs:
        seen.append((images, options["padding"]))
        return forward(model, images, *arguments, **options)

    monkeypatch.setattr(DataSeg, "forward", watch)
    run(tiny, toy_set, box_set, tmp_path / "run")
    beyond = [
        images.permute(0, 2, 3, 1)[padding] for images, padding in seen if padding is not None
    ]
    gray = torch.cat(beyond)
    assert len(gray) > 0 and (gray == PAD_VALUE / 255).all()


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_a_run_predicts_every_task(
    task: Task, trained: Path, toy_set: ShardSet, tmp_path: Path
) -> None:
    loaded = load_run(trained)
    loaded.model.text_classifier.background.data.zero_()  # six steps: most is background
    predicted = predict_set(loaded, toy_set, task, tmp_path / "out")
    assert len(predicted) == len(toy_set)
    assert sum(len(sample.segments) for sample in predicted.samples()) > 0
    if task == "instance":
        figures = evaluate(toy_set, predicted, task).metrics
        assert figures["box"]["ap"] is not None and figures["ap"] is not None


def test_instances_come_from_foreground_queries(
    trained: Path, toy_set: ShardSet, tmp_path: Path
) -> None:
    """Other learned queries change no instance, but stuff."""
    labels = {}
    for name in ("trained", "noise"):
        run = load_run(trained)
        run.model.text_classifier.background.data.zero_()
        if name == "noise":
            run.model.query_content.weight.data.normal_()
        for task in ("instance", "semantic"):
            predicted = predict_set(run, toy_set, task, tmp_path / name / task)
            labels[name, task] = [sample.segments for sample in predicted.samples()]
    assert labels["trained", "instance"] == labels["noise", "instance"]
    assert labels["trained", "semantic"] != labels["noise", "semantic"]


@pytest.mark.parametrize("classes", [["sky"], ["cat"], ["sky", "cat", "a dog"]])
def test_any_vocabulary_serves(trained: Path, classes: list[str]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    for task in ("panoptic", "semantic"):
        masks = Predictor(load_run(trained)).predict(image, classes, task)
        assert {mask.name for mask in masks} <= set(classes)


def test_boxes_come_from_the_head_where_the_run_is_told_so(
    trained: Path, toy_set: ShardSet, tmp_path: Path
) -> None:
    sets = {
        boxes: predict_set(
            load_run(trained, overrides=[f"inference.boxes={boxes}"]),
            toy_set,
            "instance",
            tmp_path / boxes,
        )
        for boxes in ("mask", "head")
    }
    changed = 0
    for tight, head in zip(sets["mask"].samples(), sets["head"].samples(), strict=True):
        for a, b in zip(tight.segments, head.segments, strict=True):
            assert (a.mask, a.score, a.class_id) == (b.mask, b.score, b.class_id)
            x, y, width, height = b.box
            assert min(x, y) >= 0 and x + width <= 64 + 1e-3 and y + height <= 48 + 1e-3
            changed += a.box != b.box
    assert changed > 0
    for predictions in sets.values():
        assert list(validate(predictions.path)) == []
