"""Which samples a batch has: a pure function of the seed and the batch's number, so resuming needs
no saved position.

Each batch is of one data set, drawn at random or in turn; a step takes one batch or several. A data
set is an endless stream of epochs, each newly shuffled, and a batch takes the next samples of the
stream. All ranks draw the same set and take consecutive slices of one global batch.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FULL_SHUFFLE = 100_000
"""Images up to which an epoch is one permutation; in larger sets, successive reads should be close
on disk."""
BUFFER = 20_000
"""Images of a larger set that are shuffled together: those of a few dozen shards."""
_DRAW, _ORDER, _SAMPLE = 1, 2, 3  # purposes of a generator: no two share a seed


class Schedule:
    """The data set and samples of every step.

    Args:
        weights: sampling weights of the data sets, positive; they need not sum to 1.
        shard_rows: images in each shard of each data set.
        seed: of draws, orders and (through `sample_rng`) augmentation.
        round_robin: the data sets take turns, whatever their weights.
    """

    def __init__(
        self,
        weights: Sequence[float],
        shard_rows: Sequence[Sequence[int]],
        *,
        seed: int,
        round_robin: bool = False,
    ) -> None:
        self.seed, self.round_robin = seed, round_robin
        self._shard_rows = [tuple(rows) for rows in shard_rows]
        self._bounds = np.cumsum(weights) / np.sum(weights)
        self._datasets = np.zeros(0, np.int64)  # of each step drawn so far
        self._turns = np.zeros(0, np.int64)
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}  # set -> epoch and its order

    def draw(self, step: int) -> tuple[int, int]:
        """The data set of a step (0-based), and how many earlier steps drew it."""
        if self.round_robin:
            turn, dataset = divmod(step, len(self._bounds))
            return dataset, turn
        if step >= len(self._datasets):
            self._draw_steps(max(1024, 2 * (step + 1)))
        return int(self._datasets[step]), int(self._turns[step])

    def sample(self, dataset: int, position: int) -> int:
        """Index of the sample at a position in the stream of a data set."""
        epoch, index = divmod(position, sum(self._shard_rows[dataset]))
        if self._orders.get(dataset, (-1,))[0] != epoch:  # only the current epoch's order is kept
            rng = _rng(self.seed, _ORDER, dataset, epoch)
            self._orders[dataset] = (epoch, epoch_order(self._shard_rows[dataset], rng=rng))
        return int(self._orders[dataset][1][index])

    def sample_rng(self, dataset: int, position: int) -> np.random.Generator:
        """The generator of all randomness in the crop at a position, on any rank or worker."""
        return _rng(self.seed, _SAMPLE, dataset, position)

    def _draw_steps(self, steps: int) -> None:
        """Draw the first `steps` steps; a longer draw begins with the same steps."""
        draws = _rng(self.seed, _DRAW).random(steps)
        datasets = np.searchsorted(self._bounds, draws, side="right")
        self._datasets = np.minimum(datasets, len(self._bounds) - 1)
        self._turns = np.zeros(steps, np.int64)
        for dataset in range(len(self._bounds)):
            dataset_steps = np.flatnonzero(self._datasets == dataset)
            self._turns[dataset_steps] = np.arange(len(dataset_steps))


def positions(turn: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> range:
    """Positions in a data set's stream that a rank takes in the set's `turn`-th draw (0-based)."""
    start = (turn * world_size + rank) * batch_size
    return range(start, start + batch_size)


def epoch_order(
    shard_rows: Sequence[int],
    *,
    rng: np.random.Generator,
    full: int = FULL_SHUFFLE,
    buffer: int = BUFFER,
) -> NDArray[np.int64]:
    """A permutation of all samples.

    It is uniform for up to `full` samples; beyond that, shards are shuffled, then the samples of
    each buffer.

    The buffers follow each other instead of sliding, so the order needs no state.
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
