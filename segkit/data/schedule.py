"""Which samples a step sees: a pure function of (seed, step), so that a resumed run needs no
recorded position.

One data set is drawn a step, or they take turns; each set has its own endless stream of epochs,
every one a new shuffle, and a step takes the next samples of its set's stream. Ranks share the draw
and take consecutive pieces of one global batch.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FULL_SHUFFLE = 100_000
"""Up to so many images an epoch is one permutation; beyond it, reads should stay near each other on
the disk."""
BUFFER = 20_000
"""Images that are shuffled together in an epoch of a larger set: those of some tens of shards."""
_DRAW, _ORDER, _SAMPLE = 1, 2, 3  # what a generator is for; one seed never serves two purposes


class Schedule:
    """The samples of every step.

    Args:
        weights: sampling weights of the data sets, positive, of any sum.
        shard_rows: images in each shard, for each data set.
        seed: decides draws, orders and (through `sample_rng`) augmentation.
        in_turn: the data sets take turns, whatever their weights.
    """

    def __init__(
        self,
        weights: Sequence[float],
        shard_rows: Sequence[Sequence[int]],
        *,
        seed: int,
        in_turn: bool = False,
    ) -> None:
        self.seed, self.in_turn = seed, in_turn
        self._shard_rows = [tuple(rows) for rows in shard_rows]
        self._bounds = np.cumsum(weights) / np.sum(weights)
        self._sets = np.zeros(0, np.int64)
        self._turns = np.zeros(0, np.int64)
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def draw(self, step: int) -> tuple[int, int]:
        """The data set of a step (0-based), and how often it was drawn in the steps before."""
        if self.in_turn:
            turn, dataset = divmod(step, len(self._bounds))
            return dataset, turn
        if step >= len(self._sets):
            self._extend(max(1024, 2 * (step + 1)))
        return int(self._sets[step]), int(self._turns[step])

    def sample(self, dataset: int, position: int) -> int:
        """Index of the sample at a place of the stream of a data set."""
        epoch, place = divmod(position, sum(self._shard_rows[dataset]))
        if self._orders.get(dataset, (-1,))[0] != epoch:  # the current epoch's order is kept
            order = epoch_order(
                self._shard_rows[dataset], rng=_rng(self.seed, _ORDER, dataset, epoch)
            )
            self._orders[dataset] = (epoch, order)
        return int(self._orders[dataset][1][place])

    def sample_rng(self, dataset: int, position: int) -> np.random.Generator:
        """The generator of all randomness of the crop at a place of a stream, whoever makes it."""
        return _rng(self.seed, _SAMPLE, dataset, position)

    def _extend(self, steps: int) -> None:
        """Draw the first `steps` steps; the first draws stay the same however many follow."""
        draws = _rng(self.seed, _DRAW).random(steps)
        self._sets = np.minimum(
            np.searchsorted(self._bounds, draws, side="right"), len(self._bounds) - 1
        )
        self._turns = np.zeros(steps, np.int64)
        for dataset in range(len(self._bounds)):
            steps_of_set = np.flatnonzero(self._sets == dataset)
            self._turns[steps_of_set] = np.arange(len(steps_of_set))


def positions(turn: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> range:
    """The places in a data set's stream that a rank takes when the set is drawn for the `turn`-th
    time (0-based)."""
    start = (turn * world_size + rank) * batch_size
    return range(start, start + batch_size)


def epoch_order(
    shard_rows: Sequence[int],
    *,
    rng: np.random.Generator,
    full: int = FULL_SHUFFLE,
    buffer: int = BUFFER,
) -> NDArray[np.int64]:
    """A permutation of all samples: uniform up to `full` of them, else shards shuffled, then
    buffers of their samples.

    The buffers do not slide but follow each other, so the order needs no state.
    """
    total = sum(shard_rows)
    if total <= full:
        return rng.permutation(total)
    starts = np.cumsum([0, *shard_rows])
    shards = rng.permutation(len(shard_rows))
    order = np.concatenate([np.arange(starts[shard], starts[shard + 1]) for shard in shards])
    for begin in range(0, total, buffer):
        rng.shuffle(order[begin : begin + buffer])
    return order


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(key))
