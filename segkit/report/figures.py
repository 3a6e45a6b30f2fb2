"""Compute the figures of a report: bars, scatter plots, histograms, confusion matrices."""

from collections.abc import Sequence
from dataclasses import dataclass
from unicodedata import east_asian_width

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from segkit.report.page import fragment
from segkit.runs.calibration import ReliabilityBin
from segkit.text.printable import printable

Floats = NDArray[np.float64]
WIDTH = 640
"""Width of the plots in pixels."""
LEFT, RIGHT, BOTTOM = 44, 16, 40
"""Margins of the plots in pixels."""
MAX_NAMES = 14
"""Points of a scatter plot that get a name."""
_CHARACTER, _LINE = 7.0, 13
"""Width of a character and height of a line in pixels, at most."""
_CELL = 30
"""Width and height of a cell of a confusion matrix in pixels."""


@dataclass(frozen=True)
class ClassPoint:
    """A class in the scatter plot."""

    name: str
    sq: float
    rq: float
    """0-100, as `sq`."""
    objects: int


@dataclass(frozen=True)
class _Text:
    """A text in a drawing, in pixels from the upper left corner."""

    x: float
    y: float
    text: str
    anchor: str = "middle"
    style: str = "faint"
    turn: float = 0
    """Degrees, clockwise."""


def bars(rows: Sequence[tuple[str, float, str]], *, unit: str = "%") -> Markup:
    """Draw a bar for each class.

    Args:
        rows: name, value in 0-100, remark.
        unit: heading of the values.
    """
    return fragment("bars", unit=unit, rows=rows)


def scatter(points: Sequence[ClassPoint]) -> Markup:
    """Plot classes by RQ (x) and SQ (y), with curves of equal PQ.

    The area of a dot grows with the number of objects.
    """
    height = 420
    low = 50.0 if all(point.sq >= 50 or point.rq == 0 for point in points) else 0.0

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / 100

    def y(value: float) -> float:
        return 12 + (height - BOTTOM - 12) * (100 - value) / (100 - low)

    base, ticks = height - BOTTOM, np.linspace(low, 100, 6).tolist()
    texts = [_Text(x(value), base + 16, str(value)) for value in range(0, 101, 20)]
    texts.append(_Text(x(50), base + 34, "RQ (recognition)"))
    texts += [_Text(LEFT - 6, y(value) + 4, f"{value:.0f}", "end") for value in ticks]
    texts.append(_Text(LEFT + 4, 26, "SQ (shape)", "start"))
    curves = []
    for pq in (20, 40, 60, 80):
        reach = min(100.0, 100 * pq / low) if low else 100.0
        rqs = np.linspace(pq, reach, 40).tolist()
        curves.append([(x(rq), y(100 * pq / rq)) for rq in rqs])
        texts.append(_Text(x(reach) - 6, curves[-1][-1][1] - 6, f"PQ {pq}", "end"))
    names: list[_Text] = []
    for point in sorted(points, key=lambda point: -point.objects):
        anchor, shift = ("end", -8) if point.rq > 60 else ("start", 8)
        name = _short(point.name, 24)
        text = _Text(x(point.rq) + shift, y(point.sq) + 4, name, anchor, "name")
        if point.rq > 0 and len(names) < MAX_NAMES and _fits(text, [*texts, *names]):
            names.append(text)
    most = max((point.objects for point in points), default=1)
    dots = [
        {
            "x": x(point.rq),
            "y": y(point.sq),
            "radius": 3 + 9 * (point.objects / most) ** 0.5,
            "title": f"{point.name}: SQ {point.sq:.1f}, RQ {point.rq:.1f}, "
            f"PQ {point.sq * point.rq / 100:.1f}",
        }
        for point in points
        if point.rq > 0
    ]
    return fragment(
        "scatter",
        width=WIDTH,
        height=height,
        title="Classes by recognition and segmentation quality",
        grid={"rows": [y(value) for value in ticks], "left": LEFT, "right": WIDTH - RIGHT},
        curves=curves,
        dots=dots,
        texts=[*texts, *names],
    )


def _fits(text: _Text, texts: Sequence[_Text]) -> bool:
    """Whether a text lies inside the plot and covers no other."""
    left, right = _extent(text)
    return (
        left >= LEFT
        and right <= WIDTH
        and all(
            abs(text.y - other.y) >= _LINE
            or right <= _extent(other)[0]
            or _extent(other)[1] <= left
            for other in texts
        )
    )


def _extent(text: _Text) -> tuple[float, float]:
    """Left and right end of a text, as wide as its characters may be."""
    width = _CHARACTER * sum(2 if east_asian_width(c) in "WF" else 1 for c in text.text)
    left = text.x - {"start": 0.0, "middle": width / 2, "end": width}[text.anchor]
    return left, left + width


