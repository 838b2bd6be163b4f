"""Charts as inline SVG: themed, light, and drawn without anything from another host."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from playground.ui.components.markup import safe

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 14, 38
LOG_PARTS = (
    (1, 3),
    (1, 2, 5),
    (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9),
)  # of a power of ten, until two are in sight


@dataclass(frozen=True)
class Line:
    """A named curve; ``points`` are (x, y). ``tone`` is a class that gives its colour."""

    name: str
    points: Sequence[tuple[float, float]]
    tone: str = "one"


@dataclass(frozen=True)
class Point:
    """A named dot with a vertical interval (``low``, ``high``; None = not known)."""

    name: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    tone: str = ""


def lines(
    curves: Sequence[Line],
    x_label: str,
    y_label: str,
    per_cent: bool = False,
    logarithmic: bool = False,
    ticks: Sequence[tuple[float, str]] | None = None,
    mark: float | None = None,
) -> str:
    """Curves over a common axis; empty text where no curve has a point.

    Args:
        logarithmic: the x axis; every x must then be above 0.
        ticks: where the x axis is marked, and with what; None = at round values.
        mark: an x within the curves that a dashed line stands at.
    """
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return ""
    points = [point for curve in curves for point in curve.points]
    frame = _Frame.around(points, per_cent, logarithmic, ticks)
    drawn = []
    for curve in curves:
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in curve.points)
        dots = "".join(
            f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="{3 if len(curve.points) < 40 else 1.5}">'
            f"<title>{safe(curve.name)}: {_number(y, per_cent)} at {x:g}</title></circle>"
            for x, y in curve.points
        )
        drawn.append(f'<g class="pg-tone-{safe(curve.tone)}"><polyline points="{path}"/>{dots}</g>')
    keys = "".join(
        f'<span class="pg-tone-{safe(curve.tone)}"><i></i>{safe(curve.name)}'
        f" <b>{_number(curve.points[-1][1], per_cent)}</b></span>"
        for curve in curves
    )
    if mark is not None and min(x for x, _ in points) <= mark <= max(x for x, _ in points):
        drawn.append(_mark(frame.x(mark)))
    return _figure(frame.axes(x_label, y_label) + "".join(drawn), keys, f"{y_label} over {x_label}")


def scatter(
    points: Sequence[Point], x_label: str, y_label: str, logarithmic: bool = False, per_cent: bool = True
) -> str:
    """Dots with their intervals, y as ``per_cent`` or as it is; empty text where there are none."""
    points = [point for point in points if not logarithmic or point.x > 0]
    if not points:
        return ""
    edges = [
        (point.x, value)
        for point in points
        for value in (point.y, point.low, point.high)
        if value is not None
    ]
    frame = _Frame.around(edges, per_cent, logarithmic)
    drawn = []
    for number, point in enumerate(sorted(points, key=lambda point: point.x)):
        x, y = frame.x(point.x), frame.y(point.y)
        whisker = ""
        if point.low is not None and point.high is not None:
            whisker = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{frame.y(point.low):.1f}" y2="{frame.y(point.high):.1f}"/>'
        end = x > WIDTH - 120
        drawn.append(
            f'<g class="pg-tone-{safe(point.tone)}">{whisker}<circle cx="{x:.1f}" cy="{y:.1f}" r="6">'
            f"<title>{safe(point.name)}: {_number(point.y, per_cent)} at {point.x:g}</title></circle>"
            f'<text x="{x + (-10 if end else 10):.1f}" y="{y + (4 if number % 2 else -8):.1f}"'
            f' text-anchor="{"end" if end else "start"}">{safe(point.name)}</text></g>'
        )
    return _figure(frame.axes(x_label, y_label) + "".join(drawn), "", f"{y_label} against {x_label}")


def histogram(
    values: Sequence[float], x_label: str, mark: tuple[float, str] | None = None, bins: int = 24
) -> str:
    """How often which size occurs; values above the ``mark`` (place, name) are in another tone.

    Empty text where there is none. A mark far beyond all values is named, not drawn.
    """
    if not values:
        return ""
    low, high = min(values), max(values)
    width = max(1.0, math.ceil((high - low + 1) / bins))
    counts = [0] * (int((high - low) // width) + 1)
    for value in values:
        counts[int((value - low) // width)] += 1
    edges = [(low, 0.0), (low + width * len(counts), float(max(counts)))]
    near = mark is not None and low <= mark[0] <= low + 1.5 * (edges[1][0] - low)
    frame = _Frame.around([*edges, (mark[0], 0.0)] if near else edges, False)
    bars = []
    for number, count in enumerate(counts):
        if not count:
            continue
        left, top = low + number * width, frame.y(count)
        tone = "two" if mark is not None and left > mark[0] else "one"
        bars.append(
            f'<g class="pg-tone-{tone}"><rect x="{frame.x(left) + 0.5:.1f}" y="{top:.1f}" '
            f'width="{frame.x(left + width) - frame.x(left) - 1:.1f}" height="{frame.y(0) - top:.1f}">'
            f"<title>{left:g} to {left + width - 1:g}: {count:,}</title></rect></g>"
        )
    keys = ""
    if mark is not None:
        keys = f'<span class="pg-tone-two"><i></i>{safe(mark[1])} <b>{mark[0]:,.0f}</b></span>'
    if near:
        bars.append(_mark(frame.x(mark[0])))
    return _figure(frame.axes(x_label, "Count") + "".join(bars), keys, f"Count of {x_label.lower()}")


def _mark(x: float) -> str:
    return f'<line class="pg-mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'


def _figure(body: str, keys: str, name: str) -> str:
    legend = f'<figcaption class="pg-keys">{keys}</figcaption>' if keys else ""
    return (
        f'<figure class="pg-chart">{legend}<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{safe(name)}">{body}</svg></figure>'
    )


def _number(value: float, per_cent: bool) -> str:
    return f"{value * 100:.1f} %" if per_cent else f"{value:.3g}"


@dataclass(frozen=True)
class _Frame:
    """Maps values to the drawing."""

    left: float
    right: float
    low: float
    high: float
    per_cent: bool
    logarithmic: bool
    ticks: Sequence[tuple[float, str]] | None = None

    @classmethod
    def around(
        cls,
        points: Sequence[tuple[float, float]],
        per_cent: bool,
        logarithmic: bool = False,
        ticks: Sequence[tuple[float, str]] | None = None,
    ) -> "_Frame":
        xs = [math.log10(x) if logarithmic else x for x, _ in points]
        ys = [y for _, y in points]
        left, right = min(xs), max(xs)
        if logarithmic:
            left, right = left - 0.15, right + 0.15
        if left == right:
            left, right = left - 0.5, right + 0.5
        low, high = (0.0, max(0.1, *ys)) if per_cent else (min(ys), max(ys))
        margin = (high - low) * 0.08 or 0.1
        low, high = (0.0, min(1.0, high + margin)) if per_cent else (low - margin, high + margin)
        return cls(left, right, low, high, per_cent, logarithmic, ticks)

    def x(self, value: float) -> float:
        value = math.log10(value) if self.logarithmic else value
        return LEFT + (value - self.left) / (self.right - self.left) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.low) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)

    def axes(self, x_label: str, y_label: str) -> str:
        parts = []
        for value in _ticks(self.low, self.high, 4):
            y = self.y(value)
            words = f"{value * 100:g} %" if self.per_cent else f"{value:g}"
            parts.append(
                f'<line class="pg-grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            parts.append(
                f'<text class="pg-tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{words}</text>'
            )
        for value, words in self.ticks or [(value, f"{value:g}") for value in self._x_ticks()]:
            parts.append(
                f'<text class="pg-tick" x="{self.x(value):.1f}" y="{HEIGHT - BOTTOM + 16}"'
                f' text-anchor="middle">{safe(words)}</text>'
            )
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(
            f'<text class="pg-axis" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{safe(x_label)}</text>'
        )
        return "".join(parts)

    def _x_ticks(self) -> list[float]:
        if not self.logarithmic:
            return _ticks(self.left, self.right, 6)
        powers = range(math.floor(self.left), math.ceil(self.right) + 1)
        for parts in LOG_PARTS:
            steps = [10.0**power * part for power in powers for part in parts]
            found = [value for value in steps if self.left <= math.log10(value) <= self.right]
            if len(found) > 1:
                break
        return found


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round values within [low, high]."""
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = min((power * part for part in (1, 2, 2.5, 5, 10)), key=lambda size: abs(size - rough))
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]
