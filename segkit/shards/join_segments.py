"""Join the segments of an image that are one region in other classes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from segkit.masks import rle
from segkit.sample import Segment


def join_segments(
    segments: Iterable[Segment],
    size: tuple[int, int],
    *,
    is_region: Callable[[Segment], bool],
    score: Callable[[list[float]], float],
) -> tuple[Segment, ...]:
    """Join the regions of each class; its crowds become a second region.

    Args:
        segments: segments of one image.
        size: height and width of the image.
        is_region: whether a segment is part of its class's region; boxes without a mask never are.
        score: the score of a region from those of its parts, `min` or `max`.
    """
    groups: dict[tuple[int, bool] | int, list[Segment]] = {}
    for number, segment in enumerate(segments):
        is_part = segment.mask is not None and is_region(segment)
        key = (segment.class_id, segment.is_crowd) if is_part else number
        groups.setdefault(key, []).append(segment)
    return tuple(
        group[0] if len(group) == 1 else _union(group, size, score) for group in groups.values()
    )


def _union(
    group: Sequence[Segment], size: tuple[int, int], score: Callable[[list[float]], float]
) -> Segment:
    """All pixels of the group, without the polygons, which draw only some of them."""
    mask = rle.union([segment.mask for segment in group if segment.mask is not None], *size)
    scores = [segment.score for segment in group if segment.score is not None]
    provenance = {segment.mask_from for segment in group}
    return replace(
        group[0],
        box=rle.box(mask, *size),
        mask=mask,
        area=float(rle.area(mask, *size)),
        ignore=all(segment.ignore for segment in group),
        mask_from=group[0].mask_from if len(provenance) == 1 else "derived",
        score=score(scores) if scores else None,
        source_polygon=None,
    )
