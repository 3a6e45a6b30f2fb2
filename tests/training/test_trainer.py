import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from segkit.data.batch import Batch
from segkit.errors import SegkitError
from segkit.training.logging import BatchRecord, StepRecord
from segkit.training.trainer import Trainer, require_finite
from tests.training.stand_in import batches, freeze_mode, make_trainer, take_steps


def losses(records: list[StepRecord]) -> list[dict[str, float]]:
    return [record.losses for record in records]


def test_the_loss_falls_and_the_record_describes_the_step() -> None:
    records = list(take_steps(make_trainer(training={"steps": 60}), batches()))
    first, last = records[0], records[-1]
    assert [record.step for record in records] == list(range(1, 61))
    assert last.loss < 0.2 * first.loss
    assert first.loss == pytest.approx(first.losses["square"] + first.losses["size"])
    assert (first.dataset, first.lr) == ("toy", 0.01) and last.lr < 0.001
    assert first.gradient_norm > 0 and first.samples_per_second > 0 and first.memory_mib > 10


def test_a_loaded_trainer_continues_to_the_same_losses_and_weights(tmp_path: Path) -> None:
    training: dict[str, object] = {"steps": 12}
    uninterrupted = make_trainer(training=training)
    expected = list(take_steps(uninterrupted, batches()))
    interrupted = make_trainer(training=training)
    list(itertools.islice(take_steps(interrupted, batches()), 5))
    saved = interrupted.save(tmp_path, best=None)
    interrupted.checkpoints.wait()
    torch.rand(100)  # random draws elsewhere must not matter
    resumed = make_trainer(training=training)
    resumed.load(saved)
    assert losses(list(take_steps(resumed, batches(start=5)))) == losses(expected[5:])
    for name, value in uninterrupted.ema.state_dict().items():
        assert torch.equal(value, resumed.ema.state_dict()[name]), name


def split(batch: Batch) -> list[Batch]:
    middle = len(batch.sample_ids) // 2
    return [
        Batch(batch.images[part], (), batch.dataset, batch.task, batch.sample_ids[part])
        for part in (slice(None, middle), slice(middle, None))
    ]


def test_two_accumulated_halves_make_the_step_of_the_full_batch() -> None:
    def run(accumulate: int) -> tuple[Trainer, list[StepRecord]]:
        trainer = freeze_mode(make_trainer(training={"steps": 4, "accumulate": accumulate}))
        full = itertools.islice(batches(), 4)
        parts = (part for batch in full for part in (split(batch) if accumulate == 2 else [batch]))
        return trainer, list(take_steps(trainer, parts))

    (full, full_records), (halves, half_records) = run(1), run(2)
    for expected, record in zip(full_records, half_records, strict=True):
        assert record.losses == pytest.approx(expected.losses, rel=1e-5)
        assert record.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-5)
    for a, b in zip(full.model.parameters(), halves.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_batches_of_mixed_sets_count_by_their_sampling_weights() -> None:
    def quiet(**data: object) -> Trainer:
        sections = {"optimizer": {"clip_norm": 1e9}, "data": data}
        return freeze_mode(make_trainer({"a": 3.0, "b": 1.0}, **sections))

    def gradients(trainer: Trainer) -> list[torch.Tensor]:
        return [p.grad.clone() for p in trainer.model.parameters() if p.grad is not None]

    pair = [replace(batch, dataset=name) for batch, name in zip(batches(), "ab", strict=False)]
    separate = [quiet(), quiet()]
    expected = [
        trainer.train_step(iter([batch])) for trainer, batch in zip(separate, pair, strict=True)
    ]
    mixed = quiet(mixing="all")
    record = mixed.train_step(iter(pair))
    assert record.dataset == "a+b"
    assert record.loss == pytest.approx(0.75 * expected[0].loss + 0.25 * expected[1].loss)
    for gradient, a, b in zip(gradients(mixed), *map(gradients, separate), strict=True):
        torch.testing.assert_close(gradient, 0.75 * a + 0.25 * b)


def test_the_gradient_is_clipped_to_its_norm() -> None:
    trainer = make_trainer(optimizer={"lr": 0.01, "clip_norm": 1e-3})
    record = trainer.train_step(batches())
    gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
    assert record.gradient_norm > 1e-3 and norm == pytest.approx(1e-3, rel=1e-3)


def test_nan_stops_with_the_sample_ids_and_leaves_the_weights() -> None:
    bad = next(batches(start=1))
    bad.images[2, 0, 0, 0] = float("nan")
    trainer, poisoned = make_trainer(), iter([next(batches()), bad])
    trainer.train_step(poisoned)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    with pytest.raises(
        SegkitError, match=r"a loss is not finite at step 2 .*image-1-0, image-1-1, image-1-2"
    ) as caught:
        trainer.train_step(poisoned)
    assert caught.value.exit_code == 1 and trainer.step == 1
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


def test_only_the_batch_with_the_infinite_loss_is_named() -> None:
    good = BatchRecord("toy", ("a",), 1.0, {"square": 1.0}, float("nan"))
    bad = BatchRecord("toy", ("b",), 1.0, {"square": float("inf")}, float("nan"))
    off = torch.amp.GradScaler("cpu", enabled=False)
    with pytest.raises(SegkitError) as caught:
        require_finite([good, bad], 0, off)
    assert "toy: b" in str(caught.value) and "toy: a" not in str(caught.value)
    with pytest.raises(SegkitError, match="a gradient is not finite"):
        require_finite([good], 0, off)
    # In half precision the scaler handles an infinite gradient, until it can scale no lower.
    require_finite([good], 0, torch.amp.GradScaler("cpu", init_scale=2.0, enabled=True))
    with pytest.raises(SegkitError, match="a gradient is not finite"):
        require_finite([good], 0, torch.amp.GradScaler("cpu", init_scale=1.0, enabled=True))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_trains_with_float32_weights(precision: str) -> None:
    trainer = make_trainer(training={"steps": 40, "precision": precision})
    records = list(take_steps(trainer, batches()))
    assert records[-1].loss < 0.5 * records[0].loss
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())


def test_data_that_ends_early_is_an_error() -> None:
    with pytest.raises(SegkitError, match="the data ended after 2 steps"):
        list(take_steps(make_trainer(), itertools.islice(batches(), 2)))


def test_a_frozen_backbone_gets_no_gradients_and_the_rest_trains_alike() -> None:
    """Freezing is exact: a backbone that trains at a vanishing rate gives the same weights."""
    weights = []
    for factor in (0.0, 1e-30):
        optimizer = {"backbone_lr_factor": factor, "clip_norm": 1e9, "lr": 0.01}
        trainer = make_trainer(optimizer=optimizer)
        before = [p.detach().clone() for p in trainer.model.backbone.parameters()]
        for _ in range(3):
            trainer.train_step(batches())
        after = list(trainer.model.backbone.parameters())
        torch.testing.assert_close(before, [p.detach() for p in after], rtol=0, atol=1e-20)
        assert all((p.grad is None) == (factor == 0) for p in after)
        assert all(p.requires_grad for p in trainer.model.head.parameters())
        state = trainer.model.state_dict().items()
        weights.append([value for name, value in state if not name.startswith("backbone.")])
    assert all(torch.equal(x, y) for x, y in zip(*weights, strict=True))
