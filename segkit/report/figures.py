"""Figures as SVG or plain HTML text; all colors are CSS variables of the page."""

from collections.abc import Callable, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def bars(rows: Sequence[tuple[str, float, str]], *, unit: str = "%") -> str:
    """A bar of each class, 0-100, with its figure and a remark."""
    lines = []
    for name, value, remark in rows:
        bar = f'<span class="bar"><span style="width:{value:.1f}%"></span></span>'
        cells = (
            f'<th scope="row">{escape(name)}</th><td>{bar}</td><td class="figure">{value:.1f}</td>'
        )
        lines.append(f'<tr>{cells}<td class="remark">{escape(remark)}</td></tr>')
    head = f'<thead><tr><th>class</th><th></th><th class="figure">{escape(unit)}</th><th></th></tr></thead>'
    return f'<div class="scroll tall"><table class="bars">{head}<tbody>{"".join(lines)}</tbody></table></div>'


def scatter(points: Sequence[tuple[str, float, float, float]]) -> str:
    """Classes by RQ (x) and SQ (y), 0-100, with curves of equal PQ; the area of a dot is the number
    of objects.

    Args:
        points: name, SQ, RQ, number of objects.
    """
    width, height, left, bottom = 640, 420, 44, 40
    low = 50.0 if all(sq >= 50 or rq == 0 for _, sq, rq, _ in points) else 0.0

    def x(value: float) -> float:
        return left + (width - left - 16) * value / 100

    def y(value: float) -> float:
        return 12 + (height - bottom - 12) * (100 - value) / (100 - low)

    parts = [
        _axis_x(x, height - bottom, "RQ (found at all)"),
        _axis_y(y, left, low, width - 16, "SQ (shape)"),
    ]
    for pq in (20, 40, 60, 80):
        reach = min(100.0, 100 * pq / low) if low else 100.0
        curve = [(rq, 100 * pq / rq) for rq in np.linspace(pq, reach, 40).tolist()]
        path = " ".join(f"{x(rq):.1f},{y(sq):.1f}" for rq, sq in curve)
        spot = f'x="{x(reach) - 6:.1f}" y="{y(curve[-1][1]) - 6:.1f}"'
        parts.append(f'<polyline class="iso" points="{path}"/>')
        parts.append(f'<text class="faint" {spot} text-anchor="end">PQ {pq}</text>')
    most = max((count for *_, count in points), default=1)
    for name, sq, rq, count in points:
        if rq > 0:
            radius = 3 + 9 * (count / most) ** 0.5
            title = f"{name}: SQ {sq:.1f}, RQ {rq:.1f}, PQ {sq * rq / 100:.1f}"
            dot = f'<circle class="dot" cx="{x(rq):.1f}" cy="{y(sq):.1f}" r="{radius:.1f}">'
            parts.append(f"{dot}<title>{escape(title)}</title></circle>")
    for name, sq, rq, _ in _labeled(points):
        anchor = "end" if rq > 80 else "start"
        parts.append(f'<text class="name" x="{x(rq) + (-8 if rq > 80 else 8):.1f}" y="{y(sq) + 4:.1f}" '
                     f'text-anchor="{anchor}">{escape(name)}</text>')  # fmt: skip
    return _svg(width, height, "Classes by recognition and segmentation quality", parts)


def _labeled(
    points: Sequence[tuple[str, float, float, float]],
) -> list[tuple[str, float, float, float]]:
    """Points to name: the largest first, as long as names stand apart."""
    chosen: list[tuple[str, float, float, float]] = []
    for point in sorted((p for p in points if p[2] > 0), key=lambda p: -p[3]):
        if all(abs(point[1] - other[1]) > 3 or abs(point[2] - other[2]) > 22 for other in chosen):
            chosen.append(point)
        if len(chosen) == 14:
            break
    return chosen


