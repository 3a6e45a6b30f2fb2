"""Trace a mask as a single polygon: bridges of zero width join its parts and holes.

Time and memory are linear in the pixels of the mask's box, up to sorting.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.int32]
Pixels = NDArray[np.uint8]
Ints = NDArray[np.int64]
Pixel = tuple[int, int]
"""y, x"""


@dataclass(frozen=True)
class _Link:
    """A bridge between two rings, from a position in one to a position in the next."""

    ring: int
    position: int
    next_ring: int
    next_position: int

    def reverse(self) -> "_Link":
        return _Link(self.next_ring, self.next_position, self.ring, self.position)


def mask_polygon(mask: NDArray[np.bool_]) -> tuple[Points, int, int]:
    """Trace a mask as one closed polygon.

    Filled by the even-odd rule with its outline (`cv2.fillPoly`), it covers the mask and, of other
    pixels, those under a bridge between two parts. A polygon has at least three points; smaller
    parts repeat theirs.

    Args:
        mask: (H, W), not empty.

    Returns:
        (N, 2) pixel positions x, y; the number of parts; the number of holes.
    """
    import cv2

    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    box = np.pad(mask[y : y + height, x : x + width], 1).astype(np.uint8)
    contours, hierarchy = cv2.findContours(box, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings: list[Points] = [contour.reshape(-1, 2) for contour in contours]
    parents: list[int] = hierarchy[0][:, 3].tolist()  # of a hole, the outline of its part
    holes = sum(parent >= 0 for parent in parents)
    parts = len(rings) - holes
    links: list[_Link] = []
    if len(rings) > 1:
        places = _Places(rings, box.shape[1])
        links = [*_hole_links(box, rings, parents, places), *_part_links(box, parts, places)]
    polygon = np.concatenate(list(_walk(*_without_straight_points(rings, links))))
    if len(polygon) < 3:
        polygon = np.concatenate([polygon, *[polygon[-1:]] * (3 - len(polygon))])
    return polygon + np.array([x - 1, y - 1], np.int32), parts, holes


class _Places:
    """The positions of pixels in rings."""

    def __init__(self, rings: Sequence[Points], width: int) -> None:
        self._count, self._width = len(rings), width
        sizes = [len(ring) for ring in rings]
        self._ring = np.repeat(np.arange(len(rings)), sizes)
        self._position = np.concatenate([np.arange(size) for size in sizes])
        points = np.concatenate(rings).astype(np.int64)
        keys = (points[:, 1] * width + points[:, 0]) * len(rings) + self._ring
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def find(self, pixel: Pixel, ring: int = 0) -> tuple[int, int]:
        """Ring and position of a pixel: in this ring, or else in the first after it."""
        y, x = pixel
        index = np.searchsorted(self._keys, (y * self._width + x) * self._count + ring)
        entry = self._order[index]
        return int(self._ring[entry]), int(self._position[entry])


def _hole_links(
    box: Pixels, rings: Sequence[Points], parents: Sequence[int], places: _Places
) -> Iterator[_Link]:
    """Join each hole to the next ring of its part on the left; all pixels between are mask.

    The ring on the left begins in a row above, or further left in this row: there are no cycles.
    """
    import cv2

    holes = [ring for ring, parent in enumerate(parents) if parent >= 0]
    if not holes:
        return
    _, background = cv2.connectedComponents(1 - box, connectivity=4)
    # a contour of a hole begins on the left of the first pixel of the hole
    starts = {ring: (int(rings[ring][0, 1]), int(rings[ring][0, 0])) for ring in holes}
    hole_rings = {int(background[y, x + 1]): ring for ring, (y, x) in starts.items()}
    columns = np.arange(box.shape[1], dtype=np.int32)
    last_background = np.maximum.accumulate(np.where(box == 0, columns, 0), axis=1)  # up to each
    for ring, (y, x) in starts.items():
        end = int(last_background[y, x - 1]) + 1
        left = hole_rings.get(int(background[y, end - 1]))
        is_of_part = left is not None and parents[left] == parents[ring]
        target = left if left is not None and is_of_part else parents[ring]
        yield _Link(*places.find((y, end), target), *places.find((y, x), ring))


def _part_links(box: Pixels, parts: int, places: _Places) -> Iterator[_Link]:
    """Join the parts by a minimum spanning tree of short bridges.

    Where the regions of pixels nearest to two parts touch, the pixels of the parts to which they
    are nearest are the ends of a possible bridge.
    """
    import cv2

    if parts < 2:
        return
    size, kind = cv2.DIST_MASK_5, cv2.DIST_LABEL_PIXEL
    _, labels = cv2.distanceTransformWithLabels(1 - box, cv2.DIST_L2, size, labelType=kind)
    inside = np.flatnonzero(box)
    pixel_of_label = np.zeros(len(inside) + 1, np.int64)
    pixel_of_label[labels.ravel()[inside]] = inside
    nearest = pixel_of_label[labels]  # (H, W) flat index of a pixel of the mask
    _, part_of_pixel = cv2.connectedComponents(box, connectivity=8)
    part = part_of_pixel.ravel()[nearest]  # (H, W)
    first, second = [], []
    for before, after in (np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:]):
        differ = part[before] != part[after]
        first.append(nearest[before][differ])
        second.append(nearest[after][differ])
    for a, b in _spanning_tree(np.concatenate(first), np.concatenate(second), part_of_pixel):
        yield _Link(*places.find(a), *places.find(b))


def _spanning_tree(
    first: Ints, second: Ints, part_of_pixel: NDArray[np.int32]
) -> Iterator[tuple[Pixel, Pixel]]:
    """The ends of the bridges of a minimum spanning tree (Kruskal), of all possible bridges."""
    width, part = part_of_pixel.shape[1], part_of_pixel.ravel()
    across, down = first % width - second % width, first // width - second // width
    length = across**2 + down**2
    low, high = np.minimum(part[first], part[second]), np.maximum(part[first], part[second])
    order = np.lexsort((first, length, high, low))
    pairs = np.stack([low[order], high[order]])
    is_shortest = np.r_[True, (pairs[:, 1:] != pairs[:, :-1]).any(axis=0)]  # of each pair of parts
    shortest = order[is_shortest]
    parent = list(range(int(part.max()) + 1))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for index in shortest[np.argsort(length[shortest], kind="stable")].tolist():
        a, b = root(int(low[index])), root(int(high[index]))
        if a != b:
            parent[a] = b
            start, end = divmod(int(first[index]), width), divmod(int(second[index]), width)
            yield start, end


def _without_straight_points(
    rings: Sequence[Points], links: Sequence[_Link]
) -> tuple[list[Points], list[_Link]]:
    """The rings without the points at which they go straight on, except for ends of links."""
    kept = []
    for ring in rings:
        steps = np.roll(ring, -1, axis=0) - ring
        turns = (steps != np.roll(steps, 1, axis=0)).any(axis=1)
        turns[0] |= len(ring) == 1
        kept.append(turns)
    for link in links:
        kept[link.ring][link.position] = kept[link.next_ring][link.next_position] = True
    index = [np.cumsum(keep) - 1 for keep in kept]
    moved = [
        _Link(
            link.ring,
            int(index[link.ring][link.position]),
            link.next_ring,
            int(index[link.next_ring][link.next_position]),
        )
        for link in links
    ]
    return [ring[keep] for ring, keep in zip(rings, kept, strict=True)], moved


def _walk(rings: Sequence[Points], links: Sequence[_Link]) -> Iterator[Points]:
    """Go once around the longest ring, and at each link across, around the next ring, and back."""
    by_ring: list[list[_Link]] = [[] for _ in rings]
    for link in links:
        by_ring[link.ring].append(link)
        by_ring[link.next_ring].append(link.reverse())
    visited = set[int]()

    def visit(ring: int, entry: int) -> tuple[Points, Iterator[tuple[int, _Link]]]:
        """The points of a ring from its entry on, and the links on the way, each with its place."""
        visited.add(ring)
        links = [link for link in by_ring[ring] if link.next_ring not in visited]
        stops = [((link.position - entry) % len(rings[ring]), link) for link in links]
        stops.sort(key=lambda stop: stop[0])
        return np.roll(rings[ring], -entry, axis=0), iter(stops)

    longest = max(range(len(rings)), key=lambda ring: len(rings[ring]))
    stack = [(*visit(longest, 0), 0)]
    while stack:
        points, stops, start = stack.pop()
        stop = next(stops, None)
        if stop is not None:
            end, link = stop
            yield points[start : end + 1]
            stack += [(points, stops, end), (*visit(link.next_ring, link.next_position), 0)]
            continue
        yield points[start:]
        if stack:
            yield points[:1]
