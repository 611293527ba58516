"""What a search has found, as pictures: the scores trial by trial, the settings and what they came to, the importance
of each key, and the Pareto front of two objectives."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from trivium.boundary import untrusted
from trivium.boundary.credentials import mask
from trivium.report.curves import (
    BOTTOM,
    CHARACTER,
    HEIGHT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    number,
    path,
    tick_text,
    value_axis,
    value_text,
    x_ticks,
    y_grid,
)

RESULTS = "results.json"  # of a search, see `trivium.search.results`
MOST_TRIALS = 500  # drawn
LOG_FROM = 30  # times the smallest value: an axis of settings whose largest is more has a logarithmic scale
WIDE = 840  # of the view box of the parallel axes
TRIAL: untrusted.Shape = {
    "values": untrusted.by_name(untrusted.text),
    "scores": untrusted.list_of(untrusted.finite),
    "began": untrusted.finite,
    "name": untrusted.text,
}
SHAPE: untrusted.Shape = {
    "metrics": untrusted.list_of(untrusted.text),
    "modes": untrusted.list_of(untrusted.text),
    "trials": list,
    "front": untrusted.list_of(untrusted.text),
    "importance": untrusted.by_name(untrusted.finite),
}

STYLE = """
.mark{fill:var(--c)}.soft-mark{fill:var(--c);fill-opacity:.45}
.way{fill:none;stroke-width:1.3;stroke-opacity:.75}
.wide{max-width:none;grid-column:1/-1}.wide svg{min-width:560px}.scrolls{overflow-x:auto}
.wide svg text{paint-order:stroke;stroke:var(--page);stroke-width:3px;opacity:1}
.bar{fill:var(--eval);fill-opacity:.8}
"""


def search_section(dir: Path) -> str:
    """The pictures of a search that has ended, HTML; empty if there is none in the folder, or what is there is
    damaged."""
    with contextlib.suppress(OSError, untrusted.Refused):
        found = untrusted.read_json(dir / RESULTS)
        untrusted.require(found, SHAPE)
        trials = [trial for trial in found["trials"] if _is_scored(trial, len(found["metrics"]))][:MOST_TRIALS]
        if trials and len(found["metrics"]) == len(found["modes"]) > 0:
            heading = f"<h2>Search: {escape(mask('/'.join(dir.absolute().parts[-2:])))}</h2>"
            parts = [
                _progress(found, trials),
                _importance(found["importance"]),
                _front(found, trials),
                _parallel(found, trials),
            ]
            return f"{heading}<div class=panels>{''.join(parts)}</div>"
    return ""


def _is_scored(trial: Any, number_of_scores: int) -> bool:
    try:
        untrusted.require(trial, dict)
        untrusted.require(trial, TRIAL)
    except untrusted.Refused:
        return False
    return len(trial["scores"]) == number_of_scores


def _progress(found: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> str:
    """The first objective of each trial in the order in which they began, and the best so far."""
    better = max if found["modes"][0] == "max" else min
    scores = [float(trial["scores"][0]) for trial in sorted(trials, key=lambda trial: float(trial["began"]))]
    best = [better(scores[: i + 1]) for i in range(len(scores))]
    axis = Axis(0.5, len(scores) + 0.5)
    steps = [(x, y) for i, y in enumerate(best) for x in (i + 0.5, i + 1.5)]
    points = [(float(i), score) for i, score in enumerate(scores, 1)]
    legend = (
        f'<span class="key train">trial</span><span class="key eval">best so far <b>{value_text(best[-1])}</b></span>'
    )
    return _plot(f"{found['metrics'][0]} by trial", legend, axis, "trials", points, [], steps)


def _front(found: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> str:
    """Two objectives against each other, with the Pareto front."""
    if len(found["metrics"]) < 2:
        return ""
    front = set(found["front"])
    best, others = (
        [(float(t["scores"][0]), float(t["scores"][1])) for t in trials if (t["name"] in front) == inside]
        for inside in (True, False)
    )
    axis = value_axis([x for x, _ in (*best, *others)])
    legend = '<span class="key eval">Pareto front</span><span class="key train">other trials</span>'
    return _plot(
        f"{found['metrics'][1]} against {found['metrics'][0]}", legend, axis, found["metrics"][0], others, best, []
    )


def _plot(
    title: str,
    legend: str,
    x_axis: Axis,
    x_name: str,
    dots: Sequence[tuple[float, float]],
    marked: Sequence[tuple[float, float]],
    line: Sequence[tuple[float, float]],
) -> str:
    """Dots, those that are marked, and a line, in one panel."""
    y_axis = value_axis([y for _, y in (*dots, *marked, *line)])
    ticks = y_axis.ticks(5)
    labels = [tick_text(t, t if y_axis.log else ticks[1] - ticks[0]) for t in ticks]
    left = max(50.0, 12 + CHARACTER * max(map(len, labels)))

    def to_x(x: float) -> float:
        return left + x_axis.at(x) * (WIDTH - RIGHT - left)

    def to_y(y: float) -> float:
        return HEIGHT - BOTTOM - y_axis.at(y) * (HEIGHT - BOTTOM - TOP)

    circles = "".join(
        f'<circle class="{kind}" cx="{to_x(x):.1f}" cy="{to_y(y):.1f}" r="3"/>'
        for kind, points in (("soft-mark train", dots), ("mark eval", marked))
        for x, y in points
    )
    drawn = f'<path class="line eval" d="{path([(to_x(x), to_y(y)) for x, y in line])}"/>' if line else ""
    grid = y_grid([(to_y(t), text) for t, text in zip(ticks, labels, strict=True)], left)
    return (
        f"<figure class=panel><figcaption><b>{escape(title)}</b>{legend}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{grid}{x_ticks(x_axis, to_x, x_name, left)}{circles}{drawn}</svg></figure>"
    )


def _importance(shares: Mapping[str, float]) -> str:
    """A bar for each key."""
    if not shares:
        return ""
    ordered = sorted(shares.items(), key=lambda item: -item[1])[:8]
    left, step = min(200.0, 12 + CHARACTER * max(len(key) for key, _ in ordered)), (HEIGHT - 16) / max(4, len(ordered))
    bars = []
    for i, (key, share) in enumerate(ordered):
        width, y = max(0.0, min(1.0, share)) * (WIDTH - left - 52), 8 + i * step
        bars.append(
            f'<text x="{left - 8:.1f}" y="{y + step / 2 + 3:.1f}" text-anchor="end">{escape(_cut(key))}</text>'
            f'<rect class="bar" x="{left:.1f}" y="{y + 4:.1f}" width="{width:.1f}" height="{step - 8:.1f}" rx="2"/>'
            f'<text x="{left + width + 7:.1f}" y="{y + step / 2 + 3:.1f}">{share:.0%}</text>'
        )
    return (
        "<figure class=panel><figcaption><b>Importance</b><span>of each key for the score</span></figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="importance of each key">{"".join(bars)}</svg>'
        "</figure>"
    )


def _parallel(found: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> str:
    """An axis for each key and one for the score; each trial is a way across them, the better the bluer."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial["values"]))[:10]
    scores = [float(trial["scores"][0]) for trial in trials]
    columns: list[tuple[str, list[float | None], list[tuple[float, str]]]] = []
    for key in keys:
        columns.append((key, *_positions([trial["values"].get(key) for trial in trials])))
    columns.append((found["metrics"][0], *_positions([repr(score) for score in scores])))
    height, top, bottom = 250, 34, 18
    xs = [70 + i * (WIDE - 150) / max(1, len(columns) - 1) for i in range(len(columns))]

    def to_y(share: float) -> float:
        return height - bottom - share * (height - bottom - top)

    worst, best = (min(scores), max(scores)) if found["modes"][0] == "max" else (max(scores), min(scores))
    ways = []
    for i in sorted(range(len(trials)), key=lambda i: abs(scores[i] - best), reverse=True):
        goodness = 1.0 if best == worst else (scores[i] - worst) / (best - worst)
        points = [(x, positions[i]) for x, (_, positions, _) in zip(xs, columns, strict=True)]
        line = path([(x, None if share is None else to_y(share)) for x, share in points])
        colour = f"color-mix(in srgb,var(--eval) {100 * goodness:.0f}%,var(--line))"
        ways.append(f'<path class="way" style="stroke:{colour}" d="{line}"/>')
    axes = []
    for x, (name, _, ticks) in zip(xs, columns, strict=True):
        axes.append(f'<path class="grid" d="M{x:.1f} {top}V{height - bottom}"/>')
        axes.append(f'<text x="{x:.1f}" y="16" text-anchor="middle">{escape(_cut(mask(name)))}</text>')
        axes += [
            f'<text x="{x + 5:.1f}" y="{to_y(share) + 3.5:.1f}">{escape(_cut(mask(text), 14))}</text>'
            for share, text in ticks
        ]
    return (
        "<figure class='panel wide'><figcaption><b>Settings</b><span>each line is a trial, the better the bluer</span>"
        f'</figcaption><div class=scrolls><svg viewBox="0 0 {WIDE} {height}" role="img" '
        f'aria-label="settings and scores of all trials">{"".join(ways)}{"".join(axes)}</svg></div></figure>'
    )


def _positions(texts: Sequence[str | None]) -> tuple[list[float | None], list[tuple[float, str]]]:
    """Where each value lies on its axis, in [0, 1], None for none; and the labels of the axis, each with its place."""
    numbers = [None if text is None else number(_as_float(text)) for text in texts]
    known = [value for value in numbers if value is not None]
    if known and len(known) == sum(text is not None for text in texts) and min(known) < max(known):
        axis = Axis(min(known), max(known), log=min(known) > 0 and max(known) > LOG_FROM * min(known))
        middle = math.sqrt(axis.low * axis.high) if axis.log else (axis.low + axis.high) / 2
        ticks = [(axis.at(value), value_text(value)) for value in (axis.low, middle, axis.high)]
        return [None if value is None else axis.at(value) for value in numbers], ticks
    names = list(dict.fromkeys(text for text in texts if text is not None))
    at = {name: (i + 0.5) / len(names) for i, name in enumerate(names)}
    return [None if text is None else at[text] for text in texts], [(share, name) for name, share in at.items()]


def _as_float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _cut(text: str, most: int = 26) -> str:
    return text if len(text) <= most else f"…{text[-most + 1 :]}"
