"""Draw the figures of a report as SVG or HTML text; colors are CSS variables of the page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.report.page import escape, tag

Floats = NDArray[np.float64]
WIDTH = 640
"""Width of the plots in pixels."""
LEFT, RIGHT, BOTTOM = 44, 16, 40
"""Margins of the plots in pixels."""
MAX_NAMES = 14
"""Points of a scatter plot that get a name."""


@dataclass(frozen=True)
class ClassPoint:
    """A class in the scatter plot."""

    name: str
    sq: float
    rq: float
    """0-100, as `sq`."""
    objects: int


def bars(rows: Sequence[tuple[str, float, str]], *, unit: str = "%") -> str:
    """Draw a bar for each class.

    Args:
        rows: name, value in 0-100, remark.
        unit: heading of the values.
    """
    lines = []
    for name, value, remark in rows:
        bar = tag("span", tag("span", "", style=f"width:{value:.1f}%"), class_="bar")
        cells = (
            tag("th", escape(name), scope="row"),
            tag("td", bar),
            tag("td", f"{value:.1f}", class_="figure"),
            tag("td", escape(remark), class_="remark"),
        )
        lines.append(tag("tr", "".join(cells)))
    headings = ("<th>class</th><th></th>", tag("th", escape(unit), class_="figure"), "<th></th>")
    body = tag("thead", tag("tr", "".join(headings))) + tag("tbody", "".join(lines))
    return tag("div", tag("table", body, class_="bars"), class_="scroll tall")


def scatter(points: Sequence[ClassPoint]) -> str:
    """Plot classes by RQ (x) and SQ (y), with curves of equal PQ.

    The area of a dot grows with the number of objects.
    """
    height = 420
    low = 50.0 if all(point.sq >= 50 or point.rq == 0 for point in points) else 0.0

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / 100

    def y(value: float) -> float:
        return 12 + (height - BOTTOM - 12) * (100 - value) / (100 - low)

    parts = [_axis_x(x, height - BOTTOM, "RQ (recognition)"), _axis_y(y, low, "SQ (shape)")]
    for pq in (20, 40, 60, 80):
        reach = min(100.0, 100 * pq / low) if low else 100.0
        curve = [(rq, 100 * pq / rq) for rq in np.linspace(pq, reach, 40).tolist()]
        path = " ".join(f"{x(rq):.1f},{y(sq):.1f}" for rq, sq in curve)
        parts.append(tag("polyline", class_="iso", points=path))
        parts.append(_text(x(reach) - 6, y(curve[-1][1]) - 6, f"PQ {pq}", anchor="end"))
    most = max((point.objects for point in points), default=1)
    for point in points:
        if point.rq > 0:
            radius = 3 + 9 * (point.objects / most) ** 0.5
            quality = point.sq * point.rq / 100
            title = f"{point.name}: SQ {point.sq:.1f}, RQ {point.rq:.1f}, PQ {quality:.1f}"
            label = tag("title", escape(title))
            parts.append(
                tag("circle", label, class_="dot", cx=x(point.rq), cy=y(point.sq), r=radius)
            )
    for point in _named_points(points):
        anchor, shift = ("end", -8) if point.rq > 80 else ("start", 8)
        parts.append(
            _text(x(point.rq) + shift, y(point.sq) + 4, point.name, style="name", anchor=anchor)
        )
    return _svg(WIDTH, height, "Classes by recognition and segmentation quality", parts)


def _named_points(points: Sequence[ClassPoint]) -> list[ClassPoint]:
    """Choose the points that get a name: the largest first, if names do not overlap."""
    named: list[ClassPoint] = []
    for point in sorted((p for p in points if p.rq > 0), key=lambda p: -p.objects):
        if all(abs(point.sq - p.sq) > 3 or abs(point.rq - p.rq) > 22 for p in named):
            named.append(point)
        if len(named) == MAX_NAMES:
            break
    return named


def histogram(values: Floats, low: float, high: float, bins: int, label: str) -> str:
    """Draw how often the values of a range occur, and mark their mean."""
    height = 240
    counts, edges = np.histogram(values, bins, (low, high))
    most = max(int(counts.max(initial=0)), 1)
    step = (WIDTH - LEFT - RIGHT) / bins

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)

    parts = []
    for i, count in enumerate(counts.tolist()):
        tall = (height - BOTTOM - 16) * count / most
        title = tag("title", f"{edges[i]:.2f}-{edges[i + 1]:.2f}: {count}")
        left, top = LEFT + i * step + 1, height - BOTTOM - tall
        parts.append(
            tag("rect", title, class_="column", x=left, y=top, width=step - 2, height=tall)
        )
    for tick in np.linspace(low, high, 6).tolist():
        parts.append(_text(x(tick), height - BOTTOM + 16, f"{tick:.1f}", anchor="middle"))
    parts.append(_text(LEFT - 6, 22, str(most), anchor="end"))
    if len(values):
        mean = float(values.mean())
        at = x(mean)
        parts.append(tag("line", class_="mark", x1=at, x2=at, y1=14, y2=height - BOTTOM))
        anchor, shift = ("end", -5) if mean > (low + high) / 2 else ("start", 5)
        parts.append(_text(at + shift, 12, f"mean {mean:.3f}", style="name", anchor=anchor))
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(_text(middle, height - 6, label, anchor="middle"))
    return _svg(WIDTH, height, label, parts)


def matrix(names: Sequence[str], shares: Floats) -> str:
    """Draw a confusion matrix.

    Args:
        names: of N classes.
        shares: (N, N + 1) in 0-1. Rows are true classes, columns predicted ones; the last column
            is `nothing`.
    """
    cell, side, top = 30, 130, 104
    columns = [*names, "nothing"]
    width, height = side + cell * len(columns) + 60, top + cell * len(names) + 8
    parts = []
    for k, name in enumerate(columns):
        x, y = side + cell * (k + 0.6), top - 8
        turn = f"rotate(-50 {x:.0f} {y})"
        text = escape(_short(name, 16))
        parts.append(tag("text", text, class_="small", x=x, y=y, transform=turn))
    for i, name in enumerate(names):
        y = top + cell * i
        parts.append(_text(side - 8, y + 20, _short(name, 18), style="small", anchor="end"))
        for k, predicted in enumerate(columns):
            share = float(shares[i, k])
            title = f"{100 * share:.1f} % of {name} predicted as {predicted}"
            square = tag(
                "rect",
                class_="right" if i == k else "wrong",
                x=side + cell * k,
                y=y,
                width=cell - 2,
                height=cell - 2,
                style=f"opacity:{0.06 + 0.94 * share:.3f}",
            )
            figure = ""
            if share >= 0.01:
                style = "on" if share > 0.5 else "small"
                middle = side + cell * k + cell / 2 - 1
                figure = _text(middle, y + 19, f"{100 * share:.0f}", style=style, anchor="middle")
            parts.append(tag("g", square + tag("title", escape(title)) + figure))
    drawing = _svg(width, height, "Confusion between classes", parts, fixed=True)
    return tag("div", drawing, class_="scroll")


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _text(x: float, y: float, content: str, *, style: str = "faint", anchor: str) -> str:
    return tag("text", escape(content), class_=style, x=x, y=y, text_anchor=anchor)


def _axis_x(place: Callable[[float], float], base: float, label: str) -> str:
    marks = [
        _text(place(value), base + 16, str(value), anchor="middle") for value in range(0, 101, 20)
    ]
    return "".join([*marks, _text(place(50), base + 34, label, anchor="middle")])


def _axis_y(place: Callable[[float], float], low: float, label: str) -> str:
    marks = []
    for value in np.linspace(low, 100, 6).tolist():
        y = place(value)
        marks.append(tag("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y))
        marks.append(_text(LEFT - 6, y + 4, f"{value:.0f}", anchor="end"))
    return "".join([*marks, _text(LEFT + 4, 26, label, anchor="start")])


def _svg(width: int, height: int, label: str, parts: Sequence[str], *, fixed: bool = False) -> str:
    size: dict[str, str | float] = {"width": width, "height": height} if fixed else {}
    return tag(
        "svg",
        "".join(parts),
        viewBox=f"0 0 {width} {height}",
        **size,
        role="img",
        aria_label=label,
    )
