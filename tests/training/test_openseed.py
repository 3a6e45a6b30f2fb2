"""Runs with the parts of OpenSeeD."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segkit.criterion.box_assist import predict_assist_masks
from segkit.criterion.pooled_targets import AssistMasks
from segkit.criterion.set_criterion import SetCriterion
from segkit.model.dataseg import DataSeg
from segkit.model.text_classifier import ClassEmbeddings
from segkit.recipes.schema import LossConfig, Recipe
from segkit.runs.run_manifest import read_run_manifest
from segkit.shards.reader import ShardSet
from segkit.stopping import StoppedError
from segkit.training.setup import Dataset, TrainingSetup
from segkit.training.train import train
from segkit.training.trainer import Trainer
from tests.criterion.scenes import IS_THING, MODEL, make_batch, rectangles
from tests.training.test_train import steps_of, stop_after


def test_assisting_masks_start_at_their_step_and_resume(
    tiny: Path, toy_set: ShardSet, box_set: ShardSet, tmp_path: Path
) -> None:
    data = [(str(toy_set.path), 1.0), (str(box_set.path), 2.0)]

    def run(name: str, *overrides: str, **options: Any) -> Path:
        settings = {"device": "cpu", "steps": 7, "overrides": ["training.seed=2", *overrides]}
        return train(tiny, data, tmp_path / name, **settings, **options)

    assist = ("loss.box_assist=pseudo", "loss.box_assist_start=3")
    off, uninterrupted = run("off"), run("on", *assist)
    assert read_run_manifest(run("explicit", "loss.box_assist=off")).digest == (
        read_run_manifest(off).digest
    )
    assert steps_of(uninterrupted)[:3] == steps_of(off)[:3]
    for row in steps_of(uninterrupted)[3:]:
        assert ("pseudo_dice" in row["losses"]) == (row["dataset"] == "boxes"), row
    with pytest.raises(StoppedError):
        run("resumed", *assist, callbacks=stop_after(5))
    resumed = run("resumed", *assist, resume=True)
    assert steps_of(resumed) == steps_of(uninterrupted) != steps_of(off)
    assert read_run_manifest(resumed).digest == read_run_manifest(uninterrupted).digest


def test_openseed_trains_with_all_its_parts(
    tiny: Path, toy_set: ShardSet, box_set: ShardSet, tmp_path: Path
) -> None:
    data = [(str(toy_set.path), 1.0), (str(box_set.path), 1.0)]
    parts = ["model.foreground=3", "loss.classes=sigmoid", "loss.denoising=1", "data.mixing=all"]
    parts += ["loss.box_assist=pseudo", "loss.box_assist_start=0"]
    run = train(tiny, data, tmp_path / "run", device="cpu", steps=2, overrides=parts)
    for row in steps_of(run):
        assert {"box_l1", "box_giou", "pseudo_dice", "projection", "focal"} <= row["losses"].keys()


def test_sigmoid_classes_start_unlikely(tiny: Path, toy_set: ShardSet, tmp_path: Path) -> None:
    """Otherwise the first loss drowns all others, or MERGE leaves next to no proposals."""
    data, first = [(str(toy_set.path), 1.0)], {}
    for classes in ("softmax", "sigmoid"):
        overrides = [f"loss.classes={classes}", "loss.box_prompts=0"]
        run = train(tiny, data, tmp_path / classes, device="cpu", steps=1, overrides=overrides)
        (row,) = steps_of(run)
        first[classes] = row["losses"]["class"]
    assert 0.5 < first["sigmoid"] / first["softmax"] < 2


class SeenMasks(SetCriterion):
    """Keeps the masks that assist each batch."""

    def __init__(self, config: LossConfig) -> None:
        super().__init__(config, {"set": IS_THING})
        self.seen: list[Sequence[AssistMasks] | None] = []

    def forward(self, *arguments: Any) -> dict[str, Tensor]:
        self.seen.append(arguments[4])
        return super().forward(*arguments)


def test_assisting_masks_are_those_of_the_averaged_model() -> None:
    """In evaluation mode, before the step; the average and the model differ."""
    text = F.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    loss = LossConfig(pairwise=0.0, box_assist="match", box_assist_start=0)
    recipe = Recipe(name="assist", model=MODEL, loss=loss)
    data = Dataset("set", cast(ShardSet, None), 1.0, ClassEmbeddings(text, IS_THING))
    setup = TrainingSetup(recipe, [data], [], torch.device("cpu"), {})
    torch.manual_seed(0)
    criterion = SeenMasks(loss)
    trainer = Trainer(DataSeg(MODEL), criterion, setup)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainer.ema.module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += 0.3 * parameter.std(correction=0) * noise
    image = rectangles((4, 8, 32, 40), (20, 0, 64, 30), labels=(1, 0), masked=False)
    batch = make_batch(image, task="instance")
    expected, of_model = (
        predict_assist_masks(copy.deepcopy(model).eval(), batch, text, loss)
        for model in (trainer.ema.module, trainer.model)
    )
    trainer.train_step(iter([batch]))
    (seen,) = criterion.seen
    assert seen is not None and expected is not None and of_model is not None
    assert torch.equal(seen[0].masks, expected[0].masks)
    assert torch.equal(seen[0].weight, expected[0].weight)
    assert not torch.equal(seen[0].masks, of_model[0].masks)