def histogram(values: Floats, low: float, high: float, bins: int, label: str) -> str:
    """How often values of a range occur; the mean is marked."""
    width, height, left, bottom = 640, 240, 44, 40
    counts, edges = np.histogram(values, bins, (low, high))
    most = max(int(counts.max(initial=0)), 1)
    step = (width - left - 16) / bins
    parts = []
    for i, count in enumerate(counts.tolist()):
        tall = (height - bottom - 16) * count / most
        x, y = left + i * step, height - bottom - tall
        title = f"{edges[i]:.2f}-{edges[i + 1]:.2f}: {count}"
        rect = f'<rect class="column" x="{x + 1:.1f}" y="{y:.1f}" width="{step - 2:.1f}" height="{tall:.1f}">'
        parts.append(f"{rect}<title>{title}</title></rect>")
    for tick in np.linspace(low, high, 6):
        x = left + (width - left - 16) * (float(tick) - low) / (high - low)
        parts.append(
            f'<text class="faint" x="{x:.1f}" y="{height - bottom + 16}" text-anchor="middle">{tick:.1f}</text>'
        )
    parts.append(f'<text class="faint" x="{left - 6}" y="22" text-anchor="end">{most}</text>')
    if len(values):
        mean = float(values.mean())
        x = left + (width - left - 16) * (mean - low) / (high - low)
        parts.append(
            f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="14" y2="{height - bottom}"/>'
        )
        side = "end" if mean > (low + high) / 2 else "start"
        shift = -5 if side == "end" else 5
        parts.append(
            f'<text class="name" x="{x + shift:.1f}" y="12" text-anchor="{side}">mean {mean:.3f}</text>'
        )
    middle = left + (width - left - 16) / 2
    parts.append(
        f'<text class="faint" x="{middle:.0f}" y="{height - 6}" text-anchor="middle">{escape(label)}</text>'
    )
    return _svg(width, height, label, parts)


def matrix(names: Sequence[str], shares: Floats) -> str:
    """A confusion matrix: rows are true classes, a row's shares (0-1) over the columns; the last is
    `nothing`."""
    cell, side, top = 30, 130, 104
    columns = [*names, "nothing"]
    width, height = side + cell * len(columns) + 60, top + cell * len(names) + 8
    parts = []
    for k, name in enumerate(columns):
        x = side + cell * (k + 0.6)
        turned = f'transform="rotate(-50 {x:.0f} {top - 8})"'
        parts.append(
            f'<text class="small" x="{x:.0f}" y="{top - 8}" {turned}>{escape(_short(name, 16))}</text>'
        )
    for i, name in enumerate(names):
        y = top + cell * i
        parts.append(
            f'<text class="small" x="{side - 8}" y="{y + 20}" text-anchor="end">{escape(_short(name, 18))}</text>'
        )
        for k, other in enumerate(columns):
            share = float(shares[i, k])
            title = f"{100 * share:.1f} % of {name} taken for {other}"
            kind = "right" if i == k else "wrong"
            square = f'<rect class="{kind}" x="{side + cell * k}" y="{y}" width="{cell - 2}" height="{cell - 2}"'
            parts.append(
                f'<g>{square} style="opacity:{0.06 + 0.94 * share:.3f}"/><title>{escape(title)}</title>'
            )
            if share >= 0.01:
                spot = f'x="{side + cell * k + cell / 2 - 1:.0f}" y="{y + 19}"'
                tone = "on" if share > 0.5 else "small"
                parts.append(
                    f'<text class="{tone}" {spot} text-anchor="middle">{100 * share:.0f}</text>'
                )
            parts.append("</g>")
    return f'<div class="scroll">{_svg(width, height, "Confusion between classes", parts, fixed=True)}</div>'


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _axis_x(place: Callable[[float], float], base: float, label: str) -> str:
    marks = []
    for value in range(0, 101, 20):
        marks.append(
            f'<text class="faint" x="{place(value):.1f}" y="{base + 16}" text-anchor="middle">{value}</text>'
        )
    middle = f'x="{place(50):.1f}" y="{base + 34}" text-anchor="middle"'
    return "".join([*marks, f'<text class="faint" {middle}>{escape(label)}</text>'])


def _axis_y(
    place: Callable[[float], float], left: float, low: float, right: float, label: str
) -> str:
    marks = []
    for value in np.linspace(low, 100, 6).tolist():
        at = place(value)
        marks.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        marks.append(
            f'<text class="faint" x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{value:.0f}</text>'
        )
    return "".join([*marks, f'<text class="faint" x="{left + 4}" y="26">{escape(label)}</text>'])


def _svg(
    width: float, height: float, label: str, parts: Sequence[str], *, fixed: bool = False
) -> str:
    size = f'width="{width}" height="{height}"' if fixed else ""
    box = f'viewBox="0 0 {width} {height}" {size} role="img" aria-label="{escape(label)}"'
    return f"<svg {box}>{''.join(parts)}</svg>"