def histogram(values: Floats, low: float, high: float, bins: int, label: str) -> Markup:
    """Draw how often the values of a range occur, and mark their mean."""
    height = 240
    counts, edges = np.histogram(values, bins, (low, high))
    most = max(int(counts.max(initial=0)), 1)
    step, base = (WIDTH - LEFT - RIGHT) / bins, height - BOTTOM

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)

    columns = []
    for i, count in enumerate(counts.tolist()):
        tall = (base - 16) * count / most
        title = f"{edges[i]:.2f}-{edges[i + 1]:.2f}: {count}"
        place = {"x": LEFT + i * step + 1, "y": base - tall, "width": step - 2, "height": tall}
        columns.append({"title": title, **place})
    ticks = np.linspace(low, high, 6).tolist()
    texts = [_Text(x(tick), base + 16, f"{tick:.1f}") for tick in ticks]
    texts += [_Text(LEFT - 6, 22, str(most), "end"), _Text(x((low + high) / 2), height - 6, label)]
    mark = None
    if len(values):
        mean = float(values.mean())
        mark = {"x": x(mean), "top": 14, "bottom": base}
        anchor, shift = ("end", -5) if mean > (low + high) / 2 else ("start", 5)
        texts.append(_Text(x(mean) + shift, 12, f"mean {mean:.3f}", anchor, "name"))
    return fragment(
        "histogram",
        width=WIDTH,
        height=height,
        title=label,
        columns=columns,
        mean=mark,
        texts=texts,
    )


def reliability(bins: Sequence[ReliabilityBin], label: str) -> Markup:
    """Plot the mean IoU of boxes (y) by their mean expected IoU (x), with the diagonal.

    The area of a dot grows with the number of boxes.

    Args:
        bins: groups of boxes.
        label: what the x axis shows.
    """
    side = 320.0
    right, base = LEFT + side, 12 + side

    def point(expected: float, iou: float) -> tuple[float, float]:
        return LEFT + side * expected, base - side * iou

    ticks = np.linspace(0, 1, 6).tolist()
    texts = [_Text(point(tick, 0)[0], base + 16, f"{tick:.1f}") for tick in ticks]
    texts += [_Text(LEFT - 6, point(0, tick)[1] + 4, f"{tick:.1f}", "end") for tick in ticks]
    texts += [_Text(LEFT + side / 2, base + 34, label), _Text(LEFT + 4, 26, "IoU", "start")]
    most = max((group.boxes for group in bins), default=1)
    dots = []
    for group in bins:
        x, y = point(group.expected, group.iou)
        title = f"{group.boxes} boxes: {group.expected:.3f} expected, IoU {group.iou:.3f}"
        radius = 3 + 9 * (group.boxes / most) ** 0.5
        dots.append({"x": x, "y": y, "radius": radius, "title": title})
    return fragment(
        "scatter",
        width=WIDTH,
        height=base + BOTTOM,
        title=f"Reliability: IoU by {label}",
        grid={"rows": [point(0, tick)[1] for tick in ticks], "left": LEFT, "right": right},
        curves=[[point(0, 0), point(1, 1)]],
        dots=dots,
        texts=texts,
    )


def matrix(names: Sequence[str], shares: Floats) -> Markup:
    """Draw a confusion matrix.

    Args:
        names: of N classes.
        shares: (N, N + 1) in 0-1. Rows are true classes, columns predicted ones; the last column
            is `nothing`.
    """
    side, top = 150, 104
    predicted = [*names, "nothing"]
    texts = [
        _Text(side + _CELL * (k + 0.6), top - 8, _short(name, 16), "start", "small", -50)
        for k, name in enumerate(predicted)
    ]
    cells = []
    for (i, k), share in np.ndenumerate(shares):
        x, y = side + _CELL * k, top + _CELL * i
        title = f"{100 * share:.1f} % of {names[i]} predicted as {predicted[k]}"
        opacity = 0.06 + 0.94 * share
        cells.append({"x": x, "y": y, "right": i == k, "opacity": opacity, "title": title})
        if share >= 0.01:
            style = "on" if share > 0.5 else "small"
            texts.append(_Text(x + _CELL / 2 - 1, y + 19, f"{100 * share:.0f}", style=style))
    texts += [
        _Text(side - 8, top + _CELL * i + 20, _short(name, 18), "end", "small")
        for i, name in enumerate(names)
    ]
    return fragment(
        "matrix",
        width=side + _CELL * len(predicted) + 60,
        height=top + _CELL * len(names) + 8,
        title="Confusion between classes",
        size=_CELL - 2,
        cells=cells,
        texts=texts,
    )


def _short(name: str, length: int) -> str:
    name = printable(name)
    return name if len(name) <= length else name[: length - 1] + "…"
