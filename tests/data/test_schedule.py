import numpy as np
import pytest

from segkit.data.schedule import Schedule, epoch_order, positions


def draws(schedule: Schedule, steps: range) -> list[tuple[int, int]]:
    return [schedule.draw(step) for step in steps]


def test_sets_are_drawn_by_their_weights() -> None:
    schedule = Schedule([1, 3, 4], [[5], [5], [5]], seed=7)
    sets = np.array([dataset for dataset, _ in draws(schedule, range(8000))])
    shares = np.bincount(sets, minlength=3) / 8000
    # four standard deviations of a binomial fraction
    assert shares == pytest.approx([0.125, 0.375, 0.5], abs=4 * np.sqrt(0.25 / 8000))
    runs = np.mean(sets[1:] == sets[:-1])  # draws are independent: no alternation
    assert runs == pytest.approx(0.125**2 + 0.375**2 + 0.5**2, abs=0.025)


def test_round_robin_draws_each_set_once_a_round() -> None:
    schedule = Schedule([1, 3, 4], [[5], [5], [5]], seed=7, round_robin=True)
    assert draws(schedule, range(7)) == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 2)]


def test_a_step_does_not_depend_on_the_first_step() -> None:
    full = Schedule([1, 2], [[3, 4], [9]], seed=1)
    late = Schedule([1, 2], [[3, 4], [9]], seed=1)
    assert draws(full, range(5000))[4321:] == draws(late, range(4321, 5000))
    assert [full.sample(0, position) for position in range(40)][33] == late.sample(0, 33)
    assert full.sample_rng(1, 5).random() == late.sample_rng(1, 5).random()
    assert (
        full.sample_rng(1, 5).random()
        != full.sample_rng(1, 6).random()
        != full.sample_rng(0, 5).random()
    )
    assert draws(Schedule([1, 2], [[3, 4], [9]], seed=2), range(50)) != draws(full, range(50))


def test_turns_count_the_earlier_steps_of_the_set() -> None:
    schedule = Schedule([1, 2, 3], [[3], [3], [3]], seed=3)
    counts = [0, 0, 0]
    for dataset, turn in draws(schedule, range(3000)):
        assert turn == counts[dataset]
        counts[dataset] += 1


def test_every_epoch_is_a_new_permutation() -> None:
    schedule = Schedule([1.0], [[4, 3, 6]], seed=0)
    epochs = [[schedule.sample(0, epoch * 13 + index) for index in range(13)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(13)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_ranks_share_a_global_batch_without_repetition() -> None:
    single = [index for turn in range(6) for index in positions(turn, batch_size=6)]
    assert single == list(range(36))
    shared = [
        index
        for turn in range(6)
        for r in range(3)
        for index in positions(turn, batch_size=2, rank=r, world_size=3)
    ]
    assert shared == single


def test_order_of_large_sets_is_a_local_permutation() -> None:
    shards = [90, 110, 100, 100, 50, 150, 100, 100]
    order = epoch_order(shards, rng=np.random.default_rng(0), full=100, buffer=200)
    assert sorted(order.tolist()) == list(range(800))
    shard_of = np.repeat(np.arange(8), shards)[order]
    touched = [len(set(shard_of[begin : begin + 200].tolist())) for begin in range(0, 800, 200)]
    assert max(touched) <= 4  # a buffer of two shards' size spans only a few
    assert not (np.diff(shard_of) == 0).mean() > 0.8  # within it shards are mixed
    first = [
        np.repeat(np.arange(8), shards)[
            epoch_order(shards, rng=np.random.default_rng(s), full=100, buffer=200)[0]
        ]
        for s in range(60)
    ]
    assert set(np.array(first).tolist()) == set(range(8))


def test_order_of_small_sets_is_uniform() -> None:
    orders = np.array(
        [epoch_order([2, 2], rng=np.random.default_rng(seed)) for seed in range(4800)]
    )
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24 and counts.min() > 130 and counts.max() < 275
