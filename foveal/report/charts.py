"""Charts of the pages as inline SVG: they follow the colors of the page (light and dark) and need no script.

A series has the color of its side: the classes ``s0``, ``s1``, ... of ``charts.css``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from ..files.aliases import Floats

WIDTH, HEIGHT = 420, 270
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 10, 40
COLORS = 8
ROW, NAMES = 26, 118  # pixels of a row of a chart of intervals, and of its names
LONGEST_NAME = 18


@dataclass(frozen=True, eq=False)
class Series:
    """A named line, with a band where there is one."""

    name: str
    color: int
    x: Floats
    y: Floats
    low: Floats | None = None
    high: Floats | None = None
    dashed: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Frame:
    """The axes: titles and ranges; ``None``: from the data."""

    x: str
    y: str
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    whole: bool = False  # x is a whole number


def line_chart(series: Sequence[Series], frame: Frame, title: str, *, diagonal: bool = False) -> Markup:
    """A figure of lines with their bands. Values that are not finite interrupt a line."""
    shown = [s for s in series if np.isfinite(s.y).any()]
    if not shown:
        return Markup("")
    xs = np.concatenate([s.x for s in shown])
    bounds = [s.y for s in shown] + [b for s in shown for b in (s.low, s.high) if b is not None]
    scale = _Scale(frame.x_range or _range(xs), frame.y_range or _range(np.concatenate(bounds)))
    parts = [_axes(scale, frame)]
    if diagonal:
        (x0, x1), (y0, y1) = scale.x, scale.y
        parts.append(_path([(max(x0, y0), max(x0, y0)), (min(x1, y1), min(x1, y1))], scale, "rule"))
    for s in shown:
        parts += [_band(s, scale)]
    for s in shown:
        color = f"s{s.color % COLORS}"
        kind = f"line {color}{' dashed' if s.dashed else ''}"
        parts += [_path(run, scale, kind) for run in _pieces(s.x, s.y)]
        if s.dots or len(s.x) < 30:
            dots = [(x, y) for x, y in zip(s.x, s.y, strict=True) if math.isfinite(y)]
            parts += [_dot(scale, x, y, color, f"{s.name}: {y:.4g} at {x:.4g}") for x, y in dots]
    return _figure("".join(parts), title, [(s.name, s.color, s.dashed) for s in shown])


MOST = 400  # points of a line: more than it has pixels


def thinned(name: str, color: int, x: Sequence[float], y: Sequence[float], *, dashed: bool = False) -> Series:
    """A line through many points: means of equal pieces of them."""
    xs, ys = np.array(x, np.float64), np.array(y, np.float64)
    if len(xs) > MOST:
        ends = np.arange(0, len(xs), -(-len(xs) // MOST))
        xs, ys = (np.add.reduceat(v, ends) / np.diff(np.append(ends, len(v))) for v in (xs, ys))
    return Series(name, color, xs, ys, dashed=dashed)


@dataclass(frozen=True)
class Point:
    """A value of a side at a place, with an interval where there is one."""

    name: str
    color: int
    x: float
    y: float
    interval: tuple[float, float] | None = None


def point_chart(points: Sequence[Point], frame: Frame, title: str) -> Markup:
    """A figure of points with intervals."""
    if not points:
        return Markup("")
    ends = [v for p in points for v in (p.y, *(p.interval or ()))]
    y_range = frame.y_range or _range(np.array(ends), zero=False)
    scale = _Scale(frame.x_range or _range(np.array([p.x for p in points])), y_range)
    parts = [_axes(scale, frame)]
    for p in points:
        color = f"s{p.color % COLORS}"
        if p.interval is not None:
            parts.append(_path([(p.x, p.interval[0]), (p.x, p.interval[1])], scale, f"line {color}"))
        parts.append(_dot(scale, p.x, p.y, color, f"{p.name}: {p.y:.4g} at {p.x:.4g}", 5))
    return _figure("".join(parts), title, [(p.name, p.color, False) for p in points])


@dataclass(frozen=True)
class IntervalRow:
    """A difference with its interval; ``low`` is None where it is not judged."""

    name: str
    value: float
    low: float | None
    high: float | None
    verdict: str  # better, worse, cannot tell
    color: int


def interval_chart(rows: Sequence[IntervalRow], title: str, axis: str) -> Markup:
    """A figure of differences around 0, one a row."""
    if not rows:
        return Markup("")
    ends = [abs(v) for r in rows for v in (r.value, r.low, r.high) if v is not None]
    most = max([*ends, 1e-3]) * 1.08
    height = TOP + ROW * len(rows) + BOTTOM
    width = WIDTH - NAMES - RIGHT

    def at(value: float) -> float:
        return NAMES + width * (value + most) / (2 * most)

    parts = []
    for tick in _ticks(-most, most, 5):
        parts.append(f'<line class="grid" x1="{at(tick):.1f}" x2="{at(tick):.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        parts.append(_text(at(tick), height - BOTTOM + 15, _number(tick, sign=True), "middle"))
    parts.append(f'<line class="zero" x1="{at(0):.1f}" x2="{at(0):.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>')
    parts.append(_text(NAMES + width / 2, height - 6, axis, "middle"))
    for k, row in enumerate(rows):
        y = TOP + ROW * (k + 0.5)
        name = row.name if len(row.name) <= LONGEST_NAME else row.name[: LONGEST_NAME - 1] + "…"
        parts.append(_text(NAMES - 8, y + 4, name, "end", "ink"))
        color = f"s{row.color % COLORS} {'sure' if row.verdict != 'cannot tell' else 'unsure'}"
        said = f"{row.name}: {row.value:+.4f}"
        if row.low is not None and row.high is not None:
            parts.append(
                f'<line class="line {color}" x1="{at(row.low):.1f}" x2="{at(row.high):.1f}" y1="{y}" y2="{y}"/>'
            )
            said += f" ({row.low:+.4f} to {row.high:+.4f}), {row.verdict}"
        parts.append(_circle(at(row.value), y, color, said, 4.5))
    return _figure("".join(parts), title, [], height)


# ---------------------------------------------------------------------------------------------- inside
@dataclass(frozen=True)
class _Scale:
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        (x0, x1), (y0, y1) = self.x, self.y
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * (x - x0) / (x1 - x0),
            TOP + (HEIGHT - TOP - BOTTOM) * (1 - (y - y0) / (y1 - y0)),
        )


def _range(values: Floats, zero: bool = True) -> tuple[float, float]:
    """With a margin; ``zero``: from 0 where all are positive."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    low = 0.0 if zero and low >= 0 else low
    margin = 0.06 * (high - low) or max(abs(high) * 0.1, 0.05)
    return low if zero and low == 0 else low - margin, high + margin


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    step = (high - low) / count
    power = 10.0 ** math.floor(math.log10(step))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= step * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _number(value: float, sign: bool = False) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    if abs(value) < 1e-12:
        return "0"
    return f"{value:{'+' if sign else ''}.4g}".replace("e-0", "e-")


