import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from segkit.masks import rle
from segkit.masks.boxes import tight_boxes
from segkit.masks.run_lengths import decode_runs, first_malformed, join


def encode(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), masks=st.integers(0, 6))
def test_runs_are_those_of_the_dense_mask(seed, masks):
    rng = np.random.default_rng(seed)
    shapes = [(int(rng.integers(1, 90)), int(rng.integers(1, 90))) for _ in range(masks)]
    dense = [
        np.cumsum(rng.random(shape) < rng.choice([0.0, 0.02, 0.5]), axis=0) % 2 == 1
        for shape in shapes
    ]
    runs = decode_runs(*join([encode(mask) for mask in dense]))
    assert runs.total.tolist() == [mask.size for mask in dense]
    assert runs.area.tolist() == [int(mask.sum()) for mask in dense]
    for index, mask in enumerate(dense):
        painted = np.zeros(mask.size, bool)
        for start, end in zip(
            runs.start[runs.mask == index], runs.end[runs.mask == index], strict=True
        ):
            assert not painted[start:end].any()
            painted[start:end] = True
        assert (painted.reshape(mask.shape, order="F") == mask).all()


def test_long_counts_and_empty_and_full_masks():
    big = np.zeros((3000, 3000), bool)
    big[2999, 2999] = True
    runs = decode_runs(*join([encode(big), encode(np.zeros((2, 2))), encode(np.ones((2, 2)))]))
    assert runs.start.tolist() == [8_999_999, 0] and runs.end.tolist() == [9_000_000, 4]
    assert runs.total.tolist() == [9_000_000, 4, 4]


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), masks=st.integers(0, 5))
def test_boxes_are_tight(seed, masks):
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(1, 40, 2))
    dense = [rng.random((height, width)) < rng.choice([0.0, 0.01, 0.3, 1.0]) for _ in range(masks)]
    boxes = tight_boxes(decode_runs(*join([encode(mask) for mask in dense])), height)
    assert boxes == [rle.box(encode(mask), height, width) for mask in dense]


def _string(counts: list[int]) -> bytes:
    return rle.compress(np.array(counts))


@pytest.mark.parametrize(
    "mask",
    [
        b"",
        b"0",
        _string([200]),
        _string([767]),
        _string([10, 700, 59]),
        _string([768, 0, 5, -5]),
        _string([778, 0, -10]),
        _string([10, -5, 763]),
        _string([-10, 778]),
        _string([768])[:-1] + b"o",
        _string([768]) + b"p",
        _string([768]) + b" ",
        b"\xff" * 20,
        b"P" * 5,
        b"o" * 13 + b"0",
        _string([2**58] * 16),
    ],
)
def test_the_first_mask_that_does_not_fill_its_image_is_named(mask: bytes) -> None:
    sound = [_string([768]), _string([0, 768]), _string([3, 5, 10, 750]), _string([0, 3, 765])]
    pixels = np.full(len(sound) + 1, 768)
    assert first_malformed(sound, pixels[1:]) is None
    assert first_malformed([*sound, *sound], np.full(8, 768)) is None
    for place in range(len(sound) + 1):
        assert first_malformed([*sound[:place], mask, *sound[place:]], pixels) == place
    many = sound * 100
    assert first_malformed(many, np.full(400, 768)) is None
    for place in (63, 64, 65, 399):
        assert first_malformed([*many[:place], mask, *many[place:]], np.full(401, 768)) == place


@given(st.lists(st.binary(max_size=12), max_size=6), st.integers(1, 60))
def test_the_first_malformed_mask_is_the_first_that_decoding_refuses(
    masks: list[bytes], pixels: int
) -> None:
    def fills(mask: bytes) -> bool:
        try:
            return rle.decode(mask, 1, pixels).shape == (1, pixels)
        except ValueError:
            return False

    expected = next((k for k, mask in enumerate(masks) if not fills(mask)), None)
    assert first_malformed(masks, np.full(len(masks), pixels)) == expected
