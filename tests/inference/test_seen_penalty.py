"""The penalty on the logits of seen classes: calibrated stacking that leaves background alone."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segkit.errors import InputError
from segkit.inference.outputs import predict_set
from segkit.inference.postprocess import penalize_seen
from segkit.model.text_classifier import class_probability
from segkit.recipes.load import load_recipe
from segkit.recipes.schema import InferenceConfig
from segkit.runs.open_run import load_run
from segkit.shards.reader import ShardSet
from segkit.training.train import train

UNSEEN = torch.tensor([False, True, False, True])


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 30.0))
def test_only_the_balance_of_seen_and_unseen_classes_changes(seed: int, penalty: float) -> None:
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed)).double() * 4
    before, after = logits.softmax(-1), penalize_seen(logits, UNSEEN, penalty).softmax(-1)
    torch.testing.assert_close(after[:, -1], before[:, -1])
    odds = after[:, :4] / before[:, :4]  # (N, K)
    torch.testing.assert_close(odds[:, 0], odds[:, 2])
    torch.testing.assert_close(odds[:, 1], odds[:, 3])
    torch.testing.assert_close((odds[:, 1] / odds[:, 0]).log(), torch.full((6,), penalty).double())


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 30.0))
def test_sigmoid_classes_lose_to_background_and_unseen_ones_keep_their_probability(
    seed: int, penalty: float
) -> None:
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed)).double() * 4
    penalized = penalize_seen(logits, UNSEEN, penalty, "sigmoid")
    odds = (logits[:, :4] - logits[:, 4:]).exp()  # of each class against background
    odds[:, ~UNSEEN] *= math.exp(-penalty)
    expected = odds / (1 + odds)
    after = class_probability(penalized, "sigmoid")
    torch.testing.assert_close(after[:, :4], expected)
    torch.testing.assert_close(after[:, 4], 1 - expected.amax(-1))
    assert (after[:, 4] >= class_probability(logits, "sigmoid")[:, 4] - 1e-12).all()


def test_a_sigmoid_model_predicts_no_more_of_an_unseen_class_with_a_penalty(
    toy_set: ShardSet, tiny: Path, tmp_path: Path
) -> None:
    """A large penalty silences the seen classes, and leaves the scores of the unseen one."""
    path = train(
        tiny,
        [(str(toy_set.path), 1.0)],
        tmp_path / "run",
        steps=1,
        device="cpu",
        overrides=["loss.classes=sigmoid"],
    )
    scores = {}
    for penalty in (0, 99):
        settings = [f"inference.seen_penalty={penalty}", 'inference.unseen=["cat"]']
        run = load_run(path, "cpu", settings)
        out = predict_set(run, toy_set, "instance", tmp_path / f"out-{penalty}")
        scores[penalty] = [
            [(s.class_id, s.score) for s in sample.segments if s.class_id == 2]
            for sample in out.samples()
        ]
    assert any(scores[0]) and scores[99] == scores[0]


def test_no_penalty_and_no_unseen_class_change_nothing() -> None:
    logits = torch.randn(6, 5)
    assert penalize_seen(logits, UNSEEN, 0.0) is logits
    assert penalize_seen(logits, None, 3.0) is logits
    every = penalize_seen(logits, torch.ones(4, dtype=torch.bool), 3.0)
    torch.testing.assert_close(every.softmax(-1), logits.softmax(-1))


def test_a_penalty_that_would_do_nothing_is_refused(
    toy_set: ShardSet, tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="does nothing without"):
        InferenceConfig(seen_penalty=1.0)
    with pytest.raises(InputError, match=r"does nothing without inference\.unseen"):
        load_recipe("dataseg-mini", ["inference.seen_penalty=1"])
    path = train(tiny, [(str(toy_set.path), 1.0)], tmp_path / "run", steps=1, device="cpu")
    overrides = ["inference.seen_penalty=1", 'inference.unseen=["zebra"]']
    with pytest.raises(InputError, match="names no class of toy"):
        predict_set(load_run(path, "cpu", overrides), toy_set, "panoptic", tmp_path / "out")


def test_a_large_penalty_leaves_only_unseen_classes(
    toy_set: ShardSet, tiny: Path, tmp_path: Path
) -> None:
    path = train(tiny, [(str(toy_set.path), 1.0)], tmp_path / "run", steps=1, device="cpu")
    settings = ["inference.score=0", "inference.overlap=0"]
    overrides = [*settings, "inference.seen_penalty=99", 'inference.unseen=["cat"]']
    run = load_run(path, "cpu", overrides)
    predicted = predict_set(run, toy_set, "panoptic", tmp_path / "out")
    classes = {segment.class_id for sample in predicted.samples() for segment in sample.segments}
    assert classes == {2}
