"""Held-out images of a self-training: compared by the bytes of images that both sets hold."""

from dataclasses import replace
from pathlib import Path

import pytest

from segkit.errors import InputError
from segkit.sample import Sample
from segkit.shards.header import Header
from segkit.shards.leakage import image_digests
from segkit.shards.reader import ShardSet
from segkit.shards.split import assign_by_share
from segkit.shards.writer import write_view
from segkit.training.held_out import HELD_OUT_PART, check_held_out, draw_parts, hold_out
from tests.training.toy import write_toy_set

ARGUMENTS = {"share": 0.5, "seed": 0}


def pictures(shards: ShardSet) -> list[bytes]:
    return [shards.image_bytes(sample) for sample in shards.samples()]


def view(folder: Path, shards: ShardSet, samples: list[Sample]) -> ShardSet:
    rows = ((sample, shards) for sample in samples)
    return write_view(folder, rows, (shards,), Header.from_set(shards, "test", {}))


def held_out_of(data: list[ShardSet], boxes: ShardSet, out: Path, share: float = 0.5) -> list[int]:
    """Hold images back, check that nothing else has them; the number in each held-out set."""
    trained, held_out = hold_out(data, draw_parts(data, boxes, share, 0), out, ARGUMENTS)
    assert len(trained) == len(data)
    seen = {picture for shards in (*trained, boxes) for picture in pictures(shards)}
    for shards in held_out:
        assert not seen & {*pictures(shards)}
    return [len(shards) for shards in held_out]


def test_images_of_the_boxes_are_never_held_back(tmp_path: Path) -> None:
    data = write_toy_set(tmp_path / "masks")
    boxes = write_toy_set(tmp_path / "boxes", boxes_only=True, seeds=range(2, 8))
    assert held_out_of([data], boxes, tmp_path) == [1]  # half of the images 0 and 1


def test_images_of_another_set_or_twice_in_one_are_never_held_back(tmp_path: Path) -> None:
    a = write_toy_set(tmp_path / "a", seeds=range(6))
    b = write_toy_set(tmp_path / "b", seeds=range(4, 10))
    copies = [replace(sample, id=f"copy-{sample.id}") for sample in [*b.samples()][2:5]]
    twice = view(tmp_path / "twice", b, [*b.samples(), *copies])
    boxes = write_toy_set(tmp_path / "boxes", boxes_only=True, seeds=range(20, 22))
    assert held_out_of([a, twice], boxes, tmp_path) == [2, 1]  # half of 0-3, half of 9


def test_without_copies_the_draw_is_the_split_by_share(tmp_path: Path) -> None:
    data = write_toy_set(tmp_path / "masks", seeds=range(20))
    boxes = write_toy_set(tmp_path / "boxes", boxes_only=True, seeds=range(20, 22))
    for share in (0.1, 0.3, 0.34):
        (parts,) = draw_parts([data], boxes, share, 3)
        assert parts == assign_by_share(data, {"train": 1 - share, HELD_OUT_PART: share}, 3)


def test_nothing_to_hold_back_is_refused(tmp_path: Path) -> None:
    data = write_toy_set(tmp_path / "masks")
    boxes = write_toy_set(tmp_path / "boxes", boxes_only=True)
    with pytest.raises(InputError, match=r"in another set too, or twice; give --held-out SET"):
        draw_parts([data], boxes, 0.5, 0)
    others = write_toy_set(tmp_path / "others", boxes_only=True, seeds=range(6, 8))
    for share in (0.01, 0.99):
        with pytest.raises(InputError, match=r"cannot hold .* of 6 images back; give another"):
            draw_parts([data], others, share, 0)


def test_held_out_images_without_a_thing_are_refused(tmp_path: Path) -> None:
    """Only one image has a thing that is not a crowd; a draw of one image has it, or is refused."""
    toy = write_toy_set(tmp_path / "toy")
    samples = [
        sample
        if number < 2
        else replace(sample, segments=tuple(s for s in sample.segments if s.kind == "stuff"))
        for number, sample in enumerate(toy.samples())
    ]
    crowds = tuple(replace(segment, is_crowd=True) for segment in samples[0].segments)
    data = view(tmp_path / "few", toy, [replace(samples[0], segments=crowds), *samples[1:]])
    boxes = write_toy_set(tmp_path / "boxes", boxes_only=True, seeds=range(6, 8))
    outcomes = set()
    for seed in range(20):
        try:
            (parts,) = draw_parts([data], boxes, 0.17, seed)
        except InputError as error:
            assert "no thing with a mask in the 1 image that is held back" in str(error)
            outcomes.add("refused")
        else:
            assert parts is not None and parts["001"] == HELD_OUT_PART
            outcomes.add("drawn")
    assert outcomes == {"refused", "drawn"}


@pytest.mark.parametrize("trained", ["boxes", "masks"])
def test_a_held_out_set_with_images_that_are_trained_on_is_refused(
    tmp_path: Path, trained: str
) -> None:
    toy = write_toy_set(tmp_path / "toy", seeds=range(3, 9))
    held_out = view(tmp_path / "named", toy, [replace(s, id=f"n{s.id}") for s in toy.samples()])
    other = write_toy_set(tmp_path / trained, boxes_only=trained == "boxes")
    message = rf"shares 3 of its 6 images with \S+/{trained}/v1.* such as n003; `segkit leakage`"
    with pytest.raises(InputError, match=message):
        check_held_out(held_out, [other])
    check_held_out(held_out, [write_toy_set(tmp_path / "apart", seeds=range(9, 12))])


def test_an_earlier_draw_of_other_images_is_refused(tmp_path: Path) -> None:
    data = write_toy_set(tmp_path / "masks")
    boxes = write_toy_set(tmp_path / "boxes", boxes_only=True, seeds=range(6, 8))
    hold_out([data], draw_parts([data], boxes, 0.5, 0), tmp_path, ARGUMENTS)
    for seeds in (range(2, 8), range(6)):
        more = write_toy_set(tmp_path / "more", boxes_only=True, seeds=seeds)
        usable = len({*range(6)} - {*seeds}) > 0
        parts = draw_parts([data], more, 0.5, 0) if usable else [None]
        with pytest.raises(InputError, match=r"holds other images back.*give another --out"):
            hold_out([data], parts, tmp_path, ARGUMENTS)


def test_images_without_a_digest_in_their_row_are_read(tmp_path: Path) -> None:
    toy = write_toy_set(tmp_path / "toy")
    bare = [replace(s, image=replace(s.image, sha256=None)) for s in toy.samples()]
    assert image_digests(view(tmp_path / "bare", toy, bare)) == image_digests(toy)
