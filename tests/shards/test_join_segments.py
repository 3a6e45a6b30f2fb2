import numpy as np

from segkit.masks import rle
from segkit.metrics.class_mapping import ClassMap
from segkit.sample import Sample, Segment
from segkit.shards.join_segments import join_segments
from segkit.taxonomy import Category, Taxonomy

SIZE = (4, 8)
STUFF = Taxonomy("stuff", (Category(1, "wall", "stuff"),))


def part(first: int, last: int, **fields) -> Segment:
    """Columns first to last - 1 of a 4 x 8 image, with a polygon."""
    mask = np.zeros(SIZE, np.bool_)
    mask[:, first:last] = True
    box = (float(first), 0.0, float(last - first), 4.0)
    polygon = f"[[{first},0,{last},0,{last},4,{first},4]]"
    values = {"mask_from": "human", "source_polygon": polygon} | fields
    return Segment(1, "stuff", box, rle.encode(mask), float(mask.sum()), **values)


def join(*segments: Segment, score=min) -> tuple[Segment, ...]:
    return join_segments(segments, SIZE, is_region=lambda s: s.kind == "stuff", score=score)


def test_a_union_has_all_pixels_and_the_polygon_of_no_part():
    (union,) = join(part(0, 2, score=0.5), part(4, 7, score=0.75, mask_from="pseudo"))
    expected = np.zeros(SIZE, np.bool_)
    expected[:, [0, 1, 4, 5, 6]] = True
    assert np.array_equal(rle.decode(union.mask, *SIZE), expected)
    assert (union.box, union.area) == ((0.0, 0.0, 7.0, 4.0), 20.0)
    assert (union.source_polygon, union.mask_from, union.score) == (None, "derived", 0.5)


def test_predictions_of_one_stuff_class_are_a_union_with_the_highest_score():
    parts = (part(0, 2, score=0.5), part(4, 7, score=0.75), part(2, 3, is_crowd=True))
    mapped = ClassMap({1: 1}).map_sample(Sample("1", "1.jpg", 8, 4, parts), STUFF)
    region, crowd = mapped.segments
    assert (region.area, region.source_polygon, region.score) == (20.0, None, 0.75)
    assert not region.is_crowd
    assert crowd == parts[2]


def test_a_part_that_counts_makes_a_union_count():
    ignored, counted = part(0, 2, ignore=True), part(4, 7)
    assert [segment.ignore for segment in join(ignored, counted)] == [False]
    assert [segment.ignore for segment in join(ignored, part(2, 4, ignore=True))] == [True]


def test_boxes_without_a_mask_and_single_parts_stay_as_they_are():
    box = Segment(1, "stuff", (0.0, 0.0, 2.0, 4.0), None, 8.0)
    assert join(box, box, part(4, 7)) == (box, box, part(4, 7))
    assert join(part(0, 2, score=None), part(4, 7))[0].score is None
