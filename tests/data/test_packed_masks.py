"""Masks of eight pixels in a byte, against the dense masks."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.data.batch import PackedMasks


def random_masks(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, height, width, generator=generator) < 0.5


@given(st.integers(0, 3), st.integers(1, 5), st.integers(1, 20), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_masks_survive_and_every_pixel_is_found(
    count: int, height: int, width: int, seed: int
) -> None:
    dense = random_masks(count, height, width, seed)
    packed = PackedMasks.from_dense(dense)
    assert len(packed) == count and torch.equal(packed.dense(), dense)
    rows, pixels = torch.arange(count)[:, None], torch.arange(height * width)[None]
    assert torch.equal(packed.at(rows, pixels), dense.flatten(1))


def test_rows_pieces_and_concatenation() -> None:
    dense = random_masks(5, 6, 11)
    packed = PackedMasks.from_dense(dense)
    rows = torch.tensor([3, 0, 3])
    assert torch.equal(packed[rows].dense(), dense[rows])
    assert torch.equal(packed[1:3].dense(), dense[1:3])
    pieces = packed.split([2, 0, 3])
    assert [len(piece) for piece in pieces] == [2, 0, 3]
    assert torch.equal(PackedMasks.cat(pieces).dense(), dense)
    # each mask has pixels of its own
    some, pixels = torch.tensor([[4], [1]]), torch.tensor([[0, 65, 12], [7, 8, 8]])
    assert torch.equal(packed.at(some, pixels), dense.flatten(1)[some, pixels])


def test_masks_take_an_eighth_of_the_dense_memory_and_empty_ones_none() -> None:
    dense = random_masks(3, 64, 64)
    assert PackedMasks.from_dense(dense).bits.nbytes * 8 == dense.nbytes
    empty = PackedMasks.zeros(3, (64, 60))
    assert empty.bits.untyped_storage().nbytes() == 1
    assert torch.equal(empty.dense(), torch.zeros(3, 64, 60, dtype=torch.bool))