def _axes(scale: _Scale, frame: Frame) -> str:
    parts = []
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for tick in _ticks(*scale.y):
        y = scale.at(scale.x[0], tick)[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 6, y + 4, _number(tick), "end"))
    for tick in _ticks(*scale.x):
        if frame.whole and tick != round(tick):
            continue
        x = scale.at(tick, scale.y[0])[0]
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(_text(x, bottom + 15, _number(tick), "middle"))
    parts.append(_text((LEFT + right) / 2, HEIGHT - 6, frame.x, "middle"))
    middle = (TOP + bottom) / 2
    turned = f'transform="translate(11 {middle}) rotate(-90)"'
    parts.append(f'<text class="tick" text-anchor="middle" {turned}>{escape(frame.y)}</text>')
    return "".join(parts)


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _dot(scale: _Scale, x: float, y: float, color: str, said: str, radius: float = 3) -> str:
    return _circle(*scale.at(x, y), color, said, radius)


def _circle(x: float, y: float, color: str, said: str, radius: float) -> str:
    place = f'cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"'
    return f'<circle class="dot {color}" {place}><title>{escape(said)}</title></circle>'


def _path(points: Sequence[tuple[float, float]], scale: _Scale, kind: str) -> str:
    places = [scale.at(x, y) for x, y in points]
    return f'<path class="{kind}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in places)}"/>'


def _pieces(x: Floats, y: Floats) -> list[list[tuple[float, float]]]:
    """The points of each part of a line without a gap."""
    out: list[list[tuple[float, float]]] = [[]]
    for a, b in zip(x.tolist(), y.tolist(), strict=True):
        if math.isfinite(b):
            out[-1].append((a, b))
        elif out[-1]:
            out.append([])
    return [piece for piece in out if piece]


def _band(s: Series, scale: _Scale) -> str:
    if s.low is None or s.high is None:
        return ""
    use = np.isfinite(s.low) & np.isfinite(s.high)
    x, low, high = s.x[use].tolist(), s.low[use].tolist(), s.high[use].tolist()
    outline = [*zip(x, high, strict=True), *reversed(list(zip(x, low, strict=True)))]
    return _path(outline, scale, f"band s{s.color % COLORS}") if outline else ""


def _figure(inner: str, title: str, legend: Sequence[tuple[str, int, bool]], height: float = HEIGHT) -> Markup:
    marks = "".join(
        f'<span class="key s{color % COLORS}{" dashed" if dashed else ""}">{escape(name)}</span>'
        for name, color, dashed in dict.fromkeys(legend)
    )
    legend_text = f'<p class="keys">{marks}</p>' if marks else ""
    drawn = f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title)}">{inner}</svg>'
    return Markup(f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{drawn}{legend_text}</figure>')
