import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from segkit.data.batch import Batch
from segkit.errors import SegkitError
from segkit.training.loop import BatchRecord, StepRecord, require_finite, train_steps
from segkit.training.trainee import Trainee
from tests.training.standin import Learner, StandIn, batches, recipe


def make(**sections: dict[str, object]) -> Trainee:
    torch.manual_seed(0)
    model = StandIn()
    return Trainee(model, Learner(model), recipe(**sections))


def losses(records: list[StepRecord]) -> list[dict[str, float]]:
    return [record.losses for record in records]


def test_the_loss_falls_and_the_record_says_what_happened() -> None:
    records = list(train_steps(make(training={"steps": 60}), batches()))
    first, last = records[0], records[-1]
    assert [record.step for record in records] == list(range(1, 61))
    assert last.loss < 0.2 * first.loss
    assert first.loss == pytest.approx(first.losses["square"] + first.losses["size"])
    assert (first.dataset, first.lr) == ("toy", 0.01) and last.lr < 0.001
    assert first.gradient_norm > 0 and first.samples_per_second > 0 and first.memory_mib > 10


def test_a_restored_trainee_goes_on_to_the_same_losses_and_weights(tmp_path: Path) -> None:
    training: dict[str, object] = {"steps": 12}
    whole = make(training=training)
    expected = list(train_steps(whole, batches()))
    half = make(training=training)
    list(itertools.islice(train_steps(half, batches()), 5))
    saved = half.save(tmp_path, best=None)
    torch.rand(100)  # whatever else draws random numbers must not matter
    resumed = make(training=training)
    resumed.restore(saved)
    assert losses(list(train_steps(resumed, batches(start=5)))) == losses(expected[5:])
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, resumed.average.state_dict()[name]), name


def split(batch: Batch) -> list[Batch]:
    middle = len(batch.sample_ids) // 2
    return [
        Batch(batch.images[part], (), batch.dataset, batch.task, batch.sample_ids[part])
        for part in (slice(None, middle), slice(middle, None))
    ]


def test_accumulated_halves_make_the_step_of_the_whole_batch() -> None:
    def run(accumulate: int) -> tuple[Trainee, list[StepRecord]]:
        trainee = make(training={"steps": 4, "accumulate": accumulate})
        trainee.model.eval()
        trainee.learner.train = lambda mode=True: trainee.learner  # type: ignore[method-assign,assignment]
        given = itertools.islice(batches(), 4)
        parts = (part for batch in given for part in (split(batch) if accumulate == 2 else [batch]))
        return trainee, list(train_steps(trainee, parts))

    (big, big_records), (small, small_records) = run(1), run(2)
    for one, other in zip(big_records, small_records, strict=True):
        assert other.losses == pytest.approx(one.losses, rel=1e-5)
        assert other.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-5)
    for one, other in zip(big.model.parameters(), small.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_batches_of_mixed_sets_count_by_their_rates() -> None:
    def quiet() -> Trainee:
        trainee = make(optimizer={"clip_norm": 1e9})
        trainee.learner.eval()
        trainee.learner.train = lambda mode=True: trainee.learner  # type: ignore[method-assign,assignment]
        return trainee

    def gradients(trainee: Trainee) -> list[torch.Tensor]:
        return [
            parameter.grad.clone()
            for parameter in trainee.model.parameters()
            if parameter.grad is not None
        ]

    pair = [replace(batch, dataset=name) for batch, name in zip(batches(), "ab", strict=False)]
    alone = [quiet(), quiet()]
    expected = [
        next(train_steps(trainee, [batch])) for trainee, batch in zip(alone, pair, strict=True)
    ]
    mixed = quiet()
    found = next(train_steps(mixed, pair, {"a": 3.0, "b": 1.0}))
    assert found.dataset == "a+b"
    assert found.loss == pytest.approx(0.75 * expected[0].loss + 0.25 * expected[1].loss)
    for one, a, b in zip(gradients(mixed), *map(gradients, alone), strict=True):
        torch.testing.assert_close(one, 0.75 * a + 0.25 * b)


def test_the_gradient_is_clipped_to_its_norm() -> None:
    trainee = make(optimizer={"lr": 0.01, "clip_norm": 1e-3})
    record = next(train_steps(trainee, batches()))
    norm = math.sqrt(
        sum(float(p.grad.square().sum()) for p in trainee.model.parameters() if p.grad is not None)
    )
    assert record.gradient_norm > 1e-3 and norm == pytest.approx(1e-3, rel=1e-3)


def test_nan_stops_with_the_sample_ids_and_leaves_the_weights() -> None:
    def poisoned() -> "itertools.chain[Batch]":
        bad = next(batches(start=1))
        bad.images[2, 0, 0, 0] = float("nan")
        return itertools.chain(itertools.islice(batches(), 1), [bad])

    trainee = make()
    steps = train_steps(trainee, poisoned())
    next(steps)
    before = [parameter.detach().clone() for parameter in trainee.model.parameters()]
    with pytest.raises(
        SegkitError, match=r"a loss is not finite at step 2 .*image-1-0, image-1-1, image-1-2"
    ) as caught:
        next(steps)
    assert caught.value.exit_code == 1 and trainee.step == 1
    assert all(torch.equal(a, b) for a, b in zip(before, trainee.model.parameters(), strict=True))


def test_only_the_batch_with_the_infinite_loss_is_blamed() -> None:
    good = BatchRecord("toy", ("a",), 1.0, {"square": 1.0}, float("nan"))
    bad = BatchRecord("toy", ("b",), 1.0, {"square": float("inf")}, float("nan"))
    off = torch.amp.GradScaler("cpu", enabled=False)
    with pytest.raises(SegkitError) as caught:
        require_finite([good, bad], 0, off)
    assert "toy: b" in str(caught.value) and "toy: a" not in str(caught.value)
    with pytest.raises(SegkitError, match="a gradient is not finite"):
        require_finite([good], 0, off)
    # In half precision an infinite gradient is the scaler's to handle, until it can scale no lower.
    require_finite([good], 0, torch.amp.GradScaler("cpu", init_scale=2.0, enabled=True))
    with pytest.raises(SegkitError, match="a gradient is not finite"):
        require_finite([good], 0, torch.amp.GradScaler("cpu", init_scale=1.0, enabled=True))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_trains_with_float32_weights(precision: str) -> None:
    trainee = make(training={"steps": 40, "precision": precision})
    records = list(train_steps(trainee, batches()))
    assert records[-1].loss < 0.5 * records[0].loss
    assert all(parameter.dtype == torch.float32 for parameter in trainee.model.parameters())


def test_data_that_ends_early_is_an_error() -> None:
    with pytest.raises(SegkitError, match="the data ended after 2 steps"):
        list(train_steps(make(), itertools.islice(batches(), 2)))
