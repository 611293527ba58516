"""Curves as SVG text: which ticks, which scale, which points, which path. Numbers in, a string out, nothing else."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

WIDTH, HEIGHT = 400, 196  # of the view box; what holds it decides how large it is drawn
RIGHT, TOP, BOTTOM = 14, 8, 34  # margins; the left one depends on the labels
CHARACTER = 6.2  # the width of a digit of a label
MAX_POINTS = 2000  # a longer series is thinned, to THINNED_BINS bins
THINNED_BINS, MEAN_BINS = 500, 150
COLOURS = 8  # of curves that are neither train nor eval, see `page.STYLE`

Point = tuple[float, float | None]
"""x and y; a y of None is a gap in the curve."""


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        label: its name in the legend, such as train.
        points: in the order they were logged.
        band: x, and the lower and the upper end of what several runs span there; None for one run.
    """

    label: str
    points: Sequence[Point]
    band: Sequence[tuple[float, float, float]] | None = None

    @property
    def known(self) -> list[tuple[float, float]]:
        """The points without the gaps."""
        return [(x, y) for x, y in self.points if y is not None]


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high`, low < high; both positive if `log`."""

    low: float
    high: float
    log: bool = False

    def at(self, value: float) -> float:
        """Where on the axis a value lies: 0 at `low`, 1 at `high`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, count: int) -> list[float]:
        """About `count` round values on the axis."""
        return decades(self.low, self.high, count) if self.log else nice_ticks(self.low, self.high, count)


def number(value: Any) -> float | None:
    """A number that can be drawn, as a float: finite, below 1e150, and 0 if closer to it than 1e-150. None of anything
    else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e150 < value < 1e150:
        return None  # NaN fails both comparisons
    return float(value) if abs(value) > 1e-150 else 0.0


def value_text(value: float | None) -> str:
    """A value as one reads it: 0.9778, 1,965, 2.53e-6; a dash if there is none."""
    if value is None:
        return "–"  # noqa: RUF001
    if abs(value) < 1e15 and (value == int(value) or abs(value) >= 1e3):
        return f"{value:,.0f}"
    return _short_exponent(f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.3g}")


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """The multiples in [low, high] of the 1, 2 or 5 times a power of ten that gives nearest to `count` of them.

    Example:
        0, 10, 5 -> 0, 2, 4, 6, 8, 10;  0.13, 0.58, 4 -> 0.2, 0.3, 0.4, 0.5.
    """
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m, below in ((1, 2), (2, 10), (5, 50), (10, 200)) if raw / power < math.sqrt(below))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def decades(low: float, high: float, count: int) -> list[float]:
    """The powers of ten in [low, high], evenly skipped to at most `count`.

    Example:
        0.02, 300, 4 -> 0.1, 1, 10, 100;  1, 1e8, 4 -> 1, 1e3, 1e6.
    """
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    skip = math.ceil((last - first + 1) / count)
    return [float(f"1e{i}") for i in range(first, last + 1, max(1, skip))]


def tick_text(value: float, step: float) -> str:
    """A tick's label with as many digits as ticks `step` apart need: 50,000; 0.15; 2.5e-6."""
    places = -math.floor(math.log10(step) + 1e-9)
    if value == 0:
        return "0"
    if places > 6 or abs(value) >= 1e10:
        return _short_exponent(f"{value:.{max(0, math.floor(math.log10(abs(value)) + 1e-9) + places)}e}")
    return f"{value:,.{max(0, places)}f}"


def wants_log(values: Sequence[float]) -> bool:
    """Whether a linear scale would hide most of the curve: all positive, over two decades, and the lower half of the
    values within the lowest twentieth of the range. (A learning rate that decays along a cosine stays linear.)"""
    if len(values) < 3 or min(values) <= 0 or max(values) / min(values) < 100:
        return False
    return statistics.median(values) <= min(values) + (max(values) - min(values)) / 20


def value_axis(values: Sequence[float]) -> Axis:
    """An axis that shows all values, with a little room; noise in the fourth digit is not blown up to a curve, and a
    constant has a tenth of itself above and below."""
    low, high = min(values), max(values)
    if wants_log(values):
        room = (high / low) ** 0.04
        return Axis(low / room, high * room, log=True)
    least = (0.2 if low == high else 1e-3) * max(abs(low), abs(high)) or 1.0
    if high - low < least:
        low, high = (low + high - least) / 2, (low + high + least) / 2
    room = 0.05 * (high - low)
    return Axis(low - room, high + room)


def thin(points: Sequence[Point], bins: int) -> Sequence[Point]:
    """Fewer points that look the same: of each of `bins` runs of points the lowest, the highest and a gap if it has
    one; the first and the last of all. Extremes survive, in order."""
    kept = {0, len(points) - 1} if points else set()
    for i in range(bins):
        run = range(i * len(points) // bins, (i + 1) * len(points) // bins)
        known = [(y, j) for j in run if (y := points[j][1]) is not None]
        gap = next((j for j in run if points[j][1] is None), None)
        kept |= {min(known)[1], max(known)[1]} if known else set()
        kept |= {gap} if gap is not None else set()
    return [points[j] for j in sorted(kept)]


def bin_means(points: Sequence[Point], bins: int) -> Sequence[Point]:
    """The mean x and y of each of `bins` runs of points; a gap where a run knows none."""
    means: list[Point] = []
    for i in range(bins):
        run = points[i * len(points) // bins : (i + 1) * len(points) // bins]
        known = [y for _, y in run if y is not None]
        if run:
            means.append((statistics.fmean(x for x, _ in run), statistics.fmean(known) if known else None))
    return means


def path(points: Sequence[Point]) -> str:
    """The `d` of an SVG path through points in view box units; a y of None lifts the pen, and a point between two
    gaps is a line of no length, which a round cap shows as a dot.

    Example:
        (0, 1), (2, 3), (4, None), (5, 6) -> M0 1L2 3M5 6h0.
    """
    parts: list[str] = []
    pen = 0  # points since it was set down
    for x, y in points:
        if y is None:
            parts += ["h0"] if pen == 1 else []
            pen = 0
        else:
            parts.append(f"{'L' if pen else 'M'}{_coordinate(x)} {_coordinate(y)}")
            pen += 1
    return "".join([*parts, *(["h0"] if pen == 1 else [])])


def best_index(values: Sequence[float], mode: str, min_delta: float = 0.0) -> int | None:
    """Which value the loop counts as best: one that none improves on by more than `min_delta`, of equals the last; None
    if there is no value, or `mode` is neither `min` nor `max`."""
    if mode not in ("min", "max"):
        return None
    sign = 1.0 if mode == "max" else -1.0
    best = None
    for i, value in enumerate(values):
        if best is None or value == values[best] or sign * (value - values[best]) > min_delta:
            best = i
    return best


def panel(title: str, series: Sequence[Series], x_axis: Axis, x_name: str, best: tuple[float, float] | None) -> str:
    """A figure: a caption with a legend, and the curves of one quantity.

    Args:
        title: the quantity; escaped here, like all texts.
        series: at least one, with at least one known point between them.
        x_axis: the same for all panels, so that they line up.
        best: x and y of the evaluation to mark.
    """
    drawn = [replace(s, points=thin(s.points, THINNED_BINS)) if _is_long(s) else s for s in series if s.known]
    trends = [bin_means(s.points, MEAN_BINS) if _is_long(s) else None for s in series if s.known]
    ends = [end for s in drawn for _, *both in s.band or () for end in both]
    y_axis = value_axis([y for s in drawn for _, y in s.known] + ends)
    y_ticks = y_axis.ticks(5)
    labels = [tick_text(t, t if y_axis.log else y_ticks[1] - y_ticks[0]) for t in y_ticks]
    left = max(50.0, 12 + CHARACTER * max(map(len, labels)))

    def to_x(x: float) -> float:
        return left + x_axis.at(x) * (WIDTH - RIGHT - left)

    def to_y(y: float) -> float:
        return HEIGHT - BOTTOM - y_axis.at(y) * (HEIGHT - BOTTOM - TOP)

    def place(points: Sequence[Point]) -> list[Point]:
        return [(to_x(x), None if y is None else to_y(y)) for x, y in points]

    curves = "".join(
        _band(_kind(s, i), place([(x, y) for x, y, _ in s.band]), place([(x, y) for x, _, y in s.band]))
        for i, s in enumerate(drawn)
        if s.band
    ) + "".join(
        _curve(_kind(s, i), place(s.points), place(trend) if trend else None)
        for i, (s, trend) in enumerate(zip(drawn, trends, strict=True))
    )
    ring = f'<circle class="best" cx="{to_x(best[0]):.1f}" cy="{to_y(best[1]):.1f}" r="5"/>' if best else ""
    data = [[s.label, [x for x, _ in s.known], [float(f"{y:.6g}") for _, y in s.known]] for s in drawn]
    said = ", ".join(f"{s.label} ends at {value_text(s.known[-1][1])}" for s in drawn)
    legend = _legend(title, drawn, best, y_axis.log, x_name)
    domain = json.dumps([x_axis.low, x_axis.high, left, WIDTH - RIGHT])
    return (
        f"<figure class=panel><figcaption><b>{escape(title)}</b>{legend}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title}: {said}")}" '
        f'data-x="{escape(x_name)}" data-domain="{domain}" data-series="{escape(json.dumps(data))}">'
        f"{y_grid([(to_y(t), text) for t, text in zip(y_ticks, labels, strict=True)], left)}"
        f"{x_ticks(x_axis, to_x, x_name, left)}{curves}{ring}"
        f'<path class="cross" d="M0 {TOP}V{HEIGHT - BOTTOM}"/></svg></figure>'
    )


def _curve(kind: str, points: Sequence[Point], trend: Sequence[Point] | None) -> str:
    """A line; of a long series its trend, over the band from its lowest to its highest points; few evaluations and a
    single point have dots."""
    if trend:
        return f'<path class="line {kind} dense" d="{path(points)}"/><path class="line {kind}" d="{path(trend)}"/>'
    known = [(x, y) for x, y in points if y is not None]
    dots = path([p for x, y in known for p in ((x, y), (x, None))])
    with_dots = len(known) <= (40 if kind == "eval" else 1)
    line = f'<path class="line {kind}" d="{path(points)}"/>'
    return line + (f'<path class="dots {kind}" d="{dots}"/>' if with_dots else "")


def _band(kind: str, low: Sequence[Point], high: Sequence[Point]) -> str:
    """The area between two curves."""
    return f'<path class="band {kind}" d="{path([*low, *reversed(high)])}Z"/>'


def _is_long(series: Series) -> bool:
    return len(series.points) > MAX_POINTS


def _kind(series: Series, index: int) -> str:
    """The CSS class of a series; nothing of its label reaches it."""
    return series.label if series.label in ("train", "eval") else f"other{index % COLOURS}"


def _legend(title: str, series: Sequence[Series], best: tuple[float, float] | None, log: bool, x_name: str) -> str:
    keys = []
    for i, s in enumerate(series):
        label = "last" if title.startswith(f"{s.label}/") else s.label
        last = value_text(s.known[-1][1])
        keys.append(f'<span class="key {_kind(s, i)}">{escape(label)} <b>{last}</b></span>')
    if best:
        place = f"at {value_text(best[0])} {escape(x_name)}"
        keys.append(f'<span class="key ring">best <b>{value_text(best[1])}</b> {place}</span>')
    return "".join([*keys, "<span>log scale</span>" if log else ""])


def y_grid(ticks: Sequence[tuple[float, str]], left: float) -> str:
    """Lines across a plot at heights, each with its label."""
    lines = "".join(f"M{left:.1f} {y:.1f}H{WIDTH - RIGHT}" for y, _ in ticks)
    texts = "".join(f'<text x="{left - 7:.1f}" y="{y + 3.8:.1f}" text-anchor="end">{t}</text>' for y, t in ticks)
    return f'<path class="grid" d="{lines}"/>{texts}'


def x_ticks(axis: Axis, to_x: Callable[[float], float], name: str, left: float) -> str:
    """The labels of an axis below a plot, as many as have room, and its name."""
    for count in (5, 4, 3, 2, 1):
        ticks = axis.ticks(count)
        step = ticks[1] - ticks[0] if len(ticks) > 1 else axis.high - axis.low
        widest = CHARACTER * max(len(tick_text(t, step)) for t in ticks)
        if len(ticks) == 1 or to_x(ticks[1]) - to_x(ticks[0]) > widest + 14:
            break
    y = HEIGHT - BOTTOM + 15
    texts = "".join(
        f'<text x="{min(to_x(t), WIDTH - widest / 2):.1f}" y="{y}" text-anchor="middle">{tick_text(t, step)}</text>'
        for t in ticks
    )
    middle = (left + WIDTH - RIGHT) / 2
    return f'{texts}<text class="axis" x="{middle:.1f}" y="{HEIGHT - 4}" text-anchor="middle">{escape(name)}</text>'


def _coordinate(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _short_exponent(text: str) -> str:
    return re.sub(r"e([+-])0*(?=\d)", lambda m: "e" + m[1].replace("+", ""), text)
