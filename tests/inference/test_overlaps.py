"""Overlaps between masks, against the owner of each pixel by a loop over pixels."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.inference.box_masks import BoxMask
from segkit.inference.overlaps import occupied_pixels, resolve_overlaps
from segkit.inference.pseudolabel import pseudolabel
from segkit.inference.shape_teachers import ShapeTeacher
from segkit.masks.rle import decode, encode
from segkit.sample import Sample, Segment
from segkit.shards.header import Header
from segkit.shards.reader import ShardSet
from segkit.shards.writer import write_set
from tests.training.toy import write_toy_set

SIZE = (7, 9)


def box_mask(mask: np.ndarray, rows: slice, columns: slice) -> BoxMask:
    return BoxMask(SIZE, (rows, columns), mask[rows, columns].copy(), 0.75, 3)


@st.composite
def masks_of_an_image(draw: st.DrawFn) -> tuple[list[BoxMask | None], np.ndarray]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    masks: list[BoxMask | None] = []
    for _ in range(draw(st.integers(0, 6))):
        top, left = rng.integers(0, SIZE[0]), rng.integers(0, SIZE[1])
        rows = slice(top, int(rng.integers(top, SIZE[0])) + 1)
        columns = slice(left, int(rng.integers(left, SIZE[1])) + 1)
        mask = rng.random(SIZE) < rng.choice([0.0, 0.5, 1.0])
        masks.append(None if rng.random() < 0.2 else box_mask(mask, rows, columns))
    return masks, rng.random(SIZE) < rng.choice([0.0, 0.3])


@settings(max_examples=150)
@given(masks_of_an_image())
def test_each_pixel_belongs_to_the_smallest_mask_that_contains_it(
    case: tuple[list[BoxMask | None], np.ndarray],
) -> None:
    masks, occupied = case
    before = occupied.copy()
    resolved = resolve_overlaps(masks, occupied)
    assert (occupied == before).all() and len(resolved) == len(masks)
    owner = np.full(SIZE, -1)
    for y, x in np.ndindex(SIZE):
        claims = [
            (int(mask.mask.sum()), index)
            for index, mask in enumerate(masks)
            if mask is not None and mask.mask[y, x]
        ]
        if claims and not occupied[y, x]:
            owner[y, x] = min(claims)[1]
    for index, (old, new) in enumerate(zip(masks, resolved, strict=True)):
        if old is None or new is None:
            assert old is new
            continue
        assert (new.mask == (owner == index)).all()
        assert (new.place, new.score, new.class_index) == (old.place, old.score, old.class_index)


def test_masks_that_a_sample_has_keep_their_pixels() -> None:
    first, second = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    first[1:3, 1:3] = second[2:5, 2:5] = True
    thing = Segment(1, "thing", (0.0, 0.0, 3.0, 3.0), None, 9)
    masked = [
        replace(thing, mask=encode(mask), mask_from="human", is_crowd=crowd)
        for mask, crowd in ((first, False), (second, True))
    ]
    sample = Sample("a", "a.png", SIZE[1], SIZE[0], (thing, *masked))
    assert (occupied_pixels(sample) == first | second).all()
    assert not occupied_pixels(replace(sample, segments=(thing,))).any()


def test_a_layer_without_overlaps_has_the_same_pixels_once(tmp_path: Path) -> None:
    toy = write_toy_set(tmp_path / "toy")

    def crowded() -> Iterator[tuple[Sample, bytes]]:
        """A human mask, a box across it, a box within that one, and the smaller box again."""
        for sample in toy.samples():
            human = next(s for s in sample.segments if s.kind == "thing")
            bare = replace(human, mask=None, mask_from=None)
            boxes = [(0.0, 0.0, 60.0, 40.0), (30.0, 20.0, 20.0, 18.0), (30.0, 20.0, 20.0, 18.0)]
            rows = [replace(bare, box=box, area=box[2] * box[3]) for box in boxes]
            yield replace(sample, segments=(human, *rows)), toy.image_bytes(sample)

    header = Header(taxonomy=toy.taxonomy, kind="instance", name="crowded", command="test")
    data = write_set(tmp_path / "crowded", crowded(), header)

    def label(name: str, *, exclusive: bool) -> tuple[ShardSet, list[list[np.ndarray]], int]:
        teacher = ShapeTeacher("box")
        layer, counts = pseudolabel(teacher, data, tmp_path / name, exclusive=exclusive)
        maps = [
            [decode(s.mask, sample.height, sample.width) for s in sample.segments if s.mask]
            for sample in layer.samples()
        ]
        return layer, maps, counts.kept_as_boxes

    plain, overlapping, kept = label("plain", exclusive=False)
    layer, exclusive, boxes = label("exclusive", exclusive=True)
    assert (kept, boxes) == (0, len(toy)), "nothing remains for the second of two equal masks"
    for before, after in zip(overlapping, exclusive, strict=True):
        assert (np.sum(before, axis=0) > 1).any() and np.sum(after, axis=0).max() == 1
        assert (np.any(before, axis=0) == np.any(after, axis=0)).all()
        assert (before[0] == after[0]).all(), "the human mask stays"
    assert layer.manifest.arguments["resolve_overlaps"] is True
    assert "resolve_overlaps" not in plain.manifest.arguments
    for sample in layer.samples():
        assert all(s.area == decode(s.mask, 48, 64).sum() for s in sample.segments if s.mask)
