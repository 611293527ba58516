"""Runs that differ only in their seed, taken together: means and intervals instead of one curve for each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trivium.report.curves import Point, Series, value_text
from trivium.report.record import Record, series_of

GRID = 150  # points of a mean curve
RESAMPLES = 400  # of a bootstrap
INTERVAL = 95.0  # percent
# What a config says that is no setting of what is trained.
OF_A_RUN = ("seed", "storage", "tracking", "log", "compile", "device", "threads", "launch")


@dataclass(frozen=True)
class Group:
    """Runs with the same settings.

    Attributes:
        label: what tells them from the others.
        records: of runs with different seeds, usually.
    """

    label: str
    records: tuple[Record, ...]

    @property
    def is_agent(self) -> bool:
        return bool(self.records[0].config.get("agent"))


def grouped(records: Sequence[Record]) -> list[Group]:
    """Runs by their settings, in the order of their first one; the labels name the experiment and the settings that
    differ between groups."""
    by_settings: dict[str, list[Record]] = {}
    for record in records:
        settings = {k: v for k, v in record.config.items() if k not in OF_A_RUN}
        by_settings.setdefault(json.dumps(settings, sort_keys=True, default=str), []).append(record)
    differing = differences([own[0] for own in by_settings.values()])
    groups = []
    for own in by_settings.values():
        values = differing.get(str(own[0].dir), {})
        shown = " ".join(_said(key, value) for key, value in values.items() if key != "name")
        label = f"{own[0].name} {shown}".strip()
        groups.append(Group(label if len(label) <= 80 else f"{label[:77]}...", tuple(own)))
    return groups


def _said(key: str, value: Any) -> str:
    """A setting in a legend: `lr=0.00137`, and a `_target_` by the last part of its name."""
    above, _, last = key.rpartition(".")
    if last == "_target_":
        return f"{above.rpartition('.')[2]}={str(value).rpartition('.')[2]}"
    return f"{last}={value_text(value) if isinstance(value, float) else value}"


def differences(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """By run folder, the settings that are not the same in all runs, `OF_A_RUN` left out but for the seed."""
    flat = {str(record.dir): dict(_leaves(record.config)) for record in records}
    keys = dict.fromkeys(key for own in flat.values() for key in own)
    left_out = tuple(name for name in OF_A_RUN if name != "seed")
    differing = [
        key
        for key in keys
        if key.partition(".")[0] not in left_out and len({json.dumps(own.get(key)) for own in flat.values()}) > 1
    ]
    return {dir: {key: own[key] for key in differing if key in own} for dir, own in flat.items()}


def _leaves(node: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(node, dict) or not node:
        return [(prefix, node)] if isinstance(node, str | int | float | bool | None) else [(prefix, str(node))]
    return [leaf for key, value in node.items() for leaf in _leaves(value, f"{prefix}.{key}" if prefix else str(key))]


def curve_of(group: Group, metric: str) -> Series | None:
    """The curve of a group: one run's own, or the centre of several with an interval, where all of them are known."""
    curves = [series_of(record.rows, metric) for record in group.records]
    known = [[(x, y) for x, y in points if y is not None] for points in curves]
    known = [points for points in known if points]
    if not known:
        return None
    if len(known) == 1:
        return Series(group.label, [(x, y) for x, y in curves[0]] if len(group.records) == 1 else list(known[0]))
    low, high = max(points[0][0] for points in known), min(points[-1][0] for points in known)
    if low > high:
        return None
    steps = np.unique(np.linspace(low, high, GRID).round(6))
    values_RN = np.stack([np.interp(steps, [x for x, _ in points], [y for _, y in points]) for points in known])
    centre_N, ends_2N = interval(values_RN, interquartile=group.is_agent)
    points: list[Point] = [(float(x), float(y)) for x, y in zip(steps, centre_N, strict=True)]
    band = [(float(x), float(a), float(b)) for x, a, b in zip(steps, *ends_2N, strict=True)]
    return Series(group.label, points, band)


def interval(values_RN: np.ndarray, *, interquartile: bool) -> tuple[np.ndarray, np.ndarray]:
    """The centre of R runs and a 95 % bootstrap interval of it.

    Args:
        values_RN: float [R, N], R >= 1.
        interquartile: the centre is the mean of the middle half of the runs, as reinforcement learning reports it
            (arXiv:2108.13264); otherwise the mean.

    Returns:
        float [N], and float [2, N], the lower and the upper ends. Of the same values the same.
    """
    runs = len(values_RN)

    def centre(values_KRN: np.ndarray) -> np.ndarray:
        if interquartile and runs >= 4:
            cut = runs // 4
            values_KRN = np.sort(values_KRN, axis=1)[:, cut : runs - cut]
        mean: np.ndarray = values_KRN.mean(axis=1)
        return mean

    drawn = np.random.default_rng(0).integers(runs, size=(RESAMPLES, runs))
    tail = (100 - INTERVAL) / 2
    return centre(values_RN[None])[0], np.percentile(centre(values_RN[drawn]), [tail, 100 - tail], axis=0)
